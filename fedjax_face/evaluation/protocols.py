"""Evaluation protocols by name: from an embedding function and a data set to metrics with
intervals.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation import confidence, verification
from fedjax_face.evaluation.confidence import Interval
from fedjax_face.evaluation.embedding import EmbedFn, Flip, embed_dataset
from fedjax_face.evaluation.identification import (
  ProbeScores,
  detection_and_identification_rate,
  enrol,
  rank_accuracy,
  score_probes,
)
from fedjax_face.evaluation.insightface import insightface_scores
from fedjax_face.evaluation.pairwise import operating_points
from fedjax_face.evaluation.recall_at_far import recall_at_far_approx
from fedjax_face.evaluation.recall_confidence import bootstrap_recall
from fedjax_face.evaluation.retrieval import retrieval_scores

if TYPE_CHECKING:
  from fedjax_face.data.dataset import FaceDataset

_RANKS = (1, 5, 10)
_NO_INTERVAL = Interval(float("nan"), float("nan"))


@dataclasses.dataclass(frozen=True)
class Metric:
  """A value with its confidence interval (nan where none was asked for) and what a reader must
  know.
  """

  value: float
  low: float = float("nan")
  high: float = float("nan")
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a protocol works on; embeddings are computed when first asked for, once for each flip."""

  embed_fn: EmbedFn
  dataset: FaceDataset
  pairs: Pairs | None
  fars: tuple[float, ...]
  batch_size: int
  bootstrap: int
  seed: int
  flip: Flip

  @functools.cached_property
  def embeddings(self) -> np.ndarray:
    """Unit embeddings [N, D] with the flip asked for."""
    if self.flip == "sum":
      return self.flip_sum_embeddings
    return embed_dataset(self.embed_fn, self.dataset.images, self.batch_size, self.flip)

  @functools.cached_property
  def flip_sum_embeddings(self) -> np.ndarray:
    """Unit embeddings [N, D] of the summed flip test."""
    return embed_dataset(self.embed_fn, self.dataset.images, self.batch_size, "sum")

  def required_pairs(self, protocol: str) -> Pairs:
    """The pairs, or a ValueError that names the protocol."""
    if self.pairs is None:
      raise ValueError(f"protocol {protocol} needs pairs, e.g. those of pairs_from_labels")
    return self.pairs

  def rng(self, *stream: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng([self.seed, *stream])


def evaluate(
  protocol_names: Sequence[str],
  embed_fn: EmbedFn,
  dataset: FaceDataset,
  pairs: Pairs | None = None,
  *,
  fars: Sequence[float],
  batch_size: int,
  bootstrap: int,
  seed: int,
  flip: Flip = False,
) -> dict[str, Metric]:
  """Runs protocols on one data set.

  Args:
    protocol_names: any of `PROTOCOLS`.
    embed_fn: uint8 [B, H, W, C] -> embeddings [B, D]; see `embed_dataset` on compilation.
    dataset: images, labels (what is recognised) and persons (who is resampled for intervals).
    pairs: a verification protocol on the rows of `dataset`; 'lfw_view2', 'insightface' and
      'tar_at_far' need it.
    fars: false accept rates.
    batch_size: images embedded at once, and the batch of 'recall_approx'.
    bootstrap: resamples over people for 95 % intervals, 0 for none.
    seed: of galleries, shuffles and resamples.
    flip: flip test for all protocols ('insightface' always sums).

  Returns:
    Metrics by name, such as 'recall_all_pairs@far=0.001' or 'identification/rank1'. Embeddings that
    are not finite give a single metric 'embeddings' of nan that says so.

  Raises:
    ValueError: an unknown protocol, or one that lacks its pairs.
  """
  unknown = [name for name in protocol_names if name not in PROTOCOLS]
  if unknown:
    raise ValueError(f"unknown protocol {unknown[0]!r}, expected any of {', '.join(PROTOCOLS)}")
  data = Evaluation(embed_fn, dataset, pairs, tuple(fars), batch_size, bootstrap, seed, flip)
  for name in set(protocol_names) & {"lfw_view2", "insightface", "tar_at_far"}:
    data.required_pairs(name)
  if not np.isfinite(data.embeddings).all():
    return {"embeddings": Metric(float("nan"), note="embeddings are not finite")}
  metrics: dict[str, Metric] = {}
  for name in protocol_names:
    metrics |= PROTOCOLS[name](data)
  return metrics


def recall_all_pairs(data: Evaluation) -> dict[str, Metric]:
  """Recall at FAR over all pairs."""
  points = operating_points(data.embeddings, data.dataset.label, data.fars)
  intervals = [_NO_INTERVAL] * len(points)
  if data.bootstrap:
    intervals = bootstrap_recall(
      data.embeddings,
      data.dataset.label,
      data.dataset.person,
      data.fars,
      data.bootstrap,
      data.rng(1),
    )
  return {
    f"recall_all_pairs@far={point.far_target:g}": Metric(
      point.recall, *interval, note=_far_note(point.far_target, point.negatives)
    )
    for point, interval in zip(points, intervals, strict=True)
  }


def recall_approx(data: Evaluation) -> dict[str, Metric]:
  """Recall at FAR over the pairs within shuffled batches."""
  order = data.rng(2).permutation(len(data.dataset.label))
  recall = recall_at_far_approx(
    data.embeddings[order], data.dataset.label[order], data.fars, batch_size=data.batch_size
  )
  note = f"pairs within shuffled batches of {data.batch_size}, 200 thresholds; no interval"
  return {
    f"recall_approx@far={far:g}": Metric(float(r), note=note)
    for far, r in zip(data.fars, recall, strict=True)
  }


def lfw_view2(data: Evaluation) -> dict[str, Metric]:
  """Cross-validated accuracy, AUC and EER of the pairs."""
  pairs = data.required_pairs("lfw_view2")
  similarity = verification.similarity_of_pairs(data.embeddings, pairs)

  def statistics(weights: np.ndarray | None) -> tuple[float, float, float]:
    curve = verification.roc(similarity, pairs.same, weights)
    folds = verification.cross_validated_accuracy(similarity, pairs.same, pairs.fold, weights)
    return folds.mean, verification.auc(curve), verification.eer(curve)

  folds = verification.cross_validated_accuracy(similarity, pairs.same, pairs.fold)
  note = f"mean of {len(folds.per_fold)} folds, standard error {folds.standard_error:.4f}"
  intervals = _pair_intervals(statistics, data, pairs, stream=3, count=3)
  return {
    f"lfw_view2/{name}": Metric(value, *interval, note=note if name == "accuracy" else "")
    for name, value, interval in zip(
      ("accuracy", "auc", "eer"), statistics(None), intervals, strict=True
    )
  }


def insightface(data: Evaluation) -> dict[str, Metric]:
  """Accuracy and TAR at FAR 1e-3 as the InsightFace project computes them."""
  pairs = data.required_pairs("insightface")
  scores = insightface_scores(data.flip_sum_embeddings, pairs)
  spread = f"standard deviation over folds {scores.accuracy_std:.4f}"
  reached = f"standard deviation over folds {scores.tar_std:.4f}, FAR reached {scores.far:.2g}"
  few = _far_note(1e-3, int(np.sum(~pairs.same)))
  one_kind = any(part.all() or not part.any() for part in np.array_split(pairs.same, 10))
  order = "a tenth of the list holds one kind of pair only, use all ten folds" if one_kind else ""
  return {
    "insightface/accuracy": Metric(
      scores.accuracy, note="; ".join(filter(None, [spread, order, "no interval"]))
    ),
    "insightface/tar@far=0.001": Metric(
      scores.tar, note="; ".join(filter(None, [reached, few, order, "no interval"]))
    ),
  }


def tar_at_far(data: Evaluation) -> dict[str, Metric]:
  """True accept rate of the pairs at each FAR."""
  pairs = data.required_pairs("tar_at_far")
  similarity = verification.similarity_of_pairs(data.embeddings, pairs)
  rates = verification.tar_at_far(similarity, pairs.same, data.fars).tar
  intervals = _pair_intervals(
    lambda weights: verification.tar_at_far(similarity, pairs.same, data.fars, weights).tar,
    data,
    pairs,
    stream=4,
    count=len(data.fars),
  )
  negatives = int(np.sum(~pairs.same))
  return {
    f"tar@far={far:g}": Metric(float(rate), *interval, note=_far_note(far, negatives))
    for far, rate, interval in zip(data.fars, rates, intervals, strict=True)
  }


def identification(data: Evaluation) -> dict[str, Metric]:
  """Closed-set rank 1, 5, 10 with everyone enrolled, and open-set DIR at FAR with half of the
  people enrolled.
  """
  closed, closed_probes, _ = _enrolled_scores(data, 1.0, stream=5)
  opened, open_probes, strangers = _enrolled_scores(data, 0.5, stream=6)
  note = "gallery of one random image a person" + ", held fixed in the interval" * bool(
    data.bootstrap
  )
  metrics = {}
  for k, value in zip(_RANKS, rank_accuracy(closed, _RANKS), strict=True):
    interval = _mean_interval(data, closed.rank <= k, data.dataset.person[closed_probes], stream=7)
    metrics[f"identification/rank{k}"] = Metric(float(value), *interval, note=note)
  rates = detection_and_identification_rate(opened, strangers, data.fars)
  for far, value in zip(data.fars, rates, strict=True):
    few = _far_note(far, len(strangers.rank), "stranger images")
    metrics[f"identification/dir@far={far:g}"] = Metric(
      float(value),
      note="; ".join(filter(None, ["half of the people enrolled", few, "no interval"])),
    )
  return metrics


def retrieval(data: Evaluation) -> dict[str, Metric]:
  """Precision@1, R-precision and mAP@R, every image a query."""
  scores = retrieval_scores(data.embeddings, data.dataset.label)
  note = f"{len(scores.query)} queries" + ", gallery held fixed in the interval" * bool(
    data.bootstrap
  )
  return {
    f"retrieval/{name}": Metric(
      float(values.mean()) if len(values) else float("nan"),
      *_mean_interval(data, values, data.dataset.person[scores.query], stream=8),
      note=note,
    )
    for name, values in scores._asdict().items()
    if name != "query"
  }


PROTOCOLS: Mapping[str, Callable[[Evaluation], dict[str, Metric]]] = {
  "recall_all_pairs": recall_all_pairs,
  "recall_approx": recall_approx,
  "lfw_view2": lfw_view2,
  "insightface": insightface,
  "tar_at_far": tar_at_far,
  "identification": identification,
  "retrieval": retrieval,
}


def _enrolled_scores(
  data: Evaluation, share: float, stream: int
) -> tuple[ProbeScores, np.ndarray, ProbeScores]:
  """(scores of probes, rows of probes, scores of strangers) for a random gallery."""
  labels = data.dataset.label
  parts = enrol(labels, share, data.rng(stream))
  probes, strangers = (
    score_probes(
      data.embeddings[parts.gallery], labels[parts.gallery], data.embeddings[rows], labels[rows]
    )
    for rows in (parts.probes, parts.strangers)
  )
  return probes, parts.probes, strangers


def _pair_intervals(
  statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray],
  data: Evaluation,
  pairs: Pairs,
  stream: int,
  count: int,
) -> list[Interval]:
  """Intervals over people for statistics of weighted pairs."""
  if not data.bootstrap:
    return [_NO_INTERVAL] * count
  person = data.dataset.person
  return confidence.bootstrap_pairs(
    statistic, person[pairs.first], person[pairs.second], data.bootstrap, data.rng(stream)
  )


def _mean_interval(
  data: Evaluation, values: np.ndarray, person: np.ndarray, stream: int
) -> Interval:
  """Interval over people for the mean of per-query values."""
  if not data.bootstrap or not len(values):
    return _NO_INTERVAL
  return confidence.bootstrap_mean(values, person, data.bootstrap, data.rng(stream))


def _far_note(far: float, negatives: int, what: str = "negative pairs") -> str:
  """Says that a FAR rests on fewer than ten false accepts; empty where it does not."""
  limit = verification.smallest_reliable_far(negatives)
  return (
    ""
    if far >= limit * (1 - 1e-12)
    else f"FAR {far:g} is below 10 / {negatives} {what} = {limit:.2g}"
  )
