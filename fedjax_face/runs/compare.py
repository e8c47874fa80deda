"""`compare`: settings side by side over several seeds."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face import options
from fedjax_face.privacy.budget import Budget
from fedjax_face.runs import fit
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.comparison_table import Margins, references, summarise
from fedjax_face.runs.records import read_json

Runs = Mapping[str, Sequence[tuple[dict, dict]]]
"""Setting -> (summary.json, privacy.json) of every seed."""


class Comparison(NamedTuple):
  """What `compare` found.

  Attributes:
    table: setting -> numbers, see `comparison_table.summarise`; comparison.json.
    beside: what the runs of the first setting compared themselves with.
    runs: setting -> (summary.json, privacy.json) of every seed.
    headline: metrics that tables name first.
  """

  table: dict[str, Any]
  beside: dict[str, Any]
  runs: Runs
  headline: tuple[str, ...]


def compare(settings: Mapping[str, Mapping[str, Any]], workdir: str | os.PathLike, *,
            seeds: Iterable[int] = range(3), gap: tuple[str, str] | None = None,
            equivalence: Margins | None = None, non_private: str | None = None,
            account: Budget | None = None) -> Comparison:
  """Runs every setting with every seed, in folders of their own, and sets them side by side.

  A run that is finished is not repeated; settings that pre-train alike on the same images share it.

  Args:
    settings: name -> keyword arguments of `fit`: method, data, rounds, ...; their seed is replaced.
    workdir: NAME/seedS holds a run, comparison.json the table, curves.png the headline metrics over
      training, gap.png and overlap.png how much of a gap is closed.
    seeds: of the runs; two at least for intervals.
    gap: two names: how much of the way from the first to the second each setting goes.
    equivalence: which settings are as good as a reference.
    non_private: the name whose gain over the start is 100 %.
    account: budget of the data set, in which every run is entered.

  Raises:
    ValueError: a name that is no setting, or what `fit` refuses, before anything runs.
  """
  asked, seeds = checked(settings, gap, equivalence, non_private), list(seeds)
  if len(seeds) < 2:
    raise ValueError(f"seeds={seeds}: expected two at least, as intervals are over seeds")
  place = pathlib.Path(workdir).absolute()
  found = run_all(asked, place, seeds, account)
  table = summarise(found, gap, equivalence, non_private)
  (place / "comparison.json").write_text(json.dumps(table, indent=2))
  headline = next(iter(asked.values())).evaluation.headline
  _draw_curves(asked, headline, place, seeds)
  if gap:
    _draw(table, found, headline, gap, place)
  return Comparison(table, references(next(iter(found.values()))), found, headline)


def checked(settings: Mapping[str, Mapping[str, Any]], gap: tuple[str, str] | None = None,
            equivalence: Margins | None = None, non_private: str | None = None) -> dict[str, Asked]:
  """Every setting, once all names are known to be of one.

  Raises:
    ValueError: as `compare`.
  """
  if not settings:
    raise ValueError("settings={}: expected at least one")
  asked = {name: Asked.of_arguments(arguments) for name, arguments in settings.items()}
  for what, names in (("gap", gap or ()), ("non_private", filter(None, [non_private])),
                      ("equivalence", [equivalence.reference] if equivalence else ())):
    for name in names:
      if name not in asked:
        raise ValueError(f"{what}: {name} is no setting: {', '.join(asked)}")
  headline = next(iter(asked.values())).evaluation.headline
  for metric, margin in (equivalence.margins if equivalence else {}).items():
    if metric not in headline:
      raise ValueError(f"equivalence: {metric} is not in evaluation.headline: "
                       f"{', '.join(headline)}")
    if not margin > 0:
      raise ValueError(f"equivalence: the margin of {metric} is {margin}; expected above 0")
  return asked


def run_all(asked: Mapping[str, Asked], workdir: pathlib.Path, seeds: Sequence[int],
            account: Budget | None = None) -> dict[str, list[tuple[dict, dict]]]:
  """(summary.json, privacy.json) of every setting and seed; sets are loaded once where alike."""
  results: dict[str, list[tuple[dict, dict]]] = {name: [] for name in asked}
  loaded: tuple[Any, Any] = (None, None)
  say = lambda line: print(line, file=sys.stderr, flush=True)
  for seed in seeds:
    for name, setting in asked.items():
      say(f"{name}, seed {seed}")
      setting = setting._replace(record={**setting.record, "seed": seed})
      made_by_hand = options.by_hand(setting.record["data"])  # and so recorded by its repr alone
      key = id(setting.data) if made_by_hand else json.dumps(setting.record["data"])
      if loaded[0] != key:
        loaded = key, setting.sources()
      place = workdir / name / f"seed{seed}"
      fit.carried_out(setting, place, say, account=account, sources=loaded[1],
                      public_stages=workdir / "public_stages")
      results[name].append((read_json(place / "summary.json"), read_json(place / "privacy.json")))
  return results


def _draw_curves(configs: Mapping[str, Any], metrics: Sequence[str], workdir: pathlib.Path,
                 seeds: Sequence[int]) -> None:
  from fedjax_face.figures import curves_figure, figures
  runs = {name: [figures.read_metrics(workdir / name / f"seed{seed}" / "metrics.csv")
                 for seed in seeds] for name in configs}
  if any(len(curves_figure.course(own, metric).rounds) > 1
         for own in runs.values() for metric in metrics):
    figures.save(curves_figure.curves(runs, metrics), workdir / "curves.png")


def _draw(table: Mapping[str, Any], results: Mapping[str, Sequence[tuple[dict, dict]]],
          metrics: Sequence[str], gap: tuple[str, str], workdir: pathlib.Path) -> None:
  from fedjax_face.figures import figures, silo_figures
  figures.save(silo_figures.gap(table, metrics, *gap), workdir / "gap.png")
  found = {name: runs[0][0]["overlap"] for name, runs in results.items()
           if runs[0][0].get("overlap")}
  if found:
    corrected = [name for name in found
                 if results[name][0][0]["algorithm"] in ("fedaws", "fedgc")]
    best = max(corrected or found, key=lambda name: table[name]["metrics"][metrics[0]]["mean"])
    shown = {name: found[name] for name in dict.fromkeys([gap[0], best]) if name in found}
    figures.save(silo_figures.overlap(shown), workdir / "overlap.png")
