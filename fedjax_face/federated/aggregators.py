"""From client updates to one mean update: weights, clipping, noise, adaptive clip norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import optax

from fedjax_face.method.algorithm import NOTHING, Measure
from fedjax_face.privacy import noise as noise_mechanisms
from fedjax_face.privacy.clipping import UpdateClip


class Share(NamedTuple):
  """What the server gets of one client's clipped update.

  Attributes:
    summed: is added up over the clients; nothing of one client is left in it.
    kept: is stacked over the clients, so that the server sees every one.
  """

  summed: Any = ()
  kept: Any = ()


class Sums(NamedTuple):
  """What the server has after adding up the clients of a round.

  Attributes:
    update: sum of `Share.summed`; by default of the clipped, weighted updates.
    weight: f32, sum of the weights.
    clients: f32, number of clients that took part.
    below: f32, number of them whose norm was within the clip norm.
    norm: f32, sum of the norms before clipping.
    each: `Share.kept` of every client of the cohort, leaves [K, ...]; by default nothing.
  """

  update: Any
  weight: jax.Array
  clients: jax.Array
  below: jax.Array
  norm: jax.Array
  each: Any = ()


def weighted(clipped: Any, weight: jax.Array) -> Share:
  """All that a mean needs of a client: its term of the sum."""
  return Share(summed=optax.tree.scale(weight, clipped))


class Aggregator(NamedTuple):
  """One way to turn a round's updates into a mean update.

  The hparams of its functions are its own: `clip_norm` and `noise_multiplier`.

  Attributes:
    init: (params, hparams) -> state.
    weight: number of a client's examples -> its weight.
    clip: (update, state, hparams) -> (clipped update, norm before, whether within the clip norm).
    share: (clipped update, weight) -> Share; the weight of a client that is absent, or whose update
      is not finite, is 0.
    release: (Sums, state, hparams, key) -> (mean update, state, metrics).
    event: hparams -> DpEvent of the noise alone (multiplier relative to the sensitivity), before
      any amplification by sampling.
    forget: state -> state without the noise of earlier rounds, which would undo later privacy.
    largest_noise: smallest noise multiplier that is too large for it.
    adds_noise: whether the mean update is noised, so that an epsilon can be asked for.
    covers: rounds that one event accounts for.
    words: for the privacy statement.
    metrics: what `release` measures.
    sensitivity: of the sum, in units of the clip norm, over all rounds that one event covers.
  """

  init: Callable[[Any, Mapping[str, Any]], Any]
  weight: Callable[[jax.Array], jax.Array]
  clip: Callable[[Any, Any, Mapping[str, Any]], tuple[Any, jax.Array, jax.Array]]
  release: Callable[[Sums, Any, Mapping[str, Any], jax.Array],
                    tuple[Any, Any, dict[str, jax.Array]]]
  event: Callable[[Mapping[str, Any]], dp_accounting.DpEvent]
  adds_noise: bool
  covers: int
  words: str
  share: Callable[[Any, jax.Array], Share] = weighted
  forget: Callable[[Any], Any] = lambda state: state
  largest_noise: float = math.inf
  metrics: Mapping[str, Measure] = NOTHING
  sensitivity: float = math.inf


_SIGNAL_TO_NOISE = {"signal_to_noise": Measure("the signal-to-noise ratio")}


def _one(examples: jax.Array) -> jax.Array:
  return jnp.ones_like(examples, jnp.float32)


def weighted_mean() -> Aggregator:
  """sum_k n_k update_k / sum_k n_k, not clipped, not private (McMahan et al. 2017, FedAvg)."""

  def release(sums: Sums, state, hparams, key):
    scale = 1.0 / jnp.maximum(sums.weight, 1.0)
    return optax.tree.scale(scale, sums.update), state, {}

  return Aggregator(
      init=lambda params, hparams: (),
      weight=lambda examples: examples.astype(jnp.float32),
      clip=lambda update, state, hparams: (update, optax.tree.norm(update), jnp.array(True)),
      release=release,
      event=lambda hparams: dp_accounting.NonPrivateDpEvent(),
      adds_noise=False,
      covers=1,
      words="mean weighted by numbers of examples, neither clipped nor noised",
  )


def clipped_mean(clip: UpdateClip, clients: int) -> Aggregator:
  """sum_k clip(update_k) / K without noise: clipping only, not private."""

  def release(sums: Sums, state, hparams, key):
    return optax.tree.scale(1.0 / clients, sums.update), state, {}

  return Aggregator(
      init=lambda params, hparams: (),
      weight=_one,
      clip=lambda update, state, hparams: _clip(clip, update, hparams["clip_norm"]),
      release=release,
      event=lambda hparams: dp_accounting.NonPrivateDpEvent(),
      adds_noise=False,
      covers=1,
      words="clipped mean without noise",
  )


def _clip(clip: UpdateClip, update: Any, clip_norm: jax.Array):
  clipped, norm = clip(update, clip_norm)
  return clipped, norm, norm <= clip_norm


def _stddev(noise_multiplier: jax.Array, clip_norm: jax.Array) -> jax.Array:
  """z C, and 0 for z = 0 even if nothing is clipped (C infinite)."""
  return jnp.where(noise_multiplier == 0, 0.0, noise_multiplier * clip_norm)


def _signal_to_noise(total: Any, stddev: jax.Array) -> jax.Array:
  """Norm of the clean sum over the expected norm of the noise added to it; 0 of an empty sum."""
  size = sum(leaf.size for leaf in jax.tree.leaves(total))
  norm = optax.tree.norm(total)
  return jnp.where(norm == 0, 0.0, norm / (stddev * jnp.sqrt(float(size))))


def noised_mean(clip: UpdateClip, clients: int, noise: noise_mechanisms.Noise) -> Aggregator:
  """( sum_k clip(update_k) + noise of std z C ) / K, noised once, K a constant.

  Source: DP-FedAvg (McMahan et al. 2018, Algorithm 1), DP-FedEmb (Xu et al. 2023, Algorithm 1).

  Args:
    clip: knows the sensitivity of the sum, in units of the clip norm C.
    clients: K; the divisor also when fewer take part.
    noise: independent or correlated over rounds. `hparams["noise_multiplier"]` z is the standard
      deviation over C; the event divides it by the sensitivity.
  """

  def release(sums: Sums, state, hparams, key):
    stddev = _stddev(hparams["noise_multiplier"], hparams["clip_norm"])
    noisy, state = noise.add(sums.update, state, stddev, key)
    metrics = {"signal_to_noise": _signal_to_noise(sums.update, stddev)}
    return optax.tree.scale(1.0 / clients, noisy), state, metrics

  sensitivity = clip.sensitivity * noise.relative_sensitivity
  return Aggregator(
      init=lambda params, hparams: noise.init(params),
      weight=_one,
      clip=lambda update, state, hparams: _clip(clip, update, hparams["clip_norm"]),
      release=release,
      event=lambda hparams: dp_accounting.GaussianDpEvent(
          hparams["noise_multiplier"] / sensitivity),
      adds_noise=True,
      covers=noise.covers,
      words=noise.words,
      forget=lambda state: jax.tree.map(jnp.zeros_like, state),
      metrics=_SIGNAL_TO_NOISE,
      sensitivity=sensitivity,
  )


class AdaptiveClipState(NamedTuple):
  """The clip norm of the next round."""

  clip_norm: jax.Array


def adaptive_clip(
    clip: UpdateClip, clients: int, *, quantile: float, learning_rate: float,
    count_stddev_per_client: float
) -> Aggregator:
  """Gaussian mean whose clip norm follows a quantile of the update norms.

  The budget z is split: the count of norms below C gets standard deviation
  `count_stddev_per_client * K`, the updates get z_value = (z^-2 - (2 sigma_count)^-2)^(-1/2) times
  C. Centred by 1/2, the count moves by half of what the update moves by in units of C, so both
  releases together are one Gaussian release of multiplier z over the clip's sensitivity.

  Source: Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, Algorithm 1 and Theorem 1.

  Args:
    clip: knows the sensitivity of the sum.
    clients: K.
    quantile: share of clients whose norm should lie within C.
    learning_rate: of the geometric update of C.
    count_stddev_per_client: sigma_count / K.
  """
  count_stddev = count_stddev_per_client * clients

  def init(params, hparams):
    return AdaptiveClipState(jnp.asarray(hparams["clip_norm"], jnp.float32))

  def release(sums: Sums, state: AdaptiveClipState, hparams, key):
    update_key, count_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    multiplier = value_multiplier(hparams["noise_multiplier"], count_stddev)
    stddev = _stddev(multiplier, state.clip_norm)
    noisy, _ = noise_mechanisms.gaussian().add(sums.update, (), stddev, update_key)
    centred = sums.below - 0.5 * sums.clients
    fraction = 0.5 + (centred + count_stddev * jax.random.normal(count_key)) / clients
    norm = state.clip_norm * jnp.exp(-learning_rate * (fraction - quantile))
    metrics = {
        "signal_to_noise": _signal_to_noise(sums.update, stddev),
        "clip_norm": state.clip_norm,
    }
    return optax.tree.scale(1.0 / clients, noisy), AdaptiveClipState(norm), metrics

  def event(hparams):
    value_multiplier(hparams["noise_multiplier"], count_stddev)
    return dp_accounting.GaussianDpEvent(hparams["noise_multiplier"] / clip.sensitivity)

  return Aggregator(
      init=init,
      weight=_one,
      clip=lambda update, state, hparams: _clip(clip, update, state.clip_norm),
      release=release,
      event=event,
      adds_noise=True,
      covers=1,
      words="independent Gaussian noise every round; the clip norm follows a noised count",
      largest_noise=2 * count_stddev,
      metrics=_SIGNAL_TO_NOISE | {"clip_norm": Measure("clip norms", covered_by="backbone")},
      sensitivity=clip.sensitivity,
  )


def value_multiplier(noise_multiplier: Any, count_stddev: float) -> Any:
  """z_value = (z^-2 - (2 sigma_count)^-2)^(-1/2).

  Raises:
    ValueError: a concrete z of at least 2 sigma_count, which leaves nothing for the updates.
  """
  if isinstance(noise_multiplier, (int, float)) and noise_multiplier >= 2 * count_stddev:
    raise ValueError(
        f"noise_multiplier {noise_multiplier} must be below 2 * count_stddev = {2 * count_stddev} "
        "for adaptive clipping: raise count_stddev_per_client or the number of clients")
  inverse_square = jnp.asarray(noise_multiplier, jnp.float32) ** -2.0
  return (inverse_square - (2.0 * count_stddev) ** -2.0) ** -0.5
