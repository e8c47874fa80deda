"""The protocol of templates: 1:1 and 1:N of IJB-B and IJB-C, as metrics with intervals.

Source: Whitelam et al., CVPR Workshops 2017 (IJB-B), and Maze et al., ICB 2018 (IJB-C).
"""

from __future__ import annotations

import numpy as np

from fedjax_face.data.readers.template_lists import TemplateLists
from fedjax_face.evaluation import confidence, verification
from fedjax_face.evaluation.evaluated import Evaluation
from fedjax_face.evaluation.identification import (
  RANKS,
  detection_and_identification_rate,
  rank_accuracy,
)
from fedjax_face.evaluation.metric import Metric, column, far_note
from fedjax_face.evaluation.templates import identify_templates, template_similarity


def templates(data: Evaluation) -> dict[str, Metric]:
  """TAR at FAR of the pairs of templates (1:1), rank 1, 5, 10 and DIR at FAR of probes (1:N).

  Of 1:1 and 1:N what the lists ask for. Subjects are resampled, where they are known.
  """
  lists = data.required_templates()
  rows = data.embeddings[lists.row]
  found: dict[str, Metric] = {}
  if lists.pairs is not None:
    found |= _template_pairs(data, rows, lists)
  if lists.gallery is not None:
    found |= _template_probes(data, rows, lists)
  return found


def _template_pairs(data: Evaluation, rows: np.ndarray, lists: TemplateLists) -> dict[str, Metric]:
  pairs = lists.pairs
  assert pairs is not None
  similarity, negatives = template_similarity(rows, lists.images, pairs), int(np.sum(~pairs.same))
  tar = lambda weights: verification.tar_at_far(similarity, pairs.same, data.fars, weights).tar
  left, right = lists.subjects_of(pairs.left), lists.subjects_of(pairs.right)
  draws = None
  if data.bootstrap and min(left.min(), right.min()) >= 0:
    draws = confidence.resampled_pairs(tar, left, right, data.bootstrap, data.rng(10))
  return {f"templates/tar@far={far:g}": Metric.resampled(
    float(value), column(draws, i), far_note(far, negatives), far)
    for i, (far, value) in enumerate(zip(data.fars, tar(None), strict=True))}


def _template_probes(data: Evaluation, rows: np.ndarray, lists: TemplateLists) -> dict[str, Metric]:
  known, subject, strangers = identify_templates(rows, lists)
  note = "gallery held fixed in the interval" if data.bootstrap else ""
  found = {}
  for k, value in zip(RANKS, rank_accuracy(known, RANKS), strict=True):
    draws = (confidence.resampled_mean(1.0 * (known.rank <= k), subject, data.bootstrap,
                                       data.rng(11)) if data.bootstrap and len(subject) else None)
    found[f"templates/rank{k}"] = Metric.resampled(float(value), draws, note)
  if not len(strangers.rank):
    return found
  rates = detection_and_identification_rate(known, strangers, data.fars)
  return found | {f"templates/dir@far={far:g}": Metric(float(value), note="; ".join(filter(None, [
    far_note(far, len(strangers.rank), "stranger templates"), "no interval"])))
    for far, value in zip(data.fars, rates, strict=True)}
