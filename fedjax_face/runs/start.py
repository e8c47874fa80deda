"""What a run starts from: parameters from training on public data."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.method import Method, Setting
from fedjax_face.method.algorithm import Algorithm
from fedjax_face.options import at_least, register
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, non_private
from fedjax_face.runs import loop
from fedjax_face.runs.mesh import clients_mesh
from fedjax_face.runs.settings import Compute
from fedjax_face.runs.stage import Stage


class Start(NamedTuple):
  """A stage of training before the run.

  Attributes:
    method: a part, which trains on the public set.
    rounds: of it.
    seed: of its draws; None: that of the run.
    public: whether the set that it trains on is declared public.
  """

  method: Any
  rounds: int
  seed: int | None
  public: bool


register.kind(Start)


@register.start
def pretrain(method: Method, *, rounds: Annotated[int, at_least(1)] = 40,
             seed: Annotated[int, at_least(0)] | None = None, public: bool = True) -> Start:
  """Non-private training on the public set of the data: a run of its own, kept beside the run.

  A method that says no backbone takes that of the run. In the run's folder it is resumed like the
  run (`start/`); runs that start alike on the same images share it in one process, and wherever
  `compute(starts=FOLDER)` says.

  Args:
    method: that trains, usually `centralized()`.
    rounds: of it.
    seed: of its draws and initial state; None: that of the run.
    public: False where the set is not public: then the statement says that it is a release without
      a guarantee.
  """
  return Start(method, rounds, seed, public)


def on_network_of(start: Any, method: Any) -> Any:
  """The start, whose method takes the network of the run's method where it says none itself.

  That of face tasks is trained whole before some of its layers are frozen.
  """
  stage, of_run = options.argument(start, "method"), options.record(method).arguments
  takes = options.record(stage).factory.parameters
  for name in ("backbone", "network"):
    if name in takes and name in of_run and name not in options.said(stage):
      network = of_run[name]
      if isinstance(network, options.Part) and "frozen" in options.record(network).arguments:
        network = options.replace(network, frozen=())
      return options.replace(start, method=options.replace(stage, **{name: network}))
  return start


def stage_of(start: Any, public: Any, mesh: Mesh, seed: int, compute: Compute) -> Stage:
  """The stage, bound to the public set.

  Args:
    start: a part of kind Start.
    public: the public set of the run.
    mesh: devices.
    seed: of the run.
    compute: of the run.
  """
  chosen = options.argument(start, "method")
  own = seed if start.seed is None else start.seed
  algorithm = methods.bind(chosen, public, Setting(mesh, start.rounds, own))
  identity = json.dumps({"method": options.call(chosen), "seed": own, "rounds": start.rounds},
                        sort_keys=True)
  return Stage(algorithm, start.rounds, own, hashlib.sha256(identity.encode()).hexdigest(),
               ConfigDict(compute._asdict()), words(start))


def words(start: Start) -> str:
  """What a run calls what it starts from."""
  return "public start" if start.public else "pre-trained start"


def untrained(stage: Stage) -> tuple[Algorithm, Any]:
  """(algorithm, state) of a stage before its first round, on one device."""
  mesh = clients_mesh(jax.local_devices()[:1])
  state = loop.initial_state(stage.algorithm, stage.seed, mesh)
  return stage.algorithm, jax.tree.map(np.asarray, state)


def enter(ledger: Ledger, start: Start, name: str, algorithm: Any) -> None:
  """A declared public set is named as public; any other is a release without a guarantee."""
  if start.public:
    ledger.declare_public(name)
    return
  adjacency = next((r.adjacency for r in algorithm.releases if r.unit == "person"),
                   Adjacency.ADD_OR_REMOVE_ONE)
  ledger.record(non_private("pre-trained backbone", "person", adjacency, "everyone",
                            f"pre-training on {name}, which is not declared public, adds no noise"))
