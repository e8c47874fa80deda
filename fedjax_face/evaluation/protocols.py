"""Evaluation protocols by name: from an embedding function and a data set to metrics with
intervals, and to a ROC curve.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation import confidence, pairwise, roc_curve, verification
from fedjax_face.evaluation.embedding import EmbedFn, Flip
from fedjax_face.evaluation.evaluated import Evaluation
from fedjax_face.evaluation.identification import (
  RANKS,
  ProbeScores,
  detection_and_identification_rate,
  enrol,
  rank_accuracy,
  score_probes,
)
from fedjax_face.evaluation.insightface import insightface_scores
from fedjax_face.evaluation.metric import LEVEL, Metric, column, far_note
from fedjax_face.evaluation.recall_at_far import recall_at_far_approx
from fedjax_face.evaluation.recall_confidence import resampled_auc, resampled_recall
from fedjax_face.evaluation.requirements import NEED_PAIRS, require
from fedjax_face.evaluation.retrieval import retrieval_scores
from fedjax_face.evaluation.roc_curve import Band, ThinnedRoc
from fedjax_face.evaluation.template_protocol import templates

if TYPE_CHECKING:
  from fedjax_face.data.dataset import FaceDataset

_CURVES = ("recall_all_pairs", "tar_at_far")

LOWER_IS_BETTER = frozenset({"embeddings/left_out", "lfw_view2/eer"})
"""The other metrics of this page are better when they are higher."""


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
    Metrics by name, such as 'recall_all_pairs@far=0.001' or 'identification/rank1'. Images whose
    embedding is zero or not finite are left out, and their number is 'embeddings/left_out'; where
    too few images are left, a single metric 'embeddings' of nan says so.

  Raises:
    ValueError: an unknown protocol, or one that lacks its pairs.
  """
  data = Evaluation(embed_fn, dataset, pairs, tuple(fars), batch_size, bootstrap, seed, flip)
  return metrics_of(protocol_names, data)


def metrics_of(protocol_names: Sequence[str], data: Evaluation) -> dict[str, Metric]:
  """The metrics that `evaluate` returns.

  Raises:
    ValueError: an unknown protocol, or one that lacks its pairs.
  """
  unknown = [name for name in protocol_names if name not in PROTOCOLS]
  if unknown:
    raise ValueError(f"unknown protocol {unknown[0]!r}, expected any of {', '.join(PROTOCOLS)}")
  for name in set(protocol_names) & NEED_PAIRS:
    data.required_pairs(name)
  if "templates" in protocol_names:
    data.required_templates()
  use = data.usable("insightface" in protocol_names)
  every = len(data.dataset.label)
  lost = every - len(use.dataset.label)
  if lost and not _enough(protocol_names, use):
    return {"embeddings": Metric(float("nan"), note=f"embeddings of {lost:,} of {every:,} images "
                                 "are zero or not finite")}
  metrics: dict[str, Metric] = {}
  for name in protocol_names:
    metrics |= PROTOCOLS[name](use)
  if lost:
    metrics["embeddings/left_out"] = Metric(float(lost), note=(
        f"of {every:,} images, whose embedding is zero or not finite; the other metrics are "
        "without them"))
  return metrics


def _enough(protocol_names: Sequence[str], data: Evaluation) -> bool:
  """Whether what is left of a set can still answer."""
  pairs, lists = data.pairs, data.templates
  if pairs is not None and NEED_PAIRS & set(protocol_names) and len(np.unique(pairs.same)) < 2:
    return False
  if lists is not None and "templates" in protocol_names:
    asked = [lists.pairs and lists.pairs.same, lists.gallery, lists.probes]
    return all(len(of) > 0 for of in asked if of is not None)
  try:
    require([name for name in protocol_names if name != "templates"], data.dataset.label, pairs)
  except ValueError:
    return False
  return len(data.dataset.label) > 0


def curve_of(protocol_names: Sequence[str], data: Evaluation, band: bool) -> ThinnedRoc | None:
  """The ROC curve of the first protocol that has one, over all its thresholds.

  Args:
    protocol_names: any of `PROTOCOLS`.
    data: what is evaluated.
    band: whether to resample people for a 95 % band of the TAR, at `roc_curve.BAND_POINTS` FARs
      from the smallest reliable one; needs `data.bootstrap`.

  Returns:
    None where no protocol has a curve, or there are not both kinds of pair, or too few images with
    an embedding that is neither zero nor not finite.
  """
  protocol = next((name for name in protocol_names if name in _CURVES), None)
  if protocol is None:
    return None
  data = data.usable()
  if len(data.dataset.label) < 2:
    return None
  try:
    whole, negatives = _whole_curve(protocol, data)
    curve = roc_curve.thinned(whole, protocol, negatives)
  except ValueError:
    return None
  if not (band and data.bootstrap):
    return curve
  smallest = min(curve.smallest_reliable_far, 0.5)
  fars = np.geomspace(smallest, 1, roc_curve.BAND_POINTS + 1)[:-1]
  draws = _CURVE_DRAWS[protocol](data, fars)
  bounds = np.array([confidence.percentiles(column, LEVEL) for column in draws.T])
  return curve._replace(band=Band(*map(roc_curve.rounded, (fars, *bounds.T))))


def _whole_curve(protocol: str, data: Evaluation) -> tuple[verification.Roc, int]:
  """The curve, and the number of its different pairs."""
  if protocol == "recall_all_pairs":
    return roc_curve.histogram_roc(*data.histogram), int(data.histogram[0].sum())
  pairs = data.required_pairs(protocol)
  similarity = verification.similarity_of_pairs(data.embeddings, pairs)
  return verification.roc(similarity, pairs.same), int(np.sum(~pairs.same))


def recall_all_pairs(data: Evaluation) -> dict[str, Metric]:
  """Recall at FAR, and the area under the ROC curve, over all pairs.

  The area counts similarities in 2^18 even bins, pairs of one bin as ties: it is wrong by at most
  half the share of (same, different) couples of pairs that lie in one bin (`roc_curve.auc_error`),
  which the note gives.
  """
  points = pairwise.operating_points(data.embeddings, data.dataset.label, data.fars)
  draws = _recall_draws(data, data.fars) if data.bootstrap else None
  recall = {
    f"recall_all_pairs@far={point.far_target:g}": Metric.resampled(
      point.recall, column(draws, i), far_note(point.far_target, point.negatives),
      point.far_target)
    for i, point in enumerate(points)
  }
  return recall | {"recall_all_pairs/auc": _all_pairs_auc(data)}


def _all_pairs_auc(data: Evaluation) -> Metric:
  try:
    value = verification.auc(roc_curve.histogram_roc(*data.histogram))
  except ValueError:
    return Metric(float("nan"), note="there are not both kinds of pair")
  draws = None
  if data.bootstrap:
    draws = value + resampled_auc(
      data.embeddings, data.dataset.label, data.dataset.person, data.bootstrap, data.rng(9))
  note = f"off by at most {roc_curve.auc_error(*data.histogram):.1g}"
  return Metric.resampled(value, draws, note, 0.5)


def _recall_draws(
  data: Evaluation, fars: Sequence[float] | np.ndarray, max_pairs: int = 100_000
) -> np.ndarray:
  return resampled_recall(
    data.embeddings, data.dataset.label, data.dataset.person, list(fars), data.bootstrap,
    data.rng(1), max_pairs=max_pairs)


def recall_approx(data: Evaluation) -> dict[str, Metric]:
  """Recall at FAR over the pairs within shuffled batches."""
  order = data.rng(2).permutation(len(data.dataset.label))
  recall = recall_at_far_approx(
    data.embeddings[order], data.dataset.label[order], data.fars, batch_size=data.batch_size
  )
  note = f"pairs within shuffled batches of {data.batch_size}, 200 thresholds; no interval"
  return {
    f"recall_approx@far={far:g}": Metric(float(r), note=note, chance=far)
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
  draws = _pair_draws(statistics, data, pairs, stream=3)
  share = float(pairs.same.mean())
  names = {"accuracy": (note, max(share, 1 - share)), "auc": ("", 0.5), "eer": ("", 0.5)}
  return {
    f"lfw_view2/{name}": Metric.resampled(value, column(draws, i), *of_name)
    for i, ((name, of_name), value) in enumerate(zip(names.items(), statistics(None), strict=True))
  }


def insightface(data: Evaluation) -> dict[str, Metric]:
  """Accuracy and TAR at FAR 1e-3 as the InsightFace project computes them."""
  pairs = data.required_pairs("insightface")
  scores = insightface_scores(data.flip_sum_embeddings, pairs)
  spread = f"standard deviation over folds {scores.accuracy_std:.4f}"
  reached = f"standard deviation over folds {scores.tar_std:.4f}, FAR reached {scores.far:.2g}"
  few = far_note(1e-3, int(np.sum(~pairs.same)))
  one_kind = any(part.all() or not part.any() for part in np.array_split(pairs.same, 10))
  order = "a tenth of the list holds one kind of pair only, use all ten folds" if one_kind else ""
  return {
    "insightface/accuracy": Metric(
      scores.accuracy, note="; ".join(filter(None, [spread, order, "no interval"]))
    ),
    "insightface/tar@far=0.001": Metric(
      scores.tar, note="; ".join(filter(None, [reached, few, order, "no interval"])), chance=1e-3
    ),
  }


def tar_at_far(data: Evaluation) -> dict[str, Metric]:
  """True accept rate of the pairs at each FAR, and at the smallest FAR that they support.

  `tar@smallest_far` is at 10 / (number of different pairs), where ten false accepts are allowed;
  nan where there are fewer than ten different pairs.
  """
  pairs = data.required_pairs("tar_at_far")
  negatives = int(np.sum(~pairs.same))
  smallest = verification.smallest_reliable_far(negatives)
  fars = (*data.fars, min(smallest, 1.0))
  similarity = verification.similarity_of_pairs(data.embeddings, pairs)
  rates = verification.tar_at_far(similarity, pairs.same, fars).tar
  draws = _tar_draws(data, fars) if data.bootstrap else None
  metrics = {
    f"tar@far={far:g}": Metric.resampled(
      float(rates[i]), column(draws, i), far_note(far, negatives), far)
    for i, far in enumerate(data.fars)
  }
  if smallest > 1:
    least = Metric(float("nan"), note=f"{negatives} different pairs support no FAR")
  else:
    least = Metric.resampled(
      float(rates[-1]), column(draws, -1), f"FAR {smallest:.3g} = 10 / {negatives} negative pairs",
      smallest)
  return metrics | {"tar@smallest_far": least}


def _tar_draws(data: Evaluation, fars: Sequence[float] | np.ndarray) -> np.ndarray:
  pairs = data.required_pairs("tar_at_far")
  similarity = verification.similarity_of_pairs(data.embeddings, pairs)
  draws = _pair_draws(
    lambda weights: verification.tar_at_far(similarity, pairs.same, list(fars), weights).tar,
    data, pairs, stream=4)
  assert draws is not None
  return draws


_CURVE_DRAWS: Mapping[str, Callable[[Evaluation, np.ndarray], np.ndarray]] = {
  "recall_all_pairs": functools.partial(_recall_draws, max_pairs=30_000),  # many FARs, for the eye
  "tar_at_far": _tar_draws,
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
  for k, value in zip(RANKS, rank_accuracy(closed, RANKS), strict=True):
    draws = _mean_draws(data, closed.rank <= k, data.dataset.person[closed_probes], stream=7)
    chance = min(k / len(np.unique(data.dataset.label)), 1.0)
    metrics[f"identification/rank{k}"] = Metric.resampled(float(value), draws, note, chance)
  rates = detection_and_identification_rate(opened, strangers, data.fars)
  for far, value in zip(data.fars, rates, strict=True):
    few = far_note(far, len(strangers.rank), "stranger images")
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
    f"retrieval/{name}": Metric.resampled(
      float(values.mean()) if len(values) else float("nan"),
      _mean_draws(data, values, data.dataset.person[scores.query], stream=8),
      note,
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
  "templates": templates,
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


def _pair_draws(
  statistic: Callable[[np.ndarray], Sequence[float] | np.ndarray],
  data: Evaluation,
  pairs: Pairs,
  stream: int,
) -> np.ndarray | None:
  """Statistics of weighted pairs in every resample of people, [R, S]; None without resamples."""
  if not data.bootstrap:
    return None
  person = data.dataset.person
  return confidence.resampled_pairs(
    statistic, person[pairs.first], person[pairs.second], data.bootstrap, data.rng(stream)
  )


def _mean_draws(
  data: Evaluation, values: np.ndarray, person: np.ndarray, stream: int
) -> np.ndarray | None:
  """The mean of per-query values in every resample of people, [R]; None without resamples."""
  if not data.bootstrap or not len(values):
    return None
  return confidence.resampled_mean(values, person, data.bootstrap, data.rng(stream))
