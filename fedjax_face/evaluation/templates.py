"""Templates, sets of images and video frames of one person, verified 1:1 and identified 1:N.

The lists of a protocol are read by `data.readers.template_lists`.

Source: Whitelam et al., CVPR Workshops 2017 (IJB-B), and Maze et al., ICB 2018 (IJB-C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.data.readers.template_lists import TemplateImages, TemplateLists, TemplatePairs
from fedjax_face.evaluation.identification import ProbeScores, score_probes
from fedjax_face.evaluation.pairwise import pair_similarity
from fedjax_face.evaluation.verification import TarAtFar, tar_at_far


class Identified(NamedTuple):
  """Probes against a gallery.

  Attributes:
    known: scores of the probes whose subject is enrolled.
    subject: int64, subject of each of these.
    strangers: scores of the other probes.
  """

  known: ProbeScores
  subject: np.ndarray
  strangers: ProbeScores


def pool_templates(
  embeddings: np.ndarray | jax.Array, template: np.ndarray, media: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Averages the images of a medium, then the media of a template, then normalises.

  Args:
    embeddings: float [N, D], one an image.
    template: integer [N]; an image in several templates appears once for each.
    media: integer [N], ids unique within a template.

  Returns:
    (ids int64 [T] ascending, pooled float32 [T, D] of unit length).
  """
  embeddings = np.asarray(embeddings, np.float32)
  if not len(embeddings) == len(template) == len(media):
    raise ValueError(
      "embeddings, template and media must have one length, got "
      f"{len(embeddings)}, {len(template)}, {len(media)}"
    )
  keys, medium = np.unique(np.stack([template, media], axis=1), axis=0, return_inverse=True)
  ids, owner = np.unique(keys[:, 0], return_inverse=True)
  pooled = _group_mean(_group_mean(embeddings, medium.reshape(-1), len(keys)), owner, len(ids))
  return ids, pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def verify_templates(
  embeddings: np.ndarray | jax.Array,
  images: TemplateImages,
  pairs: TemplatePairs,
  fars: Sequence[float],
) -> TarAtFar:
  """TAR at each FAR over the pairs of a template protocol; embeddings [N, D] in the order of
  `images`.
  """
  return tar_at_far(
    template_similarity(embeddings, images, pairs), pairs.same, fars)


def template_similarity(
  embeddings: np.ndarray | jax.Array, images: TemplateImages, pairs: TemplatePairs
) -> np.ndarray:
  """Cosine of the pooled templates of every pair, [P]; embeddings [N, D] in the order of `images`.
  """
  ids, pooled = pool_templates(embeddings, images.template, images.media)
  sides = [
    np.minimum(np.searchsorted(ids, side), len(ids) - 1) for side in (pairs.left, pairs.right)
  ]
  for side, wanted in zip(sides, (pairs.left, pairs.right), strict=True):
    if np.any(ids[side] != wanted):
      raise ValueError(f"template {wanted[ids[side] != wanted][0]} of the pair list has no image")
  return np.asarray(pair_similarity(pooled, *sides))


def identify_templates(embeddings: np.ndarray | jax.Array, lists: TemplateLists) -> Identified:
  """Scores of every probe against the gallery; embeddings [N, D] in the order of `lists.images`.

  Raises:
    ValueError: the lists have no gallery.
  """
  if lists.gallery is None or lists.probes is None:
    raise ValueError("templates: there is no gallery to identify in")
  ids, pooled = pool_templates(embeddings, lists.images.template, lists.images.media)
  of = lambda templates: pooled[np.searchsorted(ids, templates)]
  enrolled, asked = lists.subjects_of(lists.gallery), lists.subjects_of(lists.probes)
  known = np.isin(asked, enrolled)
  scores = [score_probes(of(lists.gallery), enrolled, of(lists.probes[part]), asked[part])
            for part in (known, ~known)]
  return Identified(scores[0], asked[known], scores[1])


def _group_mean(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
  """Mean of the rows of each group: float32 [groups, D]."""
  total = np.zeros((groups, values.shape[1]), np.float32)
  np.add.at(total, group, values)
  return total / np.bincount(group, minlength=groups)[:, None].astype(np.float32)
