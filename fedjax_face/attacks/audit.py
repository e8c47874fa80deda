"""Canaries through the real aggregation path: a lower bound on epsilon, to hold against the claim.

Two neighbouring populations differ in one user, the canary. A client that holds it pushes as hard
as it can in one direction. Under replace-one the neighbour's canary pushes in the opposite one and
all others stand still; under add-or-remove the neighbour lacks the canary, and all others push in
the opposite direction, so that the canary turns its client round. Either way the sum moves by 2C,
which is what several users to a client are accounted for.

The canary is the first, a middle or the last of its population, and moves a backbone of several
tensors of different sizes: all of them, one alone, or in a random direction.

The adversary sees the backbone after every round, knows who else takes part and in which rounds it
is the canary's turn, and guesses which population it was; errors of both kinds count, so a user who
is removed and one who is added. Where the claim counts no sampling (correlated noise over a whole
run) it also knows in which rounds the canary takes part. Sampling, assignment, clipping, summation,
noise and the server step are those of the run.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jax_privacy import auditing

from fedjax_face.attacks.trial_cohorts import cohorts_of_trials
from fedjax_face.data.cohorts import Cohort
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.draws import Draws
from fedjax_face.federated import heads
from fedjax_face.federated.aggregators import Aggregator, Sums
from fedjax_face.federated.client import ClientResult, Totals, forgetful
from fedjax_face.federated.heads import HeadStrategy
from fedjax_face.federated.participation import Participation
from fedjax_face.federated.round import FederatedRound, federated_round
from fedjax_face.method.algorithm import Data, HParams, StepKeys
from fedjax_face.privacy import accounting
from fedjax_face.privacy.adjacency import Adjacency

IDLE, PUSH, PULL = 0, 1, 2
# Far above any clip norm, so that the clipped canary lies on the sphere.
STRENGTH = 1e6
# Tensors of the backbone, by name.
SHAPES = {"bias": (5,), "kernel": (4, 3), "scale": (), "wide": (2, 3, 4)}
# Draws of the noise of all rounds, from which the adversary learns how they are correlated.
NOISE_SAMPLES = 200_000
# Cohorts of a game in which they are all known: the claim then holds for each of them.
KNOWN_COHORTS = 200
DIRECTIONS = ("random", "one_layer", "all_layers")
PLACES = ("first", "middle", "last")

Direction = dict[str, np.ndarray]


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


def judged(first: np.ndarray, second: np.ndarray, *, claimed: float, delta: float,
           confidence: float, seed: int) -> Audit:
  """What the adversary's scores of two neighbouring data sets show, beside the claim.

  Args:
    first, second: [trials] each, larger for the first; half of them choose the threshold, half
      measure, and errors of both kinds count (a unit more, a unit less).
    claimed: epsilon to hold the result against.
    delta: of claim and measurement.
    confidence: of the lower bound (Clopper-Pearson).
    seed: of the halves.
  """
  auditor = auditing.CanaryScoreAuditor(first, second)
  measured = auditor.epsilon_clopper_pearson(
      significance=1 - confidence, delta=delta, one_sided=False,
      threshold_strategy=auditing.Split(seed=seed))
  return Audit(claimed, float(measured), delta, confidence, len(first),
               float(auditor.tpr_at_given_fpr(0.01)))


def direction(name: str) -> Direction:
  """A unit vector over all tensors of a canary's backbone.

  Args:
    name: `random`; `one_layer`, the largest tensor alone; `all_layers`, each tensor as far.

  Raises:
    ValueError: another name.
  """
  rng = np.random.default_rng(0)
  largest = max(SHAPES, key=lambda layer: math.prod(SHAPES[layer]))
  length = {"random": lambda layer: math.sqrt(math.prod(SHAPES[layer])),
            "one_layer": lambda layer: float(layer == largest), "all_layers": lambda layer: 1.0}
  if name not in length:
    raise ValueError(f"direction {name!r} is not one of {', '.join(DIRECTIONS)}")
  drawn = {layer: rng.normal(size=shape) for layer, shape in SHAPES.items()}
  moved = {layer: length[name](layer) * vector / np.linalg.norm(vector)
           for layer, vector in drawn.items()}
  norm = math.sqrt(sum((vector**2).sum() for vector in moved.values()))
  return {layer: (vector / norm).astype(np.float32) for layer, vector in moved.items()}


def neighbours(users: int, adjacency: Adjacency, place: str = "last"
               ) -> tuple[FaceDataset, FaceDataset]:
  """Two populations of `users` users with one image of one pixel each, which differ in a canary.

  Args:
    users: of the larger population.
    adjacency: what neighbours differ in.
    place: of the canary: `first`, `middle` or `last`.

  Returns:
    (with a canary that pushes, with one that pulls) under replace-one, (with, without the canary)
    under add-or-remove, where all others pull. Everybody else keeps the own person number.
  """
  absent = adjacency is Adjacency.ADD_OR_REMOVE_ONE
  canary = canary_row(users, place)
  roles = np.full(users, PULL if absent else IDLE)
  pushing, pulling = roles.copy(), roles.copy()
  pushing[canary], pulling[canary] = PUSH, PULL
  if not absent:
    return population(pushing), population(pulling)
  others = np.delete(np.arange(users), canary)
  return population(pushing), population(roles[others], others)


def canary_row(users: int, place: str) -> int:
  """The row of the canary in the population that holds it."""
  rows = {"first": 0, "middle": users // 2, "last": users - 1}
  if place not in rows:
    raise ValueError(f"place {place!r} is not one of {', '.join(PLACES)}")
  return rows[place]


def population(roles: Sequence[int] | np.ndarray, persons: np.ndarray | None = None) -> FaceDataset:
  """A user for each role (IDLE, PUSH or PULL), in this order, numbered so or by `persons`."""
  persons = np.arange(len(roles)) if persons is None else persons
  images = np.array(roles, np.uint8).reshape(-1, 1, 1, 1)
  labels = np.zeros(len(roles), np.int32)
  return FaceDataset("canaries", images, labels, persons.astype(np.int32))


def canary_update(params: Any, images: jax.Array, batches: Any, hparams: Any, key: jax.Array,
                  towards: Direction | None = None) -> ClientResult:
  """Moves `towards` a direction if one of the client's users pushes, else away if one pulls."""
  roles = images[batches.examples, 0, 0, 0]
  push, pull = ((batches.mask & (roles == role)).any() for role in (PUSH, PULL))
  moved = shifted(params["backbone"], -STRENGTH * jnp.where(push, 1.0, -1.0 * pull), towards)
  return ClientResult({"backbone": moved, "head": params["head"]}, Totals.zero())


def shifted(backbone: Any, amount: jax.typing.ArrayLike, towards: Direction | None = None) -> Any:
  """The backbone moved by an amount along a direction, by default the random one."""
  along = direction("random") if towards is None else towards
  return jax.tree.map(lambda leaf, unit: leaf + amount * unit, backbone, along)


NO_HEAD = heads.fresh(lambda key: (), "shared_frame")


def canary_round(aggregator: Aggregator, hparams: HParams, mesh: Mesh,
                 client_update: Callable[..., ClientResult] = canary_update,
                 head: HeadStrategy = NO_HEAD) -> FederatedRound:
  """The run's round with canary clients and a server that publishes the mean update as it is.

  Its hparams are those of the aggregator alone, as in everything here.
  """
  return federated_round(
      client_update=forgetful(client_update),
      heads=head,
      aggregator=aggregator,
      server_optimizer=lambda hparams: optax.sgd(1.0),
      hparams={"aggregate": hparams},
      mesh=mesh,
      clients_per_chunk=1,
  )


def first_turn(who: Participation, user: int, seed: int) -> int:
  """The first round, modulo `rounds_per_event`, in which the user, a row, can take part."""
  for r in itertools.count():
    cohort = who.cohort(Draws.of((seed,)), r)
    if (cohort.mask & (cohort.examples == user)).any():
      return r % who.rounds_per_event
  raise AssertionError


def clean_sums(drawn: Cohort, dataset: FaceDataset) -> np.ndarray:
  """The sum of clipped updates along the canary's direction, in clip norms and before noise.

  Returns:
    f64 [trials, rounds].
  """
  roles = dataset.images[drawn.examples, 0, 0, 0]
  push, pull = ((drawn.mask & (roles == role)).any(axis=(-2, -1)) for role in (PUSH, PULL))
  return np.where(push, 1.0, -1.0 * pull).sum(axis=-1)


def observe(round_: FederatedRound, dataset: FaceDataset, drawn: Cohort,
            hparams: HParams, seed: int, towards: Direction | None = None) -> np.ndarray:
  """What the adversary sees of the sum along the canary's direction.

  Returns:
    f32 [trials, rounds], in units of the clip norm at the start.
  """
  trials, rounds, clients = drawn.client.shape
  scale = clients / hparams["clip_norm"]
  along = direction("random") if towards is None else towards

  def one_trial(data, cohort, key):
    state = round_.init(jax.random.key(0), jax.tree.map(jnp.zeros_like, along))

    def one_round(state, inputs):
      index, cohort = inputs
      keys = StepKeys(key, jax.random.fold_in(key, index))
      new, _ = round_.step(state, data, cohort, {"aggregate": hparams}, keys)
      moved = jax.tree.map(lambda old, new, unit: ((old - new) * unit).sum(),
                           state.params["backbone"], new.params["backbone"], along)
      return new, sum(jax.tree.leaves(moved)) * scale

    return jax.lax.scan(one_round, state, (jnp.arange(rounds), cohort))[1]

  keys = jax.random.split(jax.random.key(seed), trials)
  play = jax.jit(jax.vmap(one_trial, in_axes=(None, 0, 0)))
  return np.asarray(play(Data(jnp.asarray(dataset.images)), drawn, keys))


def hidden_participation_scores(seen: np.ndarray, noise_multiplier: float,
                                probability: np.ndarray, absent: bool) -> np.ndarray:
  """Log-likelihood ratio of the two populations, summed over rounds of independent noise.

  Args:
    seen: f32 [trials, rounds] of `observe`, less what the others contribute.
    noise_multiplier: standard deviation over the clip norm.
    probability: [rounds], that the canary takes part; 0 where it is not its turn.
    absent: whether the second population lacks the canary (else it pulls).
  """
  log_density = lambda mean: -0.5 * ((seen - mean) / noise_multiplier) ** 2
  with np.errstate(divide="ignore"):
    idle, log_probability = np.log1p(-probability) + log_density(0.0), np.log(probability)
  acts = lambda mean: np.logaddexp(idle, log_probability + log_density(mean))
  ratio = acts(2.0) - log_density(0.0) if absent else acts(1.0) - acts(-1.0)
  return ratio.sum(axis=1)


def whitened_scores(seen: np.ndarray, first: np.ndarray, second: np.ndarray,
                    covariance: np.ndarray) -> np.ndarray:
  """Log-likelihood ratio of two known sequences of sums under noise correlated over rounds.

  With noise C^-1 Z it projects C (seen - second) on C (first - second): covariance^-1 is C^T C over
  the variance of Z.

  Args:
    seen: f32 [trials, rounds] of `observe`.
    first: f64 [trials, rounds], `clean_sums` with the canary.
    second: f64 [trials, rounds], those of the neighbour.
    covariance: f64 [rounds, rounds] of `noise_covariance`.
  """
  difference = first - second
  direction = np.linalg.solve(covariance, difference.T).T
  return (direction * (seen - second - difference / 2)).sum(axis=1)


def noise_covariance(aggregator: Aggregator, clients: int, hparams: HParams, rounds: int,
                     seed: int) -> np.ndarray:
  """Covariance over rounds of the noise that the aggregator really adds to the sum.

  Returns:
    f64 [rounds, rounds], in units of the squared clip norm.
  """
  nothing, zero = jnp.zeros(NOISE_SAMPLES), jnp.zeros(())
  sums = Sums(nothing, zero, zero, zero, zero)
  state, rows = aggregator.init(nothing, hparams), []
  for index in range(rounds):
    key = jax.random.fold_in(jax.random.key(seed), index)
    mean, state, _ = aggregator.release(sums, state, hparams, key)
    rows.append(np.asarray(mean, np.float64) * (clients / hparams["clip_norm"]))
  return np.stack(rows) @ np.stack(rows).T / NOISE_SAMPLES


def audit(
    make_participation: Callable[[FaceDataset], Participation],
    aggregator: Aggregator,
    event: Any,
    hparams: HParams,
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
    head: HeadStrategy = NO_HEAD,
    place: str = "last",
    towards: str = "random",
) -> Audit:
  """Plays the game and compares the measured epsilon with the claim.

  Args:
    make_participation: the run's sampling, on a given population.
    aggregator: the run's.
    event: DpEvent that the ledger holds for `rounds` rounds.
    hparams: the aggregator's own in the run, `clip_norm` and `noise_multiplier`.
    mesh: devices.
    users: size of the population, the canary included.
    probability: that a given user takes part in a round in which it may.
    rounds: length of the game.
    trials: runs in each population; half of them choose the threshold, half measure.
    delta: of claim and measurement.
    confidence: of the lower bound (Clopper-Pearson).
    seed: of cohorts and noise.
    client_update: how the canary's client acts.
    head: where the head comes from that it acts on.
    place: of the canary in the population: `first`, `middle` or `last`.
    towards: in which it moves the backbone: `random`, `one_layer` or `all_layers`.
  """
  along = direction(towards)
  if client_update is canary_update:
    client_update = functools.partial(canary_update, towards=along)
  round_ = canary_round(aggregator, hparams, mesh, client_update, head)
  adjacency = make_participation(population([IDLE] * users)).adjacency
  absent = adjacency is Adjacency.ADD_OR_REMOVE_ONE
  populations = neighbours(users, adjacency, place)
  samplings = [make_participation(dataset) for dataset in populations]
  who = samplings[0]
  start = first_turn(who, canary_row(users, place), seed)

  known = aggregator.covers > 1

  @functools.cache
  def drawn(world: int, stream: int) -> Cohort:
    different = min(trials, KNOWN_COHORTS) if known else trials
    cohort = cohorts_of_trials(samplings[world].cohort, start, rounds, different, stream)
    return jax.tree.map(lambda leaf: leaf[np.arange(trials) % different], cohort)

  def scores(world: int, stream: int) -> np.ndarray:
    # A replaced canary leaves every cohort as it is.
    cohort = lambda world: drawn(world if absent else 0, stream)
    clean = lambda world: clean_sums(cohort(world), populations[world])
    seen = observe(round_, populations[world], cohort(world), hparams, stream, along)
    if known:
      covariance = noise_covariance(aggregator, who.clients, hparams, rounds, seed + 2)
      return whitened_scores(seen, clean(0), clean(1), covariance)
    turn = np.arange(rounds) % who.rounds_per_event == 0
    return hidden_participation_scores(seen - clean(1) if absent else seen,
                                       hparams["noise_multiplier"], turn * probability, absent)

  return judged(scores(0, seed), scores(1, seed + 1), delta=delta, confidence=confidence, seed=seed,
                claimed=accounting.epsilon(event, delta, adjacency).best)
