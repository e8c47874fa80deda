"""From the flat configs of HyperFace to the section of its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedjax_face import options
from fedjax_face.models import registry
from fedjax_face.models.task_networks import Network
from tests.flat import hparams

_CLIPS = ("joint", "grouped", "per_task", "stacked")
_TASKS = {"fixed": {"weights": "fixed_weights"}, "uncertainty": {"scale": "weight_scale"}}
_OPTIMIZERS = ("sgd", "momentum", "adam")


def section(config: Any) -> dict[str, Any]:
  """The section `method` of a config whose algorithm is dp_hyperface, hyperface or face_detector.

  Raises:
    ValueError: a name or a key of `hparams` that is not known, or noise where none is added.
  """
  name, cohort = config.algorithm, config.cohort
  scalars = hparams.nested(config.hparams, clips="gradient")
  if name == "dp_hyperface":
    summed = gradient(config.privacy, cohort, scalars["gradient"])
  else:
    _refuse_noise(config)
    summed = {"name": "unclipped", "views": cohort.views, "units_at_once": cohort.units_at_once}
  return {
      "name": name,
      "network": _network(config.model),
      "tasks": _tasks(config.model, name),
      "units": {"name": "poisson_units", "unit": cohort.unit, "batch_size": cohort.batch_size,
                "capacity": cohort.capacity, "regions_per_unit": cohort.regions_per_unit,
                "sampling_probability": cohort.get("sampling_probability")},
      "gradient": summed,
      "optimizer": _optimizer(config.model.optimizer, scalars["optimizer"]),
  }


def gradient(privacy: Any, cohort: Mapping[str, Any], scalars: Mapping[str, Any]) -> dict[str, Any]:
  """The section of `privacy.clip`; of `cohort` and the scalars what there is of them.

  Raises:
    ValueError: another name.
  """
  _require_known("privacy.clip", privacy.clip, _CLIPS)
  share = {"weights_share": privacy.weights_share} if privacy.clip == "grouped" else {}
  sizes = {key: cohort[key] for key in ("views", "units_at_once") if key in cohort}
  return {"name": privacy.clip, "form": privacy.form, **share, **sizes, **scalars}


def _network(model: Any) -> Any:
  """A section, or the network itself where no factory has its name."""
  name, own = model.network, dict(model.get("network_options", {}))
  kind = options.kind_of(Network)
  if kind is not None and (name in kind.names() or ":" in name):
    return {"name": name, "frozen": tuple(model.frozen), **own}
  return registry.network(name, tuple(model.frozen), **own)


def _tasks(model: Any, algorithm: str) -> dict[str, Any]:
  if algorithm == "face_detector":
    return {"name": "detection", "flip": model.flip}
  name = model.task_weights
  _require_known("model.task_weights", name, _TASKS)
  return {"name": name, "flip": model.flip,
          **{option: model[key] for option, key in _TASKS[name].items()}}


def _optimizer(name: str, scalars: Mapping[str, Any]) -> dict[str, Any]:
  _require_known("model.optimizer", name, _OPTIMIZERS)
  own = {key: value for key, value in scalars["of"].items()
         if key != "momentum" or name == "momentum"}
  return {"name": "averaged", "decay": scalars["decay"], "of": {"name": name, **own}}


def _refuse_noise(config: Any) -> None:
  for key, value in (("privacy.epsilon", config.privacy.epsilon),
                     ("hparams.noise_multiplier", config.hparams.noise_multiplier)):
    if value is not None:
      raise ValueError(f"{key}={value} cannot be had with algorithm={config.algorithm}, which "
                       f"adds no noise: set --config.{key}=None")


def _require_known(key: str, name: Any, known: Any) -> None:
  if name not in known:
    raise ValueError(f"{key} {name!r} is not one of {', '.join(known)}")
