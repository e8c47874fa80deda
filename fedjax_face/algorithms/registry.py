"""Algorithms by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from fedjax_face import method, options
from fedjax_face.algorithms import sections, translate_hyperface
from fedjax_face.algorithms.centralized import centralized
from fedjax_face.algorithms.composed import composed
from fedjax_face.algorithms.dp_activations import dp_activations
from fedjax_face.algorithms.dp_fedemb import dp_fedemb
from fedjax_face.algorithms.fedavg import fedavg
from fedjax_face.algorithms.fedaws import fedaws
from fedjax_face.algorithms.fedgc import fedgc
from fedjax_face.algorithms.fedpe import fedpe
from fedjax_face.algorithms.local_only import local_only
from fedjax_face.algorithms.parts import Ingredients, Progress, Watch
from fedjax_face.algorithms.privacyface import privacyface
from fedjax_face.algorithms.setting import setting_of
from fedjax_face.federated.algorithm import Algorithm


def _method(section: Callable[[Any], dict[str, Any]]) -> Callable[[Ingredients], Algorithm]:
  """A method whose section `section` translates from a config, bound to what is given."""
  def bound(given: Ingredients) -> Algorithm:
    with sections.keys_of_config():
      made = options.build(method.Method, section(given.config), "method")
      return method.bind(made, given.train, setting_of(given))

  return bound


ALGORITHMS: dict[str, Callable[[Ingredients], Algorithm]] = {
    "centralized": centralized,
    "composed": composed,
    "dp_activations": dp_activations,
    "dp_fedemb": dp_fedemb,
    "dp_hyperface": _method(translate_hyperface.section),
    "face_detector": _method(translate_hyperface.section),
    "fedavg": fedavg,
    "fedaws": fedaws,
    "fedgc": fedgc,
    "fedpe": fedpe,
    "hyperface": _method(translate_hyperface.section),
    "local_only": local_only,
    "privacyface": privacyface,
}


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
  if name not in ALGORITHMS:
    raise ValueError(f"algorithm {name!r} is not one of {', '.join(sorted(ALGORITHMS))}")
  return ALGORITHMS[name](Ingredients(
      config, sources.train, mesh, initial_backbone, sources.public, progress, watch))
