"""A comparison as tables for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from fedjax_face.runs.comparison_table import Margins


def unit_of(results: Mapping[str, Sequence[tuple[dict, dict]]]) -> str:
  """"each person, replace_one, delta 1e-05": what every epsilon of the table is for."""
  said = {f"each {unit['unit']}, {unit['adjacency']}, delta {unit['delta']:g}"
          for runs in results.values() for _, privacy in runs for unit in privacy["units"]
          if any(part["epsilon"]["best"] not in (None, "infinite")
                 for part in (unit, *unit["channels"]))}
  return " / ".join(sorted(said)) or "nobody"


def print_table(table: Mapping[str, Any], metrics: Sequence[str], seeds: int, unit: str,
           beside: Mapping[str, Mapping[str, Any]] | None = None) -> None:
  """The table: settings, then `beside`, what the first of them compared itself with."""
  reference = next(iter(table))
  extra = _extra_columns(table)
  shown = Table(title=f"mean over {seeds} seeds, 95 % t-interval in brackets; epsilon for {unit}")
  shown.add_column("setting")
  shown.add_column("epsilon", justify="right")
  for metric in metrics:
    shown.add_column(metric, justify="right")
    shown.add_column(f"minus {reference}", justify="right")
    for title in extra:
      shown.add_column(title, justify="right")
  for name, row in table.items():
    cells = [name, _epsilon(row)]
    for metric in metrics:
      m = row["metrics"][metric]
      cells.append(_interval(m["mean"], m["low"], m["high"]))
      cells.append("" if name == reference else
                   f"{m['difference']:+.3f} [{m['difference_low']:+.3f}, "
                   f"{m['difference_high']:+.3f}]")
      cells.extend(words(m) for words in extra.values())
    shown.add_row(*cells, end_section=name == list(table)[-1])
  for name, of in (beside or {}).items():
    cells = [name, ""]
    for metric in metrics:
      m = of.get(metric)
      cells += [_interval(m["mean"], m["low"], m["high"]) if m else "", "", *[""] * len(extra)]
    shown.add_row(*cells)
  Console(width=None if sys.stdout.isatty() else 160).print(shown)


def _extra_columns(table: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, float]], str]]:
  """Titles of the columns that some setting has something for, and what a cell says."""
  columns = {"gain over start": ("gain", _gain_words), "share of gap": ("share", _share_words),
             "share of non-private": ("share_of_non_private", _of_value_words),
             "share of the non-private gain kept": ("gain_kept", _kept_words)}
  held = {name for row in table.values() for m in row["metrics"].values() for name in m}
  return {title: words for title, (name, words) in columns.items() if name in held}


def _interval(value: float, low: float, high: float, form: str = ".3f") -> str:
  return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _gain_words(m: Mapping[str, float]) -> str:
  return _interval(m["gain"], m["gain_low"], m["gain_high"], "+.3f") if "gain" in m else ""


def _of_value_words(m: Mapping[str, float]) -> str:
  return f"{m['share_of_non_private']:.0%}" if "share_of_non_private" in m else ""


def _kept_words(m: Mapping[str, float]) -> str:
  if "gain_kept" not in m:
    return "no clear gain"
  return _interval(m["gain_kept"], m["gain_kept_low"], m["gain_kept_high"], ".0%")


def print_equivalence(table: Mapping[str, Any], equivalence: Margins) -> None:
  """Which settings are as good as the reference."""
  shown = Table(title=f"as good as {equivalence.reference}? two one-sided paired t-tests over "
                      "seeds, level 0.05 each, not corrected for the number of settings")
  shown.add_column("setting")
  for metric in equivalence.margins:
    shown.add_column(metric)
  for name, row in table.items():
    if name != equivalence.reference:
      shown.add_row(name, *(verdict(row["metrics"][metric]["equivalence"])
                            for metric in equivalence.margins))
  Console(width=None if sys.stdout.isatty() else 160).print(shown)


def verdict(found: Mapping[str, Any]) -> str:
  """An entry "equivalence" of `summarise` in words."""
  words = f"equivalent within +-{found['margin']:g}" if found["equivalent"] else "not shown"
  return f"{words} ({found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}])"


def _share_words(m: Mapping[str, float]) -> str:
  if "share" not in m:
    return "no clear gap"
  return f"{m['share']:.0%} [{m['share_low']:.0%}, {m['share_high']:.0%}]"


def _epsilon(row: Mapping[str, Any]) -> str:
  """The total; where there is none, the channels that have one."""
  number = lambda value: None if value in (None, "infinite") else f"{float(value):.2f}"
  alone = [f"{channel} {number(value)}" for channel, value in row["channels"].items()
           if number(value)]
  return number(row["epsilon"]) or "; ".join(["none", *alone])
