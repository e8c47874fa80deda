"""Algorithms by the names that configs use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import Mesh

from fedjax_face import options
from fedjax_face.method import Method, Progress, Watch, bind
from fedjax_face.method.algorithm import Algorithm
from tests.flat import sections, translate
from tests.flat.setting import setting_of

SECTIONS: Mapping[str, Callable[[Any], dict[str, Any]]] = translate.SECTIONS
"""Method -> what a flat config says of it, as a section."""


def build(config: Any, sources: Any, mesh: Mesh, initial_backbone: Any = None,
          progress: Progress | None = None, watch: Watch | None = None) -> Algorithm:
  """The algorithm that `config.algorithm` names, on the training set of `sources`.

  Args:
    config: a whole config.
    sources: the data sets of the run: `sources.Sources`.
    mesh: devices, axis `clients`.
    initial_backbone: parameters to start from (public pre-training), or None.
    progress: called with (noise multiplier, epsilon) while noise is calibrated.
    watch: of an audit (`fedjax_face.attacks.one_run`), whose canaries join the training set.

  Raises:
    ValueError: an unknown name, or a config that the algorithm refuses.
  """
  name = config.algorithm
  if name not in SECTIONS:
    raise ValueError(f"algorithm {name!r} is not one of {', '.join(sorted(SECTIONS))}")
  with sections.keys_of_config(silos=bool(config.get("silos"))):
    method = options.build(Method, SECTIONS[name](config), "method")
    return bind(method, sources.train, setting_of(
        config, mesh, sources.public, initial_backbone, progress, watch))
