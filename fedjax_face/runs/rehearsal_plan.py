"""What a rehearsal is of, and with whom: the planned noise, and public people in parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.data.dataset import FaceDataset, compact
from fedjax_face.data.sources import Sources
from fedjax_face.draws import Draws
from fedjax_face.federated.aggregates import mean
from fedjax_face.federated.optimizers import momentum
from fedjax_face.federated.sampling import fixed
from fedjax_face.method.algorithm import part_of
from fedjax_face.models.registry import count_parameters
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.candidates import value_of, with_values

SMALLEST_SET = 20  # people
PRETRAINING_SHARE, JUDGES_SHARE = 1 / 2, 1 / 5
METHODS = ("dp_fedemb", "fedavg")
NO_PUBLIC_SET = "data: a rehearsal needs a public set, of people outside the guarantee"
NOISE, CLIENTS = "method.aggregate.noise_multiplier", "method.clients.per_round"
_COUNT_STDDEV = "method.aggregate.count_stddev_per_client"
_PROBABILITY = "method.clients.sampling.probability"
REHEARSAL = 0x72656865  # keeps a rehearsal's draws apart from other uses of the same seed


class Parts(NamedTuple):
  """A public set by people: who pre-trains (None: nobody), who makes up the clients, who judges."""

  pretraining: FaceDataset | None
  clients: FaceDataset
  judges: FaceDataset


class Planned(NamedTuple):
  """The run that is rehearsed, as far as numbers of people decide it.

  Attributes:
    noise_multiplier: z, noise on the sum of updates over the clip norm; 0 without noise.
    clients: K.
    population: people of the private training set.
    rounds: T.
    parameters: numbers in an update of the run, its heads included where they are sent.
  """

  noise_multiplier: float
  clients: int
  population: int
  rounds: int
  parameters: int


def check(asked: Asked) -> None:
  """Refuses, before data are read, what cannot be rehearsed.

  Raises:
    ValueError: data that say of themselves that they have no public set, one that the start does
      not take as public, or a method without virtual clients.
  """
  name = asked.record["method"]["name"]
  if name not in METHODS or value_of(asked.method, "method.clients.users_per_client") is None:
    raise ValueError(f"method={name} cannot be rehearsed: expected one of {', '.join(METHODS)}, "
                     "with virtual clients and no silos")
  if not asked.record["data"].get("public", True):
    raise ValueError(NO_PUBLIC_SET)
  if asked.start is not None and not asked.start.public:
    raise ValueError("start.public=False: a rehearsal needs a set that is declared public")


def divide(public: FaceDataset, pretrains: bool, seed: int) -> Parts:
  """Splits a public set by person, at random.

  Half of the people pre-train, where anybody does, a fifth judges, the others are the clients'. The
  run itself pre-trains on all of them; but people whom the start has seen cannot judge it.

  Raises:
    ValueError: fewer than `SMALLEST_SET` people.
  """
  people = np.unique(public.person)
  if len(people) < SMALLEST_SET:
    raise ValueError(f"data: the public set {public.name} has {len(people)} people; a "
                     f"rehearsal needs at least {SMALLEST_SET}")
  identity = public.identities[np.unique(public.person, return_index=True)[1]]
  order = people[Draws.of((seed, REHEARSAL)).order(identity, "rehearsal")]
  first = round(PRETRAINING_SHARE * len(people)) if pretrains else 0
  last = len(people) - round(JUDGES_SHARE * len(people))
  part = lambda chosen: compact(public.select(np.isin(public.person, chosen)))
  return Parts(part(order[:first]) if pretrains else None, part(order[first:last]),
               part(order[last:]))


def planned(asked: Asked, sources: Sources, mesh: Mesh,
            progress: Callable[[float, float], None]) -> Planned:
  """Calibrates the noise of the run itself.

  Of the private set only who has how many images of which label, and their shape, can enter: its
  pixels are blanked.
  """
  blank = np.broadcast_to(np.uint8(0), sources.train.images.shape)
  train = dataclasses.replace(sources.train, images=blank)
  setting = asked.setting(mesh, sources.public)._replace(progress=progress)
  algorithm = methods.bind(asked.method, train, setting)
  noise_multiplier = float(part_of(algorithm.hparams, "aggregate").get("noise_multiplier", 0.0))
  return Planned(noise_multiplier, value_of(asked.method, CLIENTS), train.num_persons,
                 asked.record["rounds"],
                 count_parameters(jax.eval_shape(algorithm.init, jax.random.key(0)).params))


def groups(method: Any) -> int:
  """Groups of people that take turns; 1 where all may take part in every round."""
  return value_of(method, "method.clients.sampling.min_separation") or 1


def rehearsed(asked: Asked, plan: Planned, people: int, devices: int) -> Asked:
  """The run with as many clients K' as the people allow, and the planned noise beside them.

  What is individual in a mean of K' updates is sqrt(K / K') times as long as in one of K, and it is
  of the same few people in every round, so that it adds up over rounds as it cannot in the run. The
  noise on the mean, z C / K in the run, is lengthened by the same factor: the multiplier on the sum
  of K' is z sqrt(K' / K). Where K' < K the server step that is chosen is therefore cautious: with
  z K' / K, the run's noise on the mean, 18 clients asked for a server rate with which a run of 128
  fell below its start (docs/results/dp_fedemb.md).

  Args:
    asked: of the run.
    plan: of the run.
    people: who make up the clients.
    devices: that share the clients of a round.

  Raises:
    ValueError: the people do not make up one client for each device.
  """
  method, turns = asked.method, groups(asked.method)
  m = value_of(method, "method.clients.users_per_client")
  clients = min(plan.clients, people // turns // m)
  clients -= clients % devices
  if clients < 1:
    raise ValueError(f"{people} public people are left for the clients of a rehearsal; expected at "
                     f"least {turns * devices * m}, for {devices} client(s) of "
                     f"method.clients.users_per_client={m} in each of {turns} group(s)")
  values: dict[str, Any] = {CLIENTS: clients}
  if (probability := value_of(method, _PROBABILITY)) is not None:
    of_a_client = probability * plan.population / plan.clients
    values[_PROBABILITY] = min(1.0, of_a_client * clients / people)
  if asked.privacy.epsilon is not None or value_of(method, NOISE) is not None:
    values[NOISE] = plan.noise_multiplier * math.sqrt(clients / plan.clients)
  if (stddev := value_of(method, _COUNT_STDDEV)) is not None:
    values[_COUNT_STDDEV] = stddev * math.sqrt(plan.clients / clients)
  chunk = math.gcd(asked.compute.clients_per_chunk, clients // devices)
  return asked._replace(
      method=with_values(method, values), privacy=asked.privacy._replace(epsilon=None),
      compute=asked.compute._replace(clients_per_chunk=chunk))


def of_one_client(asked: Asked) -> Asked:
  """One client a round, whose update is neither clipped nor noised and moves no model."""
  clients = options.replace(options.argument(asked.method, "clients"), per_round=1,
                            sampling=fixed())
  method = options.replace(asked.method, clients=clients, aggregate=mean(),
                           server=momentum(learning_rate=0.0))
  return asked._replace(method=method, privacy=asked.privacy._replace(epsilon=None),
                        compute=asked.compute._replace(clients_per_chunk=1))
