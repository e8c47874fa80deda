"""What a protocol needs of the set that it is to judge, known before anything is embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedjax_face.data.pairs import Pairs

NEED_PAIRS = frozenset({"lfw_view2", "insightface", "tar_at_far"})
_OVER_ALL_PAIRS = frozenset({"recall_all_pairs", "recall_approx", "identification"})


def require(names: Sequence[str], label: np.ndarray, pairs: Pairs | None) -> None:
  """Refuses protocols that a set cannot answer.

  Args:
    names: of `protocols.PROTOCOLS`.
    label: [N], whom each image shows.
    pairs: a verification protocol on these images, or None.

  Raises:
    ValueError: a protocol without its pairs, one person alone, or nobody with two images.
  """
  for name in names:
    if name in NEED_PAIRS and pairs is None:
      raise ValueError(
          f"evaluation.names: protocol {name} needs pairs, and the evaluation set has none: "
          "data=lfw has the official ones, experiments.evaluate draws some of a trained run, and "
          "recall_all_pairs needs none")
    if name == "templates":
      raise ValueError(
          "evaluation.names: protocol templates needs the lists of a set: experiments.evaluate "
          "--data=templates --data.path=FOLDER reads them")
  counts = np.unique(label, return_counts=True)[1]
  if set(names) <= NEED_PAIRS:
    return
  if len(counts) < 2:
    raise ValueError(f"evaluation: {len(counts)} person evaluates, so that there is nobody to take "
                     "for another: expected at least 2 (data.evaluation)")
  if counts.max() < 2:
    raise ValueError("evaluation: nobody who evaluates has two images, so that nobody can be "
                     "recognised: expected at least 2 images of some")


def require_measurable(fars: Sequence[float], names: Sequence[str], label: np.ndarray,
                       pairs: Pairs | None) -> None:
  """Refuses a false accept rate below that of a single false accept.

  Args:
    fars: false accept rates.
    names, label, pairs: as of `require`.

  Raises:
    ValueError: naming the smallest that can be measured.
  """
  different = _different(names, label, pairs)
  for far in fars:
    if different and far * different < 1 - 1e-9:
      raise ValueError(
          f"evaluation.fars={far:g}: the evaluation set has {different:,} pairs of different "
          f"people, so that one false accept is a rate of {1 / different:.2g}: expected at least "
          "that, and ten times as much for a reliable one")


def _different(names: Sequence[str], label: np.ndarray, pairs: Pairs | None) -> int:
  """Most pairs of different people that one of the protocols looks at; 0: none reads a rate."""
  counts = np.unique(label, return_counts=True)[1].astype(np.int64)
  every = (int(counts.sum()) ** 2 - int((counts**2).sum())) // 2
  drawn = 0 if pairs is None else int(np.sum(~pairs.same))
  return max(every if _OVER_ALL_PAIRS & set(names) else 0, drawn if "tar_at_far" in names else 0)


def unmeasured(headline: Sequence[str], names: Sequence[str], fars: Sequence[float]) -> list[str]:
  """Metrics of a headline that these protocols do not give at these rates."""
  measured: set[Any] = {"tar@smallest_far"} if "tar_at_far" in names else set()
  for name in names:
    at = {"tar_at_far": "tar@far=", "identification": "identification/dir@far="}.get(
        name, f"{name}@far=")
    measured |= {f"{at}{far:g}" for far in fars}
  return [metric for metric in headline if metric not in measured and (
      "@far=" in metric and not metric.startswith("insightface/")
      or metric.partition("/")[0] not in names)]
