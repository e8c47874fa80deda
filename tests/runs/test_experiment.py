"""Pre-training: done once for all runs that ask for the same, kept by each of them."""

import dataclasses
import functools
import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from fedjax_face.data import sources as data_sources
from fedjax_face.data.readers import decode
from fedjax_face.runs import experiment
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.mesh import clients_mesh
from tests.experiments import tiny_call


@functools.cache
def sources():
  return asked().sources()


def asked(**values):
  return Asked.of_config(changed(tiny_call.get_config("pretrain"), values))


def alone(**values):
  """Without pre-training."""
  config = tiny_call.get_config("pretrain")
  del config["start"]
  return Asked.of_config(changed(config, values))


class Runs:
  """Runs of one comparison: what they start from, and what they said."""

  def __init__(self, folder):
    self.folder, self.stages = folder, folder / "public_stages"

  def backbone(self, name, shared=True, given=None, **changes):
    self.said, public = [], (given or sources()).public
    mesh = clients_mesh(jax.devices()[:1])
    params = experiment.carried_out(
        asked(**changes).stage(public, mesh), public, mesh, self.folder / name, self.said.append,
        self.stages if shared else None)
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))

  @property
  def trained(self):
    return any(line.startswith("pre-training on") for line in self.said)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  runs = Runs(tmp_path_factory.mktemp("runs"))
  first = runs.backbone("first")
  assert runs.trained
  return runs, first


def test_settings_that_differ_after_pretraining_share_it(played):
  runs, first = played
  assert runs.backbone("second", **{"method.aggregate.noise_multiplier": 5.0, "rounds": 3}) == first
  assert not runs.trained
  assert (runs.folder / "second/pretrained/00000002").is_dir()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"start.rounds": 3}], ids=str)
def test_another_pretraining_is_another_one(played, changes):
  runs, first = played
  before = set(runs.stages.iterdir())
  assert runs.backbone(f"other {changes}", **changes) != first and runs.trained
  assert before < set(runs.stages.iterdir())
  shutil.rmtree(runs.folder / "first")
  assert runs.backbone("first") == first and not runs.trained


def test_other_public_images_under_the_same_config_are_another_one(played):
  runs, first = played
  inverted = dataclasses.replace(sources().public, images=255 - sources().public.images)
  assert runs.backbone("inverted", given=sources()._replace(public=inverted)) != first
  assert runs.trained


def test_what_was_trained_on_other_images_is_not_taken_from_a_folder(tmp_path):
  """As where a call was refused after pre-training, before its data were recorded."""
  runs = Runs(tmp_path)
  first = runs.backbone("one", shared=False)
  inverted = dataclasses.replace(sources().public, images=255 - sources().public.images)
  assert runs.backbone("one", shared=False, given=sources()._replace(public=inverted)) != first
  assert runs.trained


def test_a_run_keeps_its_own_copy_and_only_that_of_its_config(played):
  runs, first = played
  shutil.copytree(runs.folder / "first", runs.folder / "moved")
  assert runs.backbone("moved", shared=False) == first and not runs.trained
  assert runs.backbone("moved", shared=False, seed=2) != first and runs.trained


def test_a_damaged_stage_is_passed_over(tmp_path):
  runs = Runs(tmp_path)
  first = runs.backbone("first")
  (stage,) = runs.stages.iterdir()
  (stage / "00000002/meta.json").write_text("{")
  assert runs.backbone("first") == first and not runs.said
  assert runs.backbone("second") == first and runs.trained
  assert runs.said[0].startswith("passed over: no readable checkpoint")


def test_who_comes_second_leaves_the_stage_of_the_first(played, tmp_path):
  runs, _ = played
  (stage, *_) = runs.stages.iterdir()
  shutil.copytree(stage, tmp_path / "stage")
  own = experiment.checkpoint.Checkpoint(1, {"x": np.ones(2)}, {}, "", "")
  said = []
  experiment._share(tmp_path / "stage", own, said.append)
  assert not said and [path.name for path in tmp_path.iterdir()] == ["stage"]
  assert json.loads((tmp_path / "stage" / next((tmp_path / "stage").iterdir()).name
                     / "meta.json").read_text())["releases"] == "pretraining"


def test_the_people_who_evaluate_are_named_as_not_protected():
  made = sources()
  said = alone().experiment(sources=made).ledger.not_covered
  people = len(set(made.evaluation.person.tolist()))
  named = f"is evaluated on {people} people of {made.evaluation.name} who do not train"
  assert any(named in sentence for sentence in said)
  other = made._replace(evaluates_training_people=True)
  said = alone().experiment(sources=other).ledger.not_covered
  assert not any("do not train" in sentence for sentence in said)


def test_metrics_that_a_third_party_receives_are_in_the_statement():
  said = []
  for project in ("", "faces"):
    built = alone(**{"compute.wandb": project}).experiment(sources=sources())
    said.append([s for s in built.ledger.not_covered if "Weights & Biases, a third party" in s])
  assert [len(sentences) for sentences in said] == [0, 1]


def test_files_that_were_skipped_are_said_once(monkeypatch):
  line, held = "here: skipped 1: a: not an image", sources()

  def load(section, seed):
    warnings.warn(line, decode.SkippedFiles, stacklevel=1)
    warnings.warn("another matter", stacklevel=1)
    return held._replace(notes=(line,))

  monkeypatch.setattr(data_sources, "load", load)
  said = []
  with pytest.warns(UserWarning) as warned:
    alone().experiment(None, said.append)
  assert said.count(line) == 1
  assert [str(w.message) for w in warned if w.category is UserWarning] == ["another matter"]
  assert not any(w.category is decode.SkippedFiles for w in warned)
