"""Canaries through the real aggregation path: a lower bound on epsilon, to hold against the claim.

Two neighbouring populations differ in one user, the canary. Its client pushes as hard as it can in
one direction, or in the opposite one, or is absent; all others stand still. The adversary sees the
backbone after every round and guesses which population it was. Sampling, assignment, clipping,
summation, noise and the server step are those of the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax_privacy import auditing

from fedjax_face.data import cohorts
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated import heads
from fedjax_face.federated.aggregators import Aggregator
from fedjax_face.federated.algorithm import Data, StepKeys
from fedjax_face.federated.client import ClientResult, Totals
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.round import FederatedRound, federated_round
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency

IDLE, PUSH, PULL = 0, 1, 2
# Far above any clip norm, so that the clipped canary lies on the sphere.
STRENGTH = 1e6
DIMENSION = 4


class Audit(NamedTuple):
  """What was claimed and what was measured, for one unit, adjacency and delta.

  Attributes:
    claimed: epsilon of the accountant.
    measured: lower bound on epsilon at the given confidence.
    delta: of both.
    confidence: of the lower bound.
    trials: runs in each of the two populations.
    true_positive_rate: of the best test at a false positive rate of 1 %.
  """

  claimed: float
  measured: float
  delta: float
  confidence: float
  trials: int
  true_positive_rate: float

  @property
  def violated(self) -> bool:
    """Whether the mechanism reveals more than it claims, at this confidence."""
    return self.measured > self.claimed


def population(users: int, canary: int | None) -> FaceDataset:
  """`users` users with one image of one pixel each; the last one plays the canary's part.

  Args:
    users: how many, the canary included.
    canary: PUSH or PULL, or None where the canary is absent.
  """
  roles = np.full(users, IDLE, np.uint8)
  roles[-1] = IDLE if canary is None else canary
  roles = roles[:users - 1] if canary is None else roles
  persons = np.arange(len(roles), dtype=np.int32)
  return FaceDataset("canaries", roles.reshape(-1, 1, 1, 1), np.zeros_like(persons), persons)


def canary_update(params: Any, images: jax.Array, batches: Any, hparams: Any, key: jax.Array
                  ) -> ClientResult:
  """A client update that pushes along the first coordinate where it holds the canary."""
  roles = images[batches.examples, 0, 0, 0]
  push = jnp.where(batches.mask & (roles == PUSH), 1.0, 0.0).sum()
  pull = jnp.where(batches.mask & (roles == PULL), 1.0, 0.0).sum()
  moved = params["backbone"].at[0].add(-STRENGTH * jnp.sign(push - pull))
  return ClientResult({"backbone": moved, "head": params["head"]}, Totals.zero())


def canary_round(aggregator: Aggregator, hparams: dict[str, float], mesh: Mesh,
                 client_update: Callable[..., ClientResult] = canary_update) -> FederatedRound:
  """The run's round with canary clients and a server that publishes the mean update as it is."""
  return federated_round(
      client_update=client_update,
      heads=heads.fresh(lambda key: (), "shared_frame"),
      aggregator=aggregator,
      server_optimizer=lambda hparams: optax.sgd(1.0),
      hparams=hparams,
      mesh=mesh,
      clients_per_chunk=1,
  )


def observe(round_: FederatedRound, who: Participation, dataset: FaceDataset,
            hparams: dict[str, float], rounds: int, trials: int, seed: int) -> np.ndarray:
  """What the adversary sees of the first coordinate of the sum.

  Returns:
    f32 [trials, rounds], in units of the clip norm at the start.
  """
  host = np.random.default_rng(seed)
  drawn = cohorts.stack([who.cohort(host, r) for _ in range(trials) for r in range(rounds)])
  drawn = jax.tree.map(lambda leaf: leaf.reshape(trials, rounds, *leaf.shape[1:]), drawn)
  scale = who.clients / hparams["clip_norm"]

  def one_trial(data, cohort, key):
    state = round_.init(jax.random.key(0), jnp.zeros(DIMENSION))

    def one_round(state, inputs):
      index, cohort = inputs
      keys = StepKeys(key, jax.random.fold_in(key, index))
      new, _ = round_.step(state, data, cohort, hparams, keys)
      return new, (state.params["backbone"] - new.params["backbone"])[0] * scale

    return jax.lax.scan(one_round, state, (jnp.arange(rounds), cohort))[1]

  keys = jax.random.split(jax.random.key(seed), trials)
  play = jax.jit(jax.vmap(one_trial, in_axes=(None, 0, 0)))
  return np.asarray(play(Data(jnp.asarray(dataset.images)), drawn, keys))


def scores(seen: np.ndarray, noise_multiplier: float, probability: float, absent: bool
           ) -> np.ndarray:
  """Log-likelihood ratio of the two populations, summed over rounds.

  Args:
    seen: f32 [trials, rounds] of `observe`.
    noise_multiplier: standard deviation over the clip norm.
    probability: that the canary takes part in a round.
    absent: whether the second population lacks the canary (else it pulls).
  """
  log_density = lambda mean: -0.5 * ((seen - mean) / noise_multiplier) ** 2
  with np.errstate(divide="ignore"):
    idle = np.log1p(-probability) + log_density(0.0)
  acts = lambda mean: np.logaddexp(idle, math.log(probability) + log_density(mean))
  other = log_density(0.0) if absent else acts(-1.0)
  return (acts(1.0) - other).sum(axis=1)


def audit(
    make_participation: Callable[[FaceDataset], Participation],
    aggregator: Aggregator,
    event: Any,
    hparams: dict[str, float],
    mesh: Mesh,
    *,
    users: int,
    probability: float,
    rounds: int,
    trials: int,
    delta: float,
    confidence: float,
    seed: int,
    client_update: Callable[..., ClientResult] = canary_update,
) -> Audit:
  """Plays the game and compares the measured epsilon with the claim.

  Args:
    make_participation: the run's sampling, on a given population.
    aggregator: the run's.
    event: DpEvent that the ledger holds for `rounds` rounds.
    hparams: the run's, with `clip_norm` and `noise_multiplier`.
    mesh: devices.
    users: size of the population, the canary included.
    probability: that a given user takes part in a round.
    rounds: length of the game.
    trials: runs in each population; half of them choose the threshold, half measure.
    delta: of claim and measurement.
    confidence: of the lower bound (Clopper-Pearson).
    seed: of cohorts and noise.
    client_update: how the canary's client acts.
  """
  round_ = canary_round(aggregator, hparams, mesh, client_update)
  inside = population(users, PUSH)
  who = make_participation(inside)
  absent = who.adjacency is Adjacency.ADD_OR_REMOVE_ONE
  outside = population(users, None if absent else PULL)
  ask = lambda who, dataset, offset: scores(
      observe(round_, who, dataset, hparams, rounds, trials, seed + offset),
      hparams["noise_multiplier"], probability, absent)
  auditor = auditing.CanaryScoreAuditor(
      ask(who, inside, 0), ask(make_participation(outside), outside, 1))
  measured = auditor.epsilon_clopper_pearson(
      significance=1 - confidence, delta=delta,
      threshold_strategy=auditing.Split(seed=seed))
  claimed = accounting.epsilon(event, delta, who.adjacency).best
  return Audit(claimed, float(measured), delta, confidence, trials,
               float(auditor.tpr_at_given_fpr(0.01)))
