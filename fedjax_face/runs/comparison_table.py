"""What several runs over several seeds say together: means, gains, shares, equivalence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Margins(NamedTuple):
  """The setting that others may equal, and by how much they may differ: metric -> margin."""

  reference: str
  margins: Mapping[str, float]


def summarise(results: Mapping[str, Sequence[tuple[dict, dict]]],
              gap: tuple[str, str] | None = None,
              equivalence: Margins | None = None,
              non_private: str | None = None) -> dict[str, Any]:
  """Means over seeds with 95 % t-intervals, and paired differences to the first setting.

  Args:
    results: name -> (summary.json, privacy.json) of every seed.
    gap: two names; then also the share of the way from the first to the second.
    equivalence: then also a paired TOST over seeds against its reference.
    non_private: a name; then also the value as a share of that setting's, and the gain over the
      start as a share of that setting's gain over the same start.

  Returns:
    name -> {"epsilon": of the person, "channels": {channel: its epsilon alone}, "metrics":
    {metric: {"mean", "low", "high", "difference", "difference_low", "difference_high"}}}, with
    `gap` also "share", "share_low", "share_high" where the interval of the gap itself does not
    contain zero; where the runs hold their start also "gain", "gain_low", "gain_high" over it; with
    `non_private` also "share_of_non_private" and, where that setting's gain over the start is
    clearly above zero, "gain_kept", "gain_kept_low", "gain_kept_high"; with `equivalence` also
    "equivalence": {"margin", "difference", "low", "high" (90 % interval), "p_value", "equivalent"};
    JSON types only.
  """
  from fedjax_face.evaluation.confidence import mean_interval, paired_difference, tost
  reference = next(iter(results))

  def values(name: str, metric: str) -> list[float]:
    return [float(summary["metrics"][metric]["value"]) for summary, _ in results[name]]

  table: dict[str, Any] = {}
  for name, runs in results.items():
    metrics = {}
    for metric in runs[0][0]["metrics"]:
      mean = mean_interval(values(name, metric))
      difference = paired_difference(values(name, metric), values(reference, metric))
      found: dict[str, Any] = {
          "mean": mean.value, "low": mean.low, "high": mean.high,
          "difference": difference.difference, "difference_low": difference.low,
          "difference_high": difference.high}
      if gap:
        found |= _share(values(name, metric), *(values(end, metric) for end in gap))
      start = _starts(runs, metric)
      if start:
        found |= _gain(values(name, metric), start)
      if non_private:
        found |= _kept(values(name, metric), start, values(non_private, metric))
      if equivalence and name != equivalence.reference and metric in equivalence.margins:
        margin = equivalence.margins[metric]
        test = tost(values(name, metric), values(equivalence.reference, metric), margin)
        found["equivalence"] = {"margin": margin} | test._asdict()
      metrics[metric] = found
    units = runs[0][1]["units"]
    table[name] = {"epsilon": units[0]["epsilon"]["best"] if units else None,
                   "channels": _channels(units), "metrics": metrics}
  return table


def _starts(runs: Sequence[tuple[dict, dict]], metric: str) -> list[float]:
  """The value of every seed's own start; empty where a run does not hold it."""
  held = [summary.get("references", {}).get("start", {}).get("metrics", {}).get(metric)
          for summary, _ in runs]
  return [] if None in held else [float(of["value"]) for of in held if of]


def _gain(values: Sequence[float], start: Sequence[float]) -> dict[str, float]:
  """Value minus start, paired by seed."""
  from fedjax_face.evaluation.confidence import paired_difference
  gain = paired_difference(values, start)
  return {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high}


def _kept(values: Sequence[float], start: Sequence[float],
          non_private: Sequence[float]) -> dict[str, float]:
  """The share of the non-private value, and that of the non-private gain over the same start."""
  found = {"share_of_non_private": sum(values) / sum(non_private)} if sum(non_private) else {}
  share = _share(values, start, non_private) if start else {}
  return found | {f"gain_kept{name.removeprefix('share')}": value for name, value in share.items()}


def _channels(units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Epsilon of each channel of the first unit alone."""
  return {c["channel"]: c["epsilon"]["best"] for unit in units[:1] for c in unit["channels"]}


def references(runs: Sequence[tuple[dict, dict]]) -> dict[str, dict[str, dict[str, float]]]:
  """What the runs of a setting compared themselves with, over seeds: words -> metric -> numbers.

  Args:
    runs: (summary.json, privacy.json) of every seed.

  Returns:
    "mean", "low", "high", a 95 % t-interval; only what every seed holds.
  """
  from fedjax_face.evaluation.confidence import mean_interval
  found: dict[str, dict[str, dict[str, float]]] = {}
  for key, first in runs[0][0].get("references", {}).items():
    held = [summary.get("references", {}).get(key, {"metrics": {}})["metrics"]
            for summary, _ in runs]
    found[first["words"]] = {
        metric: dict(zip(("mean", "low", "high"), mean_interval(
            [float(of[metric]["value"]) for of in held]), strict=True))
        for metric in first["metrics"] if all(metric in of for of in held)}
  return found


def _share(values: Sequence[float], low: Sequence[float], high: Sequence[float]
           ) -> dict[str, float]:
  """Share of the mean gap that is closed, paired by seed: (value - low) / mean(high - low).

  The interval is that of the numerator; where the gap is not clearly there, nothing is said.
  """
  from fedjax_face.evaluation.confidence import paired_difference
  whole, part = paired_difference(high, low), paired_difference(values, low)
  if not whole.low > 0:
    return {}
  bounds = sorted((part.low / whole.difference, part.high / whole.difference))
  return {"share": part.difference / whole.difference, "share_low": bounds[0],
          "share_high": bounds[1]}
