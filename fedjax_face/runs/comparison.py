"""What a finished run says of itself beside what it is compared with, from its JSON files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def line(summary: Mapping[str, Any], privacy: Mapping[str, Any],
         headline: Sequence[str] = ()) -> str | None:
  """One sentence for a person: start, result, gain, at which epsilon, and the other references.

  Args:
    summary: summary.json of a run.
    privacy: its privacy.json.
    headline: metrics, of which the first is said; without it, the first that has an interval.

  Returns:
    None for a method that trains no embeddings, or without such a metric.
  """
  references = summary.get("references", {})
  if "pixels" not in references:
    return None
  name = next((metric for metric in (*headline[:1], *summary["gains"], *summary["metrics"])
               if metric in references["start"]["metrics"]), None)
  if name is None or name not in summary["metrics"]:
    return None
  value = lambda metrics: float(metrics[name]["value"])
  start, trained = value(references["start"]["metrics"]), value(summary["metrics"])
  others = [f"{other['words']} {value(other['metrics']):.3f}"
            for key, other in reversed(references.items()) if key != "start"]
  gain, clear = _gain(name, trained - start, summary["gains"].get(name))
  verdict = "" if clear else "; no clear gain over its start"
  return (f"{name}: {references['start']['words']} {start:.3f}, trained {trained:.3f} ({gain}) "
          f"{epsilon_words(privacy)}; {', '.join(others)}{verdict}")


def _gain(name: str, difference: float, found: Mapping[str, Any] | None) -> tuple[str, bool]:
  """The gain in words, and whether it is clear; without an interval nothing is held against it."""
  from fedjax_face.evaluation.protocols import LOWER_IS_BETTER  # scipy: slow to import
  if found is None:
    return f"{difference:+.3f}, no interval", True
  low, high = float(found["low"]), float(found["high"])
  clear = high < 0 if name in LOWER_IS_BETTER else low > 0
  return f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]", clear


def epsilon_words(privacy: Mapping[str, Any]) -> str:
  """"at epsilon 0.25 for each of 100,000 persons", the number rounded up, or "without privacy"."""
  said = []
  for unit in privacy["units"]:
    best = unit["epsilon"]["best"]
    if best is None:
      said.append(f"epsilon not computed for each {unit['unit']}")
    elif best != "infinite":
      rounded = math.ceil(best * 1000) / 1000
      said.append(f"at epsilon {rounded:g} for each of {unit['population']:,} {unit['unit']}s")
  return " and ".join(said) or "without privacy"


def levels(summary: Mapping[str, Any]) -> dict[str, dict[str, float]]:
  """Metric -> {words: value} of the references, and of chance where that is above zero."""
  found: dict[str, dict[str, float]] = {}
  for name, metric in summary["metrics"].items():
    found[name] = {
        reference["words"]: float(reference["metrics"][name]["value"])
        for reference in summary.get("references", {}).values() if name in reference["metrics"]}
    if float(metric.get("chance", 0)) > 0:
      found[name]["chance"] = float(metric["chance"])
  return found
