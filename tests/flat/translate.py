"""From the flat sections of a config to the call of a federated method.

Until configs are written as calls. What is one part's section in the call is spread over several
sections of a config; `sections` has the way back, for errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedjax_face import options
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.local import Drift
from fedjax_face.federated.mechanisms import Mechanism
from fedjax_face.federated.sampling import Sampling
from fedjax_face.federated.silos import Partition
from fedjax_face.losses.corrections import Correction
from fedjax_face.models import registry as models
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head
from fedjax_face.privacy.calibration import require_exactly_one
from tests.flat import sections
from tests.flat.hparams import PATHS, nested

Section = dict[str, Any]


def federated_section(config: Any) -> Section:
  """The complete call of dp_fedemb, fedavg, fedpe, fedgc, fedaws, privacyface or composed.

  Raises:
    ValueError: a name or a number that is refused, by the config's key.
  """
  name = config.algorithm
  _check_scalars(config)
  said: Section = {
      "name": name, "backbone": backbone(config.model), "head": head(config),
      "clients": clients(config), "local": local(config), "aggregate": aggregate(config),
      "server": server(config)}
  if name == "fedavg":
    _require(config, "cohort.classes", "all", "has one head for all clients")
    _require(config, "model.head_init", "shared_frame", "has one head, which is no client's own")
    return said
  said["start_head"] = config.model.head_init
  if name == "dp_fedemb":
    return said | {"classes": config.cohort.classes}
  if not config.get("silos"):
    raise ValueError(f"algorithm={name} needs a silos section, which says who holds whom")
  _require(config, "cohort.classes", "own", "gives every silo a head for its own classes")
  if said["start_head"] not in _STARTS:
    raise ValueError(f"model.head_init {said['start_head']!r} is not one of {', '.join(_STARTS)}")
  if said["start_head"] == "prototypes":
    said["start_head"] = "public_prototypes"
  if name in ("fedgc", "composed"):
    said["correction"] = correction(config, "gradient_correction")
  if name == "fedaws":
    said["correction"] = correction(config, "spreadout")
  if name in ("privacyface", "composed"):
    said["exchange"] = exchange(config)
  return said


def alone_section(config: Any) -> Section:
  """The complete call of centralized or local_only."""
  steps = local(config) | {"drift": "none", "stages": "joint"}
  said = {"name": config.algorithm, "backbone": backbone(config.model), "head": head(config),
          "local": {k: v for k, v in steps.items() if k != "epochs"},
          "steps": config.cohort.steps}
  value = config.hparams.get("noise_multiplier")
  if value is not None:
    raise ValueError(f"hparams.noise_multiplier={value} cannot be had with algorithm="
                     f"{config.algorithm}, which adds no noise: set "
                     "--config.hparams.noise_multiplier=None")
  if config.algorithm == "centralized":
    return said
  if not config.get("silos"):
    raise ValueError("algorithm=local_only needs a silos section, which says who holds whom")
  return said | {"clients": clients(config), "only_silo": config.cohort.only_silo}


SECTIONS: Mapping[str, Callable[[Any], Section]] = {
    **dict.fromkeys(("dp_fedemb", "fedavg", "fedpe", "fedgc", "fedaws", "privacyface", "composed"),
                    federated_section),
    "centralized": alone_section, "local_only": alone_section}


_STARTS = ("local_prototypes", "prototypes", "shared_frame")  # of the silos' class embeddings
_PARTS = ("local", "head", "CLIPS", "server", "exchange", "correction")


def _check_scalars(config: Any) -> None:
  """Refuses a scalar that no federated method has, such as those of steps of DP-SGD."""
  for key in config.hparams:
    path = PATHS.get(key, "local")  # an unknown one is refused with the nearest known
    if path.partition(".")[0] not in _PARTS and config.hparams[key] is not None:
      raise ValueError(f"hparams.{key}: algorithm={config.algorithm} has no {path}; leave it out")


def _require(config: Any, key: str, accepted: str, why: str) -> None:
  section, name = key.split(".")
  if config[section][name] != accepted:
    raise ValueError(f"{key}={config[section][name]!r}: algorithm={config.algorithm} {why}, so "
                     f"only {accepted!r} is accepted")


def backbone(options_: Any) -> Any:
  """`model.backbone` with its embedding dimensions and options, as a section or a module."""
  given = dict(options_.get("backbone_options", {}))
  module = models.backbone(options_.backbone, options_.embedding_dim, **given)
  known = options.kind_of(Backbone)
  assert known is not None
  if options_.backbone not in known.names() and ":" not in options_.backbone:
    return module
  return {"name": options_.backbone, "embedding_dim": options_.embedding_dim, **given}


def head(config: Any) -> Section:
  """`model.head` with its scalars."""
  return sections.section(Head, "head", config.model.head, config.hparams)


def clients(config: Any) -> Section:
  """`silos` with its part of `cohort`, or virtual clients."""
  cohort = config.cohort
  if config.get("silos"):
    if cohort.get("sampling_probability") is not None:
      raise ValueError(f"cohort.sampling_probability={cohort.sampling_probability} has no meaning "
                       "with silos, of which cohort.silos_per_round take part: leave it out")
    by = config.silos.get("by")
    name = {"attribute": "by_attribute", "file": "by_file"}.get(by, by)
    for key in config.silos:
      if key not in _SILOS:
        raise ValueError(f"silos.{key} is not a key; expected some of {', '.join(_SILOS)}")
    return {"name": "silos", "per_round": cohort.silos_per_round,
            "max_examples": cohort.max_examples,
            "partition": sections.section(Partition, "clients.partition", name, config.silos)}
  values = {**cohort, "probability": cohort.sampling_probability}
  sampling = sections.section(Sampling, "clients.sampling", cohort.sampling, values)
  if cohort.sampling_probability is not None and "probability" not in sampling:
    raise ValueError(
        f"cohort.sampling_probability={cohort.sampling_probability} has no meaning with "
        f"cohort.sampling={cohort.sampling}, where so many users take part in a round: set "
        "--config.cohort.sampling_probability=None, or choose poisson or cyclic_poisson")
  return {"name": "virtual_clients", "per_round": cohort.virtual_clients,
          "users_per_client": cohort.users_per_client, "sampling": sampling,
          "max_examples": cohort.max_examples,
          "max_examples_per_user": cohort.max_examples_per_user}


_SILOS = ("by", "num_silos", "concentration", "attribute", "path")


def local(config: Any) -> Section:
  """`local` with its scalars, and what of `cohort` and `model` is its own."""
  own = nested(config.hparams).get("local", {})
  pull, drift = own.pop("drift", {}), config.local.get("drift", "none")
  sections.built(Drift, "local.drift", "fedprox", pull)  # refused whether it is used or not
  return {"name": "local_steps", **config.local, **own,
          "epochs": config.cohort.get("epochs", 1), "batch_size": config.cohort.batch_size,
          "flip": config.model.get("flip", False),
          "drift": sections.section(Drift, "local.drift", drift, pull)}


def aggregator(config: Any) -> Section:
  """`privacy.aggregator` with what it takes of `privacy` and its scalars."""
  privacy, own = config.privacy, nested(config.hparams)["aggregate"]
  return sections.section(Aggregate, "aggregate", privacy.aggregator, {
      **privacy, **own, "strategy": privacy.get("correlated")})


def aggregate(config: Any) -> Section:
  """The same, where nothing is said that it does not take."""
  privacy, own, said = config.privacy, nested(config.hparams)["aggregate"], aggregator(config)
  if not own["clip_norm"] > 0:
    raise ValueError(f"hparams.clip_norm={own['clip_norm']}: expected a number above 0")
  if "noise_multiplier" in own and "noise_multiplier" not in said:
    raise ValueError(f"hparams.noise_multiplier={own['noise_multiplier']} cannot be had with "
                     f"privacy.aggregator={privacy.aggregator}, which adds no noise: set "
                     "--config.hparams.noise_multiplier=None")
  return said


def server(config: Any) -> Section:
  """The server's momentum, whose scalars are two of `hparams`."""
  return {"name": "momentum", **nested(config.hparams)["server"]}


def correction(config: Any, name: str) -> Section:
  """`correction` with its scalars."""
  values = {**config.correction, **nested(config.hparams).get("correction", {})}
  return sections.section(Correction, "correction", name, values)


def exchange(config: Any) -> Section:
  """`exchange` with its scalars."""
  asked = config.get("exchange")
  if not asked:
    raise ValueError(f"algorithm={config.algorithm} needs an exchange section")
  mechanism = sections.section(Mechanism, "exchange.mechanism", asked.mechanism, asked)
  if asked.pooled and "pooled" not in mechanism:
    raise ValueError(f"exchange.pooled: {asked.mechanism} is not a sum over people, so silos "
                     "cannot add theirs up; expected client_mean, anchor_table or dp_lloyd")
  own = nested(config.hparams)["exchange"]
  loss = own.pop("loss")
  if asked.epsilon is not None and "noise_multiplier" in own:
    require_exactly_one({"exchange.epsilon": asked.epsilon,
                         "hparams.cluster_noise_multiplier": own["noise_multiplier"]})
  return {"name": "clusters", "mechanism": mechanism, "rows": asked.rows, "every": asked.every,
          "projection": asked.projection, "public_iterations": asked.public_iterations,
          "epsilon": asked.epsilon, **own,
          "loss": {"name": "consensus_aware", "form": asked.loss, **loss}}
