"""What a server's correction of class embeddings leaks to a client: other clients' templates.

The server pushes a client's class embeddings away from those of all others, so what it returns less
what was sent is minus a mix of foreign class embeddings, weighted by how near each of them is to
the row. A client may send any row. One planted near somebody's class embedding, such as the
embedding of a photograph of that person, comes back pushed away from it; the attacker goes the
other way, sends the row again in the next round, and so climbs to the class embedding itself.

Distance. The change of a row of a normalised head has no component along the row: it tells the way
to the class embedding and not how far it is. The attacker goes on while the direction stays and
halves its step when it turns, as in Rprop.

Saturation. An anchor shares one push among the rows that come near it. The calibrated form
saturates: the target's push stops growing where the row is nearest anyway, and the pushes of
others blur it. The attacker has two remedies. Decoys, rows in a cone around the probe, are nearer
to other class embeddings than the probe is, and draw their pushes, but not the target's. And each
row is sent once alone and once with a copy, which halves a saturated push and leaves weak ones:
the difference weights class embeddings by the square of the softmax.

Length. A normalised head pushes a row in proportion to 1 / its length, so short rows bring the
change out of rounding and noise. For a linear head the length is an inverse temperature, and as
long as the others' rows is a good choice.

Source: step sizes after Riedmiller and Braun, ICNN 1993 (Rprop); the attack is ours.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.evaluation.confidence import Estimate, mean_interval
from fedjax_face.losses.class_pairs import Correction, HParams, own_anchors
from fedjax_face.models import margins
from fedjax_face.models.embedding import l2_normalise
from fedjax_face.models.margins import Geometry, Scalar

# Angle of the first step in radians, the most that a step may grow to, and how steps change.
FIRST_STEP, LARGEST_STEP = 0.5, 0.8
GROW, SHRINK = 1.2, 0.5
# Between decoys and their probe, in radians.
DECOY_ANGLE = 0.7
# A copy takes half of a saturated push; where it takes less than this part, nothing competes.
COMPETITION = 0.01
# What it takes counts if longer than this many times the difference of two copies.
NOISE_FACTOR = 2.0

# (rows sent f32 [P, D], key) -> rows received f32 [P, D]: all that the attacker sees.
Server = Callable[[jax.Array, jax.Array], jax.Array]


class Recovered(NamedTuple):
  """What the attacker holds after the last round.

  Attributes:
    template: float32 [P, D], unit vectors, its guess for each probe.
    step: float32 [P], angle of its last step in radians; small once it has arrived.
    change: float32 [P], length of the last change of its rows.
  """

  template: jax.Array
  step: jax.Array
  change: jax.Array


class Population(NamedTuple):
  """Class embeddings of several clients and what the attacker knows of some of them.

  Attributes:
    class_embeddings: float32 [R, D].
    owner: int32 [R], client of each row, below K - 1; client K - 1 is the attacker.
    cosine_of_client: float32 [K], mean training cosine of each client.
    targets: int32 [T], rows to be recovered.
    probes: float32 [T, D], unit vectors, one for each target.
  """

  class_embeddings: jax.Array
  owner: jax.Array
  cosine_of_client: jax.Array
  targets: jax.Array
  probes: jax.Array


class Outcome(NamedTuple):
  """Cosine of the attacker's guess with the class embedding, over targets.

  Attributes:
    form: of the correction.
    scale: of the head.
    strength: lambda.
    probe: before the attack.
    recovered: after it.
  """

  form: str
  scale: float
  strength: float
  probe: Estimate
  recovered: Estimate


def correcting_server(correction: Correction, class_embeddings: jax.Array, owner: jax.Array,
                      cosine_of_client: jax.Array, attacker: int, hparams: HParams, *,
                      learning_rate: Scalar, steps: int = 1, noise_std: Scalar = 0.0,
                      geometry: Geometry | None = None) -> Server:
  """A server that adds the attacker's rows to the table, corrects it and sends them back.

  The other rows are the same in every round, as of clients that have converged.

  Args:
    correction: gradient of the regulariser.
    class_embeddings: float32 [R, D] of all clients; may hold honest rows of the attacker.
    owner: int32 [R], client of each row.
    cosine_of_client: float32 [K], read by the calibrated form.
    attacker: client that sends the rows, below K.
    hparams: the correction's own.
    learning_rate: lambda * eta.
    steps: of the server in a round.
    noise_std: standard deviation of Gaussian noise on each entry of the returned rows.
    geometry: what the head lends to the correction.

  Raises:
    ValueError: `attacker` is no client, or `steps` is below 1.
  """
  if not 0 <= attacker < len(cosine_of_client):
    raise ValueError(f"attacker {attacker}: expected a client, below {len(cosine_of_client)}")
  if steps < 1:
    raise ValueError(f"steps {steps}: expected at least 1")

  def server(sent: jax.Array, key: jax.Array) -> jax.Array:
    owners = jnp.concatenate([owner, jnp.full(len(sent), attacker, owner.dtype)])

    def one_step(_, table: jax.Array) -> jax.Array:
      anchors = own_anchors(table, owners, cosine_of_client)
      return table - learning_rate * correction(table, owners, anchors, hparams, geometry)

    table = jax.lax.fori_loop(0, steps, one_step, jnp.concatenate([class_embeddings, sent]))
    received = table[len(class_embeddings):]
    return received + noise_std * jax.random.normal(key, received.shape, received.dtype)

  return server


def climb(server: Server, probes: jax.Array, rounds: int, key: jax.Array, *, decoys: int = 0,
          length: Scalar = 1.0) -> Recovered:
  """The attack, from nothing but the rows sent and received; each probe climbs on its own.

  Args:
    server: answers a round.
    probes: float32 [P, D], where to start; only their direction counts.
    rounds: of the attack, two for a step.
    key: of decoys and the server's noise.
    decoys: further rows sent around each probe; they help where the softmax is sharp, and blur a
      soft one.
    length: of the rows sent.
  """

  def pushed(sent: jax.Array, times: int, around: jax.Array, key: jax.Array) -> list[jax.Array]:
    received = server(jnp.concatenate([*[sent] * times, around]), key)
    return [sent - rows for rows in jnp.split(received[:times * len(sent)], times)]

  def one_step(climber: _Climber, key: jax.Array) -> tuple[_Climber, jax.Array]:
    of_decoys, first, second = jax.random.split(key, 3)
    around = length * _cone(_unit(climber.sent), decoys, of_decoys)
    (alone,) = pushed(climber.sent, 1, around, first)
    one, other = pushed(climber.sent, 2, around, second)
    taken = alone - (one + other) / 2
    # Two copies differ by nothing but the server's noise.
    least = jnp.maximum(COMPETITION * _norm(alone), NOISE_FACTOR * _norm(one - other))
    push = jnp.where(_norm(taken) > least, taken, (alone + one + other) / 3)
    return _move(climber, push, length), _norm(alone)[:, 0]

  at = _unit(probes)
  start = _Climber(length * at, jnp.full((len(at), 1), FIRST_STEP / GROW), jnp.zeros_like(at))
  end, change = jax.lax.scan(one_step, start, jax.random.split(key, rounds // 2))
  return Recovered(_unit(end.sent), end.step[:, 0], change[-1])


def leak_back(correction: Correction, class_embeddings: jax.Array, owner: jax.Array,
              cosine_of_client: jax.Array, attacker: int, probes: jax.Array, hparams: HParams,
              key: jax.Array, *, learning_rate: Scalar, rounds: int, steps: int = 1,
              noise_std: Scalar = 0.0, decoys: int = 0, length: Scalar = 1.0,
              geometry: Geometry | None = None) -> Recovered:
  """Recovers foreign class embeddings: `climb` against a `correcting_server`.

  Args and Raises: as there.
  """
  server = correcting_server(
      correction, class_embeddings, owner, cosine_of_client, attacker, hparams,
      learning_rate=learning_rate, steps=steps, noise_std=noise_std, geometry=geometry)
  return climb(server, probes, rounds, key, decoys=decoys, length=length)


def recovery(recovered: jax.Array, target: jax.Array) -> jax.Array:
  """Cosine [T] of guesses with class embeddings, both float [T, D]."""
  return jnp.sum(_unit(recovered) * _unit(target), axis=-1)


def isotropic_population(key: jax.Array, *, clients: int, classes: int, dim: int, targets: int,
                         probe_cosine: float, training_cosine: float) -> Population:
  """Class embeddings in directions drawn uniformly, and probes at a given cosine to some.

  Args:
    key: of directions.
    clients: honest clients; client number `clients` is the attacker.
    classes: of all honest clients together.
    dim: D.
    targets: T, how many of the classes are attacked.
    probe_cosine: of each probe with its target.
    training_cosine: of all clients.
  """
  if not 1 <= targets <= classes:
    raise ValueError(f"targets {targets}: expected 1 to the {classes} classes")
  of_rows, of_probes = jax.random.split(key)
  rows = _unit(jax.random.normal(of_rows, (classes, dim)))
  aside = _unit(_tangent(rows[:targets], jax.random.normal(of_probes, (targets, dim))))
  probes = probe_cosine * rows[:targets] + np.sqrt(1 - probe_cosine**2) * aside
  owner = jnp.arange(classes, dtype=jnp.int32) % clients
  return Population(rows, owner, jnp.full(clients + 1, training_cosine),
                    jnp.arange(targets, dtype=jnp.int32), probes)


def study(corrections: Mapping[str, Correction], population: Population, key: jax.Array, *,
          scales: Sequence[float], strengths: Sequence[float], margin: float,
          learning_rate: float, rounds: int, steps: int = 1, noise_std: float = 0.0,
          decoys: int = 0,
          length: float = 1.0) -> list[Outcome]:
  """Attacks all targets at once, for each form, scale and strength of the correction.

  Args:
    corrections: by form; of normalised heads.
    population: as attacked.
    key: of the server's noise.
    scales: of the head.
    strengths: values of lambda.
    margin: of the head, a cosface, read by the calibrated form.
    learning_rate: eta.
    rounds: of the attack.
    steps: of the server in a round.
    noise_std: on the returned rows.
    decoys: around each probe.
    length: of the attacker's rows.

  Returns:
    Outcomes with 95 % t-intervals over the targets.
  """
  rows, owner, cosine_of_client, targets, probes = population
  attacker = len(cosine_of_client) - 1
  before = _estimate(recovery(probes, rows[targets]))

  def attack(correction: Correction, scale: Scalar, strength: Scalar) -> jax.Array:
    recovered = leak_back(
        correction, rows, owner, cosine_of_client, attacker, probes, {}, key,
        learning_rate=strength * learning_rate, rounds=rounds, steps=steps, noise_std=noise_std,
        decoys=decoys, length=length, geometry=margins.geometry(
            scale, margin, margins.cosface_margin))
    return recovery(recovered.template, rows[targets])

  outcomes = []
  for form, correction in corrections.items():
    play = jax.jit(functools.partial(attack, correction))
    outcomes += [Outcome(form, scale, strength, before, _estimate(play(scale, strength)))
                 for scale in scales for strength in strengths]
  return outcomes


class _Climber(NamedTuple):
  """Rows as sent [P, D], the angle of their last step [P, 1], the way that was ahead [P, D].

  Rows are kept from step to step as sent: computed again they might be rounded otherwise, and the
  difference would pass for a push.
  """

  sent: jax.Array
  step: jax.Array
  ahead: jax.Array


def _move(climber: _Climber, push: jax.Array, length: Scalar) -> _Climber:
  """Turns every probe towards `push` [P, D]; one that was not pushed stays where it is."""
  at = _unit(climber.sent)
  towards = _unit(_tangent(at, push))
  turned = jnp.sum(towards * climber.ahead, axis=-1, keepdims=True) < 0
  step = jnp.where(turned, SHRINK * climber.step, jnp.minimum(GROW * climber.step, LARGEST_STEP))
  cosine, sine = jnp.cos(step), jnp.sin(step)
  there = jnp.where(_norm(towards) > 0, _unit(cosine * at + sine * towards), at)
  return _Climber(length * there, step, cosine * towards - sine * at)


def _cone(at: jax.Array, rows: int, key: jax.Array) -> jax.Array:
  """`rows` unit vectors at DECOY_ANGLE to each of the unit vectors `at` [P, D]: [rows * P, D]."""
  aside = _unit(_tangent(at, jax.random.normal(key, (rows, *at.shape))))
  return (math.cos(DECOY_ANGLE) * at + math.sin(DECOY_ANGLE) * aside).reshape(-1, at.shape[1])


def _estimate(cosines: jax.Array) -> Estimate:
  return mean_interval(np.asarray(cosines, np.float64))


def _norm(x: jax.Array) -> jax.Array:
  return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _tangent(at: jax.Array, x: jax.Array) -> jax.Array:
  """Part of `x` orthogonal to the unit vectors `at`, both [..., D]."""
  return x - jnp.sum(at * x, axis=-1, keepdims=True) * at


def _unit(x: jax.Array) -> jax.Array:
  """Unit vectors along `x` [..., D], however short; the zero vector stays."""
  peak = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
  return l2_normalise(x / jnp.where(peak > 0, peak, 1))
