"""What a rehearsal is of, and with whom: the planned noise, and public people in parts."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face.data.dataset import FaceDataset, compact
from fedjax_face.data.sources import Sources
from fedjax_face.draws import Draws
from fedjax_face.models.registry import count_parameters

SMALLEST_SET = 20  # people
PRETRAINING_SHARE, JUDGES_SHARE = 1 / 2, 1 / 5
METHODS = ("dp_fedemb", "fedavg")
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


def check(config: Any) -> None:
  """Refuses what cannot be rehearsed.

  Raises:
    ValueError: no public set, one that pretrain does not declare public, or a method without
      virtual clients.
  """
  if config.algorithm not in METHODS or config.get("silos"):
    raise ValueError(f"algorithm={config.algorithm} cannot be rehearsed: expected one of "
                     f"{', '.join(METHODS)}, with virtual clients and no silos")
  if not config.data.get("public"):
    raise ValueError("a rehearsal needs data.public, a set of people outside the guarantee")
  if config.get("pretrain") and not config.pretrain.get("public", False):
    raise ValueError("a rehearsal needs a public set, and pretrain.public does not declare "
                     "data.public to be one")


def divide(public: FaceDataset, pretrains: bool, seed: int) -> Parts:
  """Splits a public set by person, at random.

  Half of the people pre-train, where anybody does, a fifth judges, the others are the clients'. The
  run itself pre-trains on all of them; but people whom the start has seen cannot judge it.

  Raises:
    ValueError: fewer than `SMALLEST_SET` people.
  """
  people = np.unique(public.person)
  if len(people) < SMALLEST_SET:
    raise ValueError(f"data.public {public.name} has {len(people)} people; a rehearsal needs at "
                     f"least {SMALLEST_SET}")
  identity = public.identities[np.unique(public.person, return_index=True)[1]]
  order = people[Draws.of((seed, REHEARSAL)).order(identity, "rehearsal")]
  first = round(PRETRAINING_SHARE * len(people)) if pretrains else 0
  last = len(people) - round(JUDGES_SHARE * len(people))
  part = lambda chosen: compact(public.select(np.isin(public.person, chosen)))
  return Parts(part(order[:first]) if pretrains else None, part(order[first:last]),
               part(order[last:]))


def planned(config: Any, sources: Sources, mesh: Mesh,
            progress: Callable[[float, float], None]) -> Planned:
  """Calibrates the noise of the run itself.

  Of the private set only who has how many images of which label, and their shape, can enter: its
  pixels are blanked.
  """
  from fedjax_face.algorithms import registry
  blank = np.broadcast_to(np.uint8(0), sources.train.images.shape)
  train = dataclasses.replace(sources.train, images=blank)
  algorithm = registry.build(config, sources._replace(train=train), mesh, progress=progress)
  noise_multiplier = float(algorithm.hparams["aggregate"]["noise_multiplier"])
  return Planned(noise_multiplier, config.cohort.virtual_clients,
                 train.num_persons, config.rounds,
                 count_parameters(jax.eval_shape(algorithm.init, jax.random.key(0)).params))


def groups(config: Any) -> int:
  """Groups of people that take turns; 1 where all may take part in every round."""
  cohort = config.cohort
  return cohort.get("min_separation", 1) if cohort.sampling.startswith("cyclic") else 1


def rehearsal_config(config: Any, plan: Planned, people: int, devices: int) -> Any:
  """The config with as many clients K' as the people allow, and the planned noise beside them.

  What is individual in a mean of K' updates is sqrt(K / K') times as long as in one of K, and it is
  of the same few people in every round, so that it adds up over rounds as it cannot in the run. The
  noise on the mean, z C / K in the run, is lengthened by the same factor: the multiplier on the sum
  of K' is z sqrt(K' / K). Where K' < K the server step that is chosen is therefore cautious: with
  z K' / K, the run's noise on the mean, 18 clients asked for a server rate with which a run of 128
  fell below its start (docs/results/dp_fedemb.md).

  Args:
    config: of the run.
    plan: of the run.
    people: who make up the clients.
    devices: that share the clients of a round.

  Raises:
    ValueError: the people do not make up one client for each device.
  """
  own, cohort, m = copy.deepcopy(config), config.cohort, config.cohort.users_per_client
  clients = min(plan.clients, people // groups(config) // m)
  clients -= clients % devices
  if clients < 1:
    raise ValueError(f"{people} public people are left for the clients of a rehearsal; expected at "
                     f"least {groups(config) * devices * m}, for {devices} client(s) of "
                     f"cohort.users_per_client={m} in each of {groups(config)} group(s)")
  with own.unlocked(), own.ignore_type():
    if "rehearsal" in own:
      del own["rehearsal"]
    own.cohort.virtual_clients = clients
    if cohort.get("sampling_probability") is not None:
      of_a_client = cohort.sampling_probability * plan.population / plan.clients
      own.cohort.sampling_probability = min(1.0, of_a_client * clients / people)
    if config.privacy.epsilon is not None or config.hparams.noise_multiplier is not None:
      own.hparams.noise_multiplier = plan.noise_multiplier * math.sqrt(clients / plan.clients)
    own.privacy.epsilon = None
    if "count_stddev_per_client" in config.privacy:
      own.privacy.count_stddev_per_client *= math.sqrt(plan.clients / clients)
    own.training.clients_per_chunk = math.gcd(config.training.clients_per_chunk, clients // devices)
  return own


def one_client_config(config: Any) -> Any:
  """The config with one client a round, whose update is neither clipped nor noised."""
  own = copy.deepcopy(config)
  with own.unlocked(), own.ignore_type():
    own.cohort.update({"virtual_clients": 1, "sampling": "fixed"})
    own.privacy.aggregator = "mean"
    own.privacy.epsilon = own.hparams.noise_multiplier = None
    own.training.clients_per_chunk = 1
  return own
