"""All attacks on one run of split learning: what an edge server learns from what it receives.

The server is honest but curious: it knows the device part, the mechanism and public pictures, and
has one noised activation of every training picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_face.attacks import decoder, distinguishing, inversion, membership, reconstruction
from fedjax_face.attacks.attribute import attribute_attack
from fedjax_face.attacks.averaging import Averaged, averaging
from fedjax_face.attacks.distinguishing import Distinguishing
from fedjax_face.attacks.error_rates import Bound, Guess, Separation, gaussian_bound
from fedjax_face.attacks.label_leakage import cluster_attack, rarest_attacks, residual_attack
from fedjax_face.attacks.reconstruction import Quality, Reidentification
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.sources import Sources
from fedjax_face.split.mechanism import example_keys, noised
from fedjax_face.split.message import Reply
from fedjax_face.split.step import logit_gradients
from fedjax_face.split.system import SplitState, SplitSystem

EmbedFn = Callable[[jax.Array], jax.Array]
_CHUNK = 64
_ITERATIONS = 10  # of the clustering of gradients


class LabelGuesses(NamedTuple):
  """Labels guessed from all gradients of the logits that a run under `u_shaped` sends.

  Attributes:
    by_residual: by what the gradients differ from the server's own probabilities.
    by_clusters: by their directions, one example of each class known; no bound holds here, as the
      server's probabilities may show the label as well.
    by_norm: the person with the fewest images told from the others by the length of the gradients.
    by_cosine: the same by their direction, one example of that person known; no bound holds for
      either, as for the clusters. Both None where fewer than two people have further images.
  """

  by_residual: Guess
  by_clusters: Guess
  by_norm: Separation | None
  by_cosine: Separation | None


class Findings(NamedTuple):
  """What the attacks on one run found.

  Attributes:
    quality: of the decoder's reconstructions of one training picture of each person.
    blind: of the mean public picture, for which nothing needs to be received.
    inverted: of white-box inversion, where it was asked for.
    recognised: people recognised on the decoder's reconstructions, and on the originals.
    distinguished: the two training pictures whose activations lie farthest apart, told from one
      release; None without noise.
    audited: the same for two activations as far apart as the clip allows.
    noise: what was received about the clean activations, beside the noise that is claimed; None
      without noise.
    repeated: pictures whose noise is also another picture's.
    averaged: the mean of as many releases with fresh noise as there are passes, each with the
      noise that `frozen_fresh` needs for the same epsilon; None without noise.
    labels: noise multiplier of the gradients of the logits, which devices send under `u_shaped` in
      every pass -> labels guessed from them.
    members: training pictures told from others by the trained server's loss.
    members_by_transcript: by the nearest activation that the server received.
    members_by_ratio: the same by likelihood ratios of shadow servers, where it was asked for.
    trait: gender read from the activations; None where the pictures have no such label.
    originals: uint8 [P, H, W, C], the pictures under attack.
    rebuilt: uint8 [P, H, W, C], by the decoder.
  """

  quality: Quality
  blind: Quality
  inverted: Quality | None
  recognised: Reidentification
  distinguished: Distinguishing | None
  audited: Distinguishing | None
  noise: Averaged | None
  repeated: int
  averaged: Averaged | None
  labels: dict[float, LabelGuesses]
  members: Separation
  members_by_transcript: Separation
  members_by_ratio: Separation | None
  trait: Guess | None
  originals: np.ndarray
  rebuilt: np.ndarray


def attack(system: SplitSystem, state: SplitState, noise_multiplier: float, received: np.ndarray,
           order: np.ndarray, sources: Sources, embed: EmbedFn, options: Mapping[str, Any],
           key: jax.Array) -> Findings:
  """Plays every attack on the finished run of `system`.

  Args:
    system: of the run.
    state: after training.
    noise_multiplier: z of one activation, as the run used it; 0: none.
    received: f32 [N, ...], what the server has of the training pictures, as the device code makes
      it (`Algorithm.prepare`).
    order: int [N], the row of `sources.train` that each is of, which only the judge knows.
    sources: `train`, `evaluation` (other pictures of the same people) and `public`.
    embed: uint8 [B, H, W, C] -> embeddings; the attacker's face recogniser, of public data.
    options: `decoder`: keyword arguments of `train_decoder`; `inversion`: of `inversion`, and
      `pictures`, 0 for none; `trials` of distinguishing; `shadows`, 0 for none, and
      `shadow_learning_rate`; `ridge` of the trait; `label_noise`: noise multipliers of the
      gradients that labels are guessed from.
    key: of the attacks' own draws.

  Raises:
    ValueError: there is no public set, or a run of another mode or of several devices.
  """
  require_attacked(system.schedule.mode, system.devices)
  if sources.public is None:
    raise ValueError("the attacks need data.public: the attacker's own pictures")
  key, *keys = jax.random.split(key, 8)
  device = system.device_of(state, 0)
  features = _features(system, device)
  sigma = float(system.clip.noise_stddev(system.clip_norm, noise_multiplier))
  train, public = sources.train, sources.public
  own_images, public_images = np.asarray(train.images), np.asarray(public.images)
  clean = features(own_images)
  sent = np.empty_like(received)
  sent[order] = received
  bound = _bound(1 / noise_multiplier if noise_multiplier else math.inf)
  victims = np.unique(train.person, return_index=True)[1]
  of_public = features(public_images)

  decode = decoder.train_decoder(jnp.asarray(of_public), public_images, sigma, keys[1],
                                 **options["decoder"])
  originals = own_images[victims]
  rebuilt = decode.reconstruct(jnp.asarray(sent[victims]))
  gallery = sources.evaluation
  pictures = options["inversion"].get("pictures", 0)
  inverted = None
  if pictures:
    found = _invert(system, device, sent[victims[:pictures]], public_images, options["inversion"])
    inverted = reconstruction.quality(found, originals[:pictures])
  members, by_transcript, by_ratio = _membership(
      system, state, features, sources, received, sigma, bound, options, keys[2])
  farthest = distinguishing.worst_pair(clean)
  tell = lambda first, second, key: _distinguish(
      system, jnp.asarray(first), jnp.asarray(second), sigma, noise_multiplier, options["trials"],
      key)
  return Findings(
      quality=reconstruction.quality(rebuilt, originals),
      blind=reconstruction.blind_quality(public_images, originals),
      inverted=inverted,
      recognised=reconstruction.reidentification(
          embed, np.asarray(gallery.images), gallery.label, rebuilt, originals,
          train.label[victims], bound=bound),
      distinguished=tell(clean[farthest.first], clean[farthest.second], keys[3]),
      audited=tell(*distinguishing.canaries(
          system.split.shape, system.clip_norm, system.clip.non_negative), keys[0]),
      noise=averaging(sent[None], clean, sigma)[0] if sigma else None,
      repeated=_repeated(sent - clean) if sigma else 0,
      averaged=_averaged(system, clean[victims], noise_multiplier, keys[5]) if sigma else None,
      labels={float(multiplier): _labels(system, state.server.params, sent, train.label, victims,
                                         multiplier, keys[6])
              for multiplier in options["label_noise"]},
      members=members,
      members_by_transcript=by_transcript,
      members_by_ratio=by_ratio,
      trait=_trait(public, train, of_public, sent, victims, sigma, bound, options["ridge"],
                   keys[4]),
      originals=originals,
      rebuilt=rebuilt,
  )


def require_attacked(mode: str, devices: int) -> None:
  """Refuses runs in which a picture may be sent more than once.

  Args:
    mode: of the device part.
    devices: K.

  Raises:
    ValueError: another mode than `frozen_cached`, or several devices.
  """
  if mode != "frozen_cached" or devices > 1:
    raise ValueError(f"method.device sends as {mode}, method.clients.number={devices}: the suite "
                     "attacks frozen_cached with one device, where a picture is sent once")


def _bound(mu: float) -> Bound:
  return (lambda rate: 1.0) if math.isinf(mu) else gaussian_bound(mu)


def _features(system: SplitSystem, device: Any) -> Callable[[np.ndarray], np.ndarray]:
  """uint8 images [N, H, W, C] -> clipped activations [N, ...], in chunks of one size."""
  run = jax.jit(lambda images: system.clip(system.split.device(device, images), system.clip_norm))

  def features(images: np.ndarray) -> np.ndarray:
    rows = np.arange(-(-len(images) // _CHUNK) * _CHUNK) % len(images)
    found = [np.asarray(run(images[rows[i:i + _CHUNK]])) for i in range(0, len(rows), _CHUNK)]
    return np.concatenate(found)[:len(images)]

  return features


def _noised(clean: np.ndarray, sigma: float, key: jax.Array) -> np.ndarray:
  return clean + sigma * np.asarray(jax.random.normal(key, clean.shape))


def _invert(system: SplitSystem, device: Any, received: np.ndarray, public: np.ndarray,
            options: Mapping[str, Any]) -> np.ndarray:
  """Grey values of pictures whose activations are nearest, starting from the mean public one."""
  features = lambda pixels: system.clip(system.split.device(device, pixels), system.clip_norm)
  invert = inversion.inversion(features, **{k: v for k, v in options.items() if k != "pictures"})
  start = jnp.asarray(public.mean(0, dtype=np.float64) / 128 - 1, jnp.float32)
  return reconstruction.grey_values(invert(jnp.asarray(received, jnp.float32), start[None]).pixels)


def _distinguish(system: SplitSystem, first: jax.Array, second: jax.Array, sigma: float,
                 noise_multiplier: float, trials: int, key: jax.Array) -> Distinguishing | None:
  if not sigma:
    return None
  release = lambda activations, keys: noised(
      activations, system.clip, system.clip_norm, noise_multiplier, keys)
  return distinguishing.distinguish(release, first, second, key, sigma=sigma,
                                    mu=1 / noise_multiplier, trials=trials)


def _repeated(noise: np.ndarray) -> int:
  """Rows of [N, ...] that are also another row, up to the rounding of a sum."""
  rows = np.round(noise.reshape(len(noise), -1) / np.abs(noise).max(), 4)
  counts = np.unique(rows, axis=0, return_counts=True)[1]
  return int(counts[counts > 1].sum())


def _averaged(system: SplitSystem, clean: np.ndarray, noise_multiplier: float,
              key: jax.Array) -> Averaged:
  """All that a run of `frozen_fresh` sends of some pictures at this run's epsilon, averaged."""
  passes = system.schedule.epochs
  each = noise_multiplier * math.sqrt(passes)
  send = jax.jit(lambda key: noised(jnp.asarray(clean), system.clip, system.clip_norm, each,
                                    example_keys(key, jnp.arange(len(clean)))))
  received = np.stack([np.asarray(send(own)) for own in jax.random.split(key, passes)])
  return averaging(received, clean, float(system.clip.noise_stddev(system.clip_norm, each)))[-1]


def _labels(system: SplitSystem, server: Any, sent: np.ndarray, labels: np.ndarray,
            hints: np.ndarray, noise_multiplier: float, key: jax.Array) -> LabelGuesses:
  """From the gradients of all passes, each with fresh noise, all of the trained server's logits.

  One example of each class, a row of `hints`, is known to the clustering.
  """
  passes = system.schedule.epochs
  logits = jax.jit(system.split.server)(server, sent)
  reply = Reply(logits, jnp.arange(len(sent)), jnp.int32(0))
  send = jax.jit(lambda reply, labels, key: logit_gradients(
      reply, labels, noise_multiplier, key).values)
  gradients = np.stack([np.asarray(send(reply, jnp.asarray(labels), own))
                        for own in jax.random.split(key, passes)])
  probabilities = np.broadcast_to(np.asarray(jax.nn.softmax(logits)), gradients.shape)
  known = np.zeros(len(sent), bool)
  known[hints] = True
  mean = gradients.mean(0)
  told_hints = mean[hints[np.argsort(labels[hints])]]
  return LabelGuesses(
      residual_attack(probabilities, gradients, labels,
                      _bound(math.sqrt(passes) / noise_multiplier if noise_multiplier
                             else math.inf)),
      cluster_attack(mean[~known], labels[~known], told_hints, iterations=_ITERATIONS),
      *rarest_attacks(mean[~known], labels[~known], told_hints))


def _trait(public: FaceDataset, train: FaceDataset, of_public: np.ndarray, sent: np.ndarray,
           victims: np.ndarray, sigma: float, bound: Bound, ridge: float,
           key: jax.Array) -> Guess | None:
  if public.gender is None or train.gender is None:
    return None
  known, shown = _gender_known(public), victims[_gender_known(train)[victims]]
  return attribute_attack(
      _noised(of_public[known], sigma, key), public.gender[known] == 1, sent[shown],
      train.gender[shown] == 1, ridge=ridge, bound=bound)


def _gender_known(dataset: FaceDataset) -> np.ndarray:
  known = dataset.gender_known
  return np.ones(len(dataset), bool) if known is None else np.asarray(known)


def _membership(system: SplitSystem, state: SplitState, features: Callable, sources: Sources,
                received: np.ndarray, sigma: float, bound: Bound, options: Mapping[str, Any],
                key: jax.Array) -> tuple[Separation, Separation, Separation | None]:
  """By loss, by transcript, by likelihood ratio; an attacker with a picture has its activation."""
  train, others = sources.train, sources.evaluation
  rows = features(np.concatenate([train.images, others.images]))
  labels = np.concatenate([train.label, others.label])
  member = np.arange(len(rows)) < len(train)
  losses = _losses(system, state.server.params, rows, labels)
  plain = membership.membership(membership.loss_scores(losses), member, bound)
  nearest = membership.membership(_nearest(rows, received, sigma), member, bound)
  if not options["shadows"]:
    return plain, nearest, None
  halves = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, len(rows)))(
      jax.random.split(key, -(-options["shadows"] // 2)))) < len(rows) // 2
  chosen = np.concatenate([halves, ~halves])  # every picture is in half of the shadows
  shadows = _shadows(system, rows, labels, chosen, sigma,
                     options["shadow_learning_rate"], jax.random.fold_in(key, 1))
  scores = membership.lira_scores(
      membership.logit_confidence(shadows), chosen, membership.logit_confidence(losses),
      pooled_variance=True)
  return plain, nearest, membership.membership(scores, member, bound)


def _nearest(rows: np.ndarray, received: np.ndarray, sigma: float) -> np.ndarray:
  """Of each activation [M, ...] how likely it is that a received one is its own.

  The best log-likelihood ratio against nothing but noise; without noise, closeness.
  """
  flat, other = rows.reshape(len(rows), -1), received.reshape(len(received), -1)
  own = 0.0 if sigma else 0.5 * (other**2).sum(1)
  return (flat @ other.T - 0.5 * (flat**2).sum(1, keepdims=True) - own).max(1)


def _losses(system: SplitSystem, server: Any, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
  run = jax.jit(lambda rows, labels: optax.softmax_cross_entropy_with_integer_labels(
      system.split.server(server, rows), labels))
  order = np.arange(-(-len(rows) // _CHUNK) * _CHUNK) % len(rows)
  found = [np.asarray(run(rows[order[i:i + _CHUNK]], labels[order[i:i + _CHUNK]]))
           for i in range(0, len(order), _CHUNK)]
  return np.concatenate(found)[:len(rows)]


def _shadows(system: SplitSystem, rows: np.ndarray, labels: np.ndarray, member: np.ndarray,
             sigma: float, learning_rate: float, key: jax.Array) -> np.ndarray:
  """Losses [M, N] of M servers, each trained as the attacked one on its own part of the rows."""
  batch, epochs = system.schedule.batch, system.schedule.epochs
  inside = np.stack([np.flatnonzero(m)[:member.sum(1).min()] for m in member])
  steps = inside.shape[1] // batch
  optimizer = optax.adam(learning_rate)
  all_rows, all_labels = jnp.asarray(rows), jnp.asarray(labels)

  @jax.jit
  def shadow(inside: jax.Array, key: jax.Array) -> jax.Array:
    of_params, of_noise, of_order = jax.random.split(key, 3)
    sent = all_rows + sigma * jax.random.normal(of_noise, rows.shape)

    def loss(params, chosen):
      return optax.softmax_cross_entropy_with_integer_labels(
          system.split.server(params, sent[chosen]), all_labels[chosen]).mean()

    def step(carry, chosen):
      params, optimizer_state = carry
      updates, optimizer_state = optimizer.update(jax.grad(loss)(params, chosen), optimizer_state)
      return (optax.apply_updates(params, updates), optimizer_state), None

    def epoch(carry, key):
      order = jax.random.permutation(key, inside)[:steps * batch].reshape(steps, batch)
      return jax.lax.scan(step, carry, order)[0], None

    params = system.init_server(of_params)
    (params, _), _ = jax.lax.scan(
        epoch, (params, optimizer.init(params)), jax.random.split(of_order, epochs))
    return optax.softmax_cross_entropy_with_integer_labels(
        system.split.server(params, all_rows), all_labels)

  keys = jax.random.split(key, len(member))
  return np.stack([np.asarray(shadow(jnp.asarray(rows_in), k))
                   for rows_in, k in zip(inside, keys, strict=True)])
