"""The detector of a run that a folder holds, without its private photographs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data.regions.sources import RegionSet
from fedjax_face.runs import checkpoint, disk, inputs, stage
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.face_tasks import Detector, detector_of, mean_landmarks
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.run import recorded


def load_detector(workdir: str | os.PathLike,
                  given: Mapping[str, Any] | None = None) -> Detector:
  """The detector of a run's newest checkpoint.

  Of the run's data it reads the public set alone, once: where landmarks lie in a face's box is then
  kept in the folder, mean_landmarks.npy. Frozen layers need the public set every time.

  Args:
    workdir: of the run.
    given: path in config.json -> value, for values that were made by hand ("method.network").

  Raises:
    FileNotFoundError: no run, no checkpoint yet, or frozen layers are not beside it.
    ValueError: a run of a method without landmarks and boxes.
  """
  workdir = pathlib.Path(workdir)
  asked = Asked.of_config(recorded(workdir), given)
  name = asked.record["method"]["name"]
  if options.made(asked.method).data != "face_tasks":
    raise ValueError(f"{workdir}: {name} finds no faces; expected a run of dp_hyperface")
  inputs.require_recorded(workdir)
  known, mesh = inputs.recorded(workdir).train, clients_mesh(jax.devices()[:1])
  public = functools.cache(lambda: asked.data.public)
  start = None
  if frozen := options.made(options.argument(asked.method, "network")).frozen:
    start = _trained_before(asked, mesh, workdir, public, frozen)
  priced = asked.priced()
  algorithm = methods.bind(priced.method, known, priced.setting(mesh, None, start))
  found = checkpoint.restore(workdir / "checkpoints",
                             jax.eval_shape(algorithm.init, jax.random.key(0)), print)
  if found is None:
    raise FileNotFoundError(f"{workdir}/checkpoints: no checkpoint yet")
  assert algorithm.predict is not None
  state, predict = jax.tree.map(jax.numpy.asarray, found.state), jax.jit(algorithm.predict)
  return detector_of(asked.evaluation.section(), lambda images: predict(state, images), known,
                   _kept_landmarks(asked, known.frame, workdir, public))


def _kept_landmarks(asked: Asked, frame: str, workdir: pathlib.Path,
                    public: Callable[[], RegionSet | None]) -> np.ndarray | None:
  """`mean_landmarks` of the public set of the run in a folder; None where it has none."""
  kept = workdir / "mean_landmarks.npy"
  with contextlib.suppress(OSError, ValueError, EOFError):  # absent or cut off
    return np.load(kept)
  if asked.record["data"].get("public", ...) is None:
    return None
  print("reading the public set for where landmarks lie in a face's box; this happens once")
  read = public()
  if read is None:
    return None
  found = mean_landmarks(read, frame)
  with contextlib.suppress(OSError):  # a folder that cannot be written still detects
    packed = io.BytesIO()
    np.save(packed, found)
    disk.write(kept, packed.getvalue())
  return found


def _trained_before(asked: Asked, mesh: Any, workdir: pathlib.Path,
                    public: Callable[[], RegionSet | None], frozen: Any) -> Any:
  """The pre-trained network that a run's frozen layers are of."""
  if not (workdir / stage.FOLDER).is_dir():
    raise FileNotFoundError(f"{workdir / stage.FOLDER}: no such folder; it holds the frozen layers "
                            f"{', '.join(frozen)}")
  found = public()
  return stage.carried_out(asked.stage(found, mesh), found, mesh, workdir, print)
