"""Pre-training: done once for all runs that ask for the same, kept by each of them."""

import shutil

import jax
import numpy as np
import pytest

from fedjax_face.training import experiment
from fedjax_face.training.mesh import clients_mesh
from tests.experiments import tiny_config


class Runs:
  """Runs of one comparison, whose backbones are compared and whose pre-trainings are counted."""

  def __init__(self, folder):
    self.folder, self.trained = folder, 0

  def backbone(self, name, shared=True, **changes):
    config = tiny_config.get_config("pretrain")
    config.update_from_flattened_dict(changes)
    lines = []
    params = experiment.pretrained(
        config, experiment.load_sources(config), clients_mesh(jax.devices()[:1]),
        self.folder / name, lines.append, self.folder / "public_stages" if shared else None)
    self.trained += sum(line.startswith("pre-training on") for line in lines)
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(params))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
  runs = Runs(tmp_path_factory.mktemp("runs"))
  return runs, runs.backbone("first")


def test_settings_that_differ_after_pretraining_share_it(played):
  runs, first = played
  before = runs.trained
  assert runs.backbone("second", **{"hparams.noise_multiplier": 5.0, "rounds": 3}) == first
  assert runs.trained == before
  assert (runs.folder / "second/pretrained/00000002").is_dir()


@pytest.mark.parametrize("changes", [
    {"seed": 1}, {"pretrain.rounds": 3}, {"pretrain.cohort.batch_size": 4},
    {"data.public.seed": 98}], ids=str)
def test_another_pretraining_is_another_one(played, changes):
  runs, first = played
  before = runs.trained
  assert runs.backbone(f"other {changes}", **changes) != first
  assert runs.trained == before + 1


def test_a_run_keeps_its_own_copy(played):
  runs, first = played
  shutil.copytree(runs.folder / "first", runs.folder / "moved")
  before = runs.trained
  assert runs.backbone("moved", shared=False) == first
  assert runs.trained == before


def test_a_lost_copy_of_its_own_is_replaced_by_the_shared_one(played):
  runs, first = played
  assert runs.backbone("lost") == first
  shutil.rmtree(runs.folder / "lost/pretrained")
  before = runs.trained
  assert runs.backbone("lost") == first and runs.trained == before
  assert runs.backbone("lost", shared=False) == first and runs.trained == before
