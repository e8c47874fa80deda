"""Algorithms by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from fedjax_face import options
from fedjax_face.algorithms import sections, translate_split
from fedjax_face.algorithms.centralized import centralized
from fedjax_face.algorithms.composed import composed
from fedjax_face.algorithms.dp_fedemb import dp_fedemb
from fedjax_face.algorithms.dp_hyperface import dp_hyperface, face_detector, hyperface
from fedjax_face.algorithms.fedavg import fedavg
from fedjax_face.algorithms.fedaws import fedaws
from fedjax_face.algorithms.fedgc import fedgc
from fedjax_face.algorithms.fedpe import fedpe
from fedjax_face.algorithms.local_only import local_only
from fedjax_face.algorithms.parts import Ingredients, Progress, Watch
from fedjax_face.algorithms.privacyface import privacyface
from fedjax_face.algorithms.setting import setting_of
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.method import Method, bind

ALGORITHMS: dict[str, Callable[[Ingredients], Algorithm]] = {
    "centralized": centralized,
    "composed": composed,
    "dp_fedemb": dp_fedemb,
    "dp_hyperface": dp_hyperface,
    "face_detector": face_detector,
    "fedavg": fedavg,
    "fedaws": fedaws,
    "fedgc": fedgc,
    "fedpe": fedpe,
    "hyperface": hyperface,
    "local_only": local_only,
    "privacyface": privacyface,
}

SECTIONS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "dp_activations": translate_split.section,
}
"""Method -> what a flat config says of it, as a section."""


def build(config: Any, sources: Any, mesh: Mesh, initial_backbone: Any = None,
          progress: Progress | None = None, watch: Watch | None = None) -> Algorithm:
  """The algorithm that `config.algorithm` names, on the training set of `sources`.

  Args:
    config: a whole config.
    sources: the data sets of the run: `sources.Sources`, or `region_sources.RegionSources` for a
      network of several tasks.
    mesh: devices, axis `clients`.
    initial_backbone: parameters to start from (public pre-training), or None.
    progress: called with (noise multiplier, epsilon) while noise is calibrated.
    watch: of an audit (`fedjax_face.attacks.one_run`), whose canaries join the training set.

  Raises:
    ValueError: an unknown name, or a config that the algorithm refuses.
  """
  name = config.algorithm
  if name not in ALGORITHMS and name not in SECTIONS:
    raise ValueError(f"algorithm {name!r} is not one of "
                     f"{', '.join(sorted((*ALGORITHMS, *SECTIONS)))}")
  given = Ingredients(
      config, sources.train, mesh, initial_backbone, sources.public, progress, watch)
  if name in ALGORITHMS:
    return ALGORITHMS[name](given)
  with sections.keys_of_config():
    method = options.build(Method, SECTIONS[name](config), "method")
    return bind(method, given.train, setting_of(given))
