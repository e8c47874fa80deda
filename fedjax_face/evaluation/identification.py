"""Identification against a gallery: closed-set rank-k accuracy and open-set DIR at FAR."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.evaluation.pairwise import allowed_false_accepts, block_similarity, unit_embeddings

RANKS = (1, 5, 10)
"""At which protocols report accuracy."""
_BLOCK = 512


class Enrolment(NamedTuple):
  """Rows of a data set: `gallery` one image a person, `probes` further images of people in the
  gallery, `strangers` images of people who are not in it. All int64.
  """

  gallery: np.ndarray
  probes: np.ndarray
  strangers: np.ndarray


class ProbeScores(NamedTuple):
  """Per probe: `rank` int64 [Q] of the probe's own label (1 = best; 0 where the gallery lacks it),
  `own` and `best` float32 [Q], the similarity to its own label and the highest to any label (-1
  where there is none).
  """

  rank: np.ndarray
  own: np.ndarray
  best: np.ndarray


def enrol(labels: np.ndarray, enrolled_share: float, rng: np.random.Generator) -> Enrolment:
  """Draws a gallery: one random image of each enrolled person; the rest of their images are probes.

  Args:
    labels: integer [N].
    enrolled_share: share of the people who are enrolled, in (0, 1]. 1 gives the closed set.
    rng: chooses the people and their images.

  Returns:
    Enrolment. An enrolled person with a single image only makes the gallery larger.
  """
  if not 0 < enrolled_share <= 1:
    raise ValueError(f"enrolled_share must lie in (0, 1], got {enrolled_share}")
  people = rng.permutation(np.unique(labels))
  enrolled = np.isin(labels, people[: int(np.ceil(enrolled_share * len(people)))])
  shuffled = rng.permutation(len(labels))
  first = shuffled[np.unique(labels[shuffled], return_index=True)[1]]
  gallery = np.sort(first[enrolled[first]])
  probes = np.setdiff1d(np.flatnonzero(enrolled), gallery)
  return Enrolment(gallery, probes, np.flatnonzero(~enrolled))


def score_probes(
  gallery: np.ndarray | jax.Array,
  gallery_labels: np.ndarray,
  probes: np.ndarray | jax.Array,
  probe_labels: np.ndarray,
) -> ProbeScores:
  """Compares every probe with every gallery label; a label's score is that of its nearest gallery
  image.

  Args:
    gallery: unit embeddings, float [G, D].
    gallery_labels: integer [G].
    probes: unit embeddings, float [Q, D].
    probe_labels: integer [Q].

  Returns:
    ProbeScores. A label that ties with the probe's own counts as ranked before it.
  """
  gallery, probes = unit_embeddings(gallery), unit_embeddings(probes)
  if not len(gallery):
    raise ValueError("identification needs at least one gallery image")
  order = np.argsort(gallery_labels, kind="stable")
  names, segment = np.unique(gallery_labels[order], return_inverse=True)
  place = np.searchsorted(names, probe_labels)
  known = names[np.minimum(place, len(names) - 1)] == probe_labels
  place = np.where(known, place, -1).astype(np.int32)
  by_label, classes = jnp.asarray(gallery[order]), jnp.asarray(segment, jnp.int32)
  parts = []
  for start in range(0, len(probes), _BLOCK):
    block = slice(start, start + _BLOCK)
    padding = _BLOCK - len(probes[block])
    part = _score_block(
      by_label,
      classes,
      np.pad(probes[block], ((0, padding), (0, 0))),
      np.pad(place[block], (0, padding)),
      labels=len(names),
    )
    parts.append([np.asarray(p)[: _BLOCK - padding] for p in part])
  rank, own, best = (
    (np.concatenate(p) for p in zip(*parts, strict=True)) if parts else np.zeros((3, 0))
  )
  return ProbeScores(rank.astype(np.int64), own, best)


def rank_accuracy(scores: ProbeScores, ranks: Sequence[int] = (1, 5, 10)) -> np.ndarray:
  """Closed set: share of probes whose own label is among the best k, float64 [len(ranks)]."""
  if np.any(scores.rank == 0):
    raise ValueError("closed-set identification needs every probe's label in the gallery")
  return np.array([np.mean(scores.rank <= k) if len(scores.rank) else np.nan for k in ranks])


def detection_and_identification_rate(
  probes: ProbeScores, strangers: ProbeScores, fars: Sequence[float]
) -> np.ndarray:
  """Open set: share of probes recognised at rank 1 above the threshold that strangers pass at rate
  `far`.

  Args:
    probes: scores of probes whose labels are in the gallery.
    strangers: scores of probes whose labels are not.
    fars: share of strangers whose best similarity may reach the threshold.

  Returns:
    float64 [len(fars)], the largest rate whose FAR does not exceed each target.
  """
  if np.any(strangers.rank != 0):
    raise ValueError("open-set identification needs strangers whose labels are not in the gallery")
  impostors = np.sort(strangers.best)[::-1]
  rates = []
  for far in fars:
    k = allowed_false_accepts(far, len(impostors))
    bar = impostors[k] if k < len(impostors) else -np.inf
    rates.append(np.mean((probes.rank == 1) & (probes.own > bar)) if len(probes.rank) else np.nan)
  return np.array(rates)


@functools.partial(jax.jit, static_argnames="labels")
def _score_block(
  gallery: jax.Array, segment: jax.Array, probes: jax.Array, place: jax.Array, *, labels: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(rank, own, best) of one block of probes."""
  scores = jax.ops.segment_max(
    block_similarity(gallery, probes), segment, num_segments=labels, indices_are_sorted=True
  ).T
  own = jnp.where(
    place >= 0, jnp.take_along_axis(scores, jnp.maximum(place, 0)[:, None], axis=1)[:, 0], -1.0
  )
  rank = jnp.where(place >= 0, jnp.sum(scores >= own[:, None], axis=1), 0)
  return rank, own, scores.max(axis=1)
