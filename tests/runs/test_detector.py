"""The detector of a finished run: without private photographs, with and without frozen layers."""

import functools
import shutil

import jax
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.runs import checkpoint, fit
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.detector import load_detector
from tests.methods import tiny_faces

PICTURE = tiny_faces.photographs(1).images[0]


def asked(**network):
  """A step after a public start, on few photographs."""
  return Asked.of_arguments({
      "method": tiny_faces.method(network=tiny_faces.tiny(**network)), "data": tiny_faces.data(),
      "start": tiny_faces.start(), "rounds": 1,
      "privacy": ff.budget(delta=1e-3, noise_seed=5),
      "evaluation": tiny_faces.evaluation(every=0, bootstrap=0, photographs=1)})


@pytest.fixture
def read(monkeypatch):
  """Seeds of the photographs that were read."""
  seeds = []

  @functools.wraps(tiny_faces.made)
  def made(**options):
    seeds.append(options["seed"])
    return tiny_faces.made(**options)

  monkeypatch.setitem(region_sources.SOURCES, "made", made)
  return seeds


@pytest.mark.parametrize("frozen", [(), ("shared",)])
def test_a_finished_run_finds_faces_without_its_private_data(tmp_path, read, capsys, frozen):
  made = fit.carried_out(asked(frozen=frozen), tmp_path, lambda line: None)
  read.clear()
  detector = load_detector(tmp_path)
  assert read == [1] and detector(PICTURE, np.random.default_rng(0))
  assert "pre-training" not in capsys.readouterr().out
  state = checkpoint.restore(tmp_path / "checkpoints", jax.eval_shape(
      made.algorithm.init, jax.random.key(0)), pytest.fail).state
  assert ("shared" in state.params["network"]) == (not frozen)
  assert "shared" in made.algorithm.start(state)
  regions = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
  jax.tree.map(np.testing.assert_array_equal, detector.predict(regions),
               jax.jit(made.algorithm.predict)(state, regions))
  kept = np.load(tmp_path / "mean_landmarks.npy")
  (tmp_path / "mean_landmarks.npy").write_bytes(b"")
  load_detector(tmp_path)
  np.testing.assert_array_equal(np.load(tmp_path / "mean_landmarks.npy"), kept)
  read.clear()
  load_detector(tmp_path)
  assert read == ([1] if frozen else [])  # frozen layers need the public set
  if frozen:
    shutil.rmtree(tmp_path / "start")
    with pytest.raises(FileNotFoundError, match="it holds the frozen layers shared"):
      load_detector(tmp_path)


def test_folders_that_are_no_such_run_are_refused(tmp_path):
  from fedjax_face.runs import config as configs
  with pytest.raises(FileNotFoundError, match="no run is kept there"):
    load_detector(tmp_path)
  configs.record(asked().record, tmp_path)
  with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
    load_detector(tmp_path)
  configs.record(Asked.of_config({"method": "dp_fedemb", "data": "synthetic_faces",
                                  "rounds": 1}).record, tmp_path)
  with pytest.raises(ValueError, match="dp_fedemb finds no faces; expected a run of dp_hyperface"):
    load_detector(tmp_path)
