"""From a config to the setting of a run, until configs are the arguments of `fit`."""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.method import Budget, Progress, Setting, Watch


def setting_of(config: Any, mesh: Mesh, public: FaceDataset | None = None, start: Any = None,
               progress: Progress | None = None, watch: Watch | None = None) -> Setting:
  """What the config of a run says that is no part of its method, beside what is given.

  Args:
    config: a whole config.
    mesh: devices, axis `clients`.
    public: a set declared public, or None.
    start: parameters to start from, or None.
    progress: called with (noise multiplier, epsilon) while noise is calibrated.
    watch: of an audit; None in any run that is not one.
  """
  pretrain = config.get("pretrain") or {}
  unit = config.privacy.get("unit") or config.get("cohort", {}).get("unit") or "person"
  return Setting(
      mesh=mesh,
      rounds=config.rounds,
      seed=config.seed,
      privacy=Budget(config.privacy.epsilon, config.privacy.delta, unit),
      start=start,
      start_is_public=bool(pretrain.get("public", False)),
      public=public,
      clients_per_chunk=config.training.get("clients_per_chunk", 1),
      progress=progress,
      watch=watch,
      method=config.algorithm)
