"""From a config to the setting of a run, until configs are the arguments of `fit`."""

from __future__ import annotations

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.method import Budget, Setting


def setting_of(given: Ingredients) -> Setting:
  """What the config of a run says that is no part of its method."""
  config = given.config
  pretrain = config.get("pretrain") or {}
  return Setting(
      mesh=given.mesh,
      rounds=config.rounds,
      seed=config.seed,
      privacy=Budget(config.privacy.epsilon, config.privacy.delta,
                     config.privacy.get("unit", "person")),
      start=given.backbone,
      start_is_public=bool(pretrain.get("public", False)),
      public=given.public,
      clients_per_chunk=config.training.get("clients_per_chunk", 1),
      progress=given.progress,
      watch=given.watch,
      method=config.algorithm)
