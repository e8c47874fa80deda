r"""Runs a config beside its baselines over several seeds and prints one table.

python -m experiments.compare --config=configs/dp_fedemb.py:femnist --workdir=runs/femnist --seeds=3

What is compared is `get_comparison(variant)` of the config file: names and the overrides that make
each setting. comparison.json holds the table; curves.png draws the headline metrics over training,
where they were evaluated on the way. Below the settings stands what the first of them compared
itself with: its start, an untrained backbone, raw pixels. Where the file has `get_gap(variant)`,
two names, the table also says how much of the gap between these two each setting closes, and
gap.png and overlap.png show it. Where it has `get_non_private(variant)`, the name of the setting
without privacy, the table also says which share of that one's gain over the start each setting
keeps. Where it has `get_equivalence(variant)`, {"reference": setting, "margins": {metric: margin}},
a second table says which settings are as good as the reference within the margins.

Settings whose pre-training has the same config and images share it, in public_stages/. Finished
runs are not repeated, so seeds can be computed by several processes (--only_seed) and joined by a
last call. --privacy_budget=FILE enters the run of every setting and seed before its first release.
"""

from __future__ import annotations

import json
import pathlib
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import command_line


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string("config", None, "configs/NAME.py[:variant]", flag_values=values)
  flags.DEFINE_integer("seeds", 3, "seeds 0, 1, ... of every setting", lower_bound=2,
                       flag_values=values)
  flags.DEFINE_integer("only_seed", None, "run this seed alone and print no table",
                       flag_values=values)
  command_line.define_shared(values)
  command_line.define_budget(values)
  return values


class Margins(NamedTuple):
  """The setting that others may equal, and by how much they may differ: metric -> margin."""

  reference: str
  margins: Mapping[str, float]


class Compared(NamedTuple):
  """What is compared.

  Attributes:
    configs: settings, name -> config.
    gap: the two of them between which a gap is to be closed, if any.
    equivalence: the one that others may equal, if any.
    non_private: the one without privacy, if the file names it.
  """

  configs: dict[str, Any]
  gap: tuple[str, str] | None
  equivalence: Margins | None
  non_private: str | None = None


def settings(path: str) -> Compared:
  """Everything that `configs/NAME.py:variant` is compared with.

  Raises:
    ValueError: the file has no `get_comparison`, it overrides a key that the config lacks, or
      `get_gap`, `get_equivalence` or `get_non_private` names what is not there.
    FileNotFoundError: no such file.
  """
  name, _, variant = path.partition(":")
  if not pathlib.Path(name).is_file():
    raise FileNotFoundError(f"--config={name}: no such file; expected configs/NAME.py[:variant]")
  module = runpy.run_path(name)
  if "get_comparison" not in module:
    raise ValueError(f"{name} has no get_comparison(variant)")
  chosen = [variant] if variant else []
  configs = {setting: _overridden(module["get_config"](*chosen), overrides)
             for setting, overrides in module["get_comparison"](*chosen).items()}
  gap = module["get_gap"](*chosen) if "get_gap" in module else None
  if gap and not set(gap) <= set(configs):
    raise ValueError(f"get_gap: {gap} are not both settings: {', '.join(configs)}")
  equivalence = None
  if "get_equivalence" in module:
    equivalence = Margins(**module["get_equivalence"](*chosen))
    _check_margins(equivalence, configs)
  non_private = module["get_non_private"](*chosen) if "get_non_private" in module else None
  if non_private is not None and non_private not in configs:
    raise ValueError(f"get_non_private: {non_private} is no setting: {', '.join(configs)}")
  return Compared(configs, gap, equivalence, non_private)


def _check_margins(equivalence: Margins, configs: Mapping[str, Any]) -> None:
  """Refuses names that no run will have, before anything runs."""
  if equivalence.reference not in configs:
    raise ValueError(f"get_equivalence: {equivalence.reference} is no setting: "
                     f"{', '.join(configs)}")
  headline = next(iter(configs.values())).evaluation.headline
  for metric, margin in equivalence.margins.items():
    if metric not in headline:
      raise ValueError(f"get_equivalence: {metric} is not in evaluation.headline: "
                       f"{', '.join(headline)}")
    if not margin > 0:
      raise ValueError(f"get_equivalence: the margin of {metric} is {margin}; expected above 0")


def _overridden(config: Any, overrides: Mapping[str, Any]) -> Any:
  config.lock()
  try:
    config.update_from_flattened_dict(dict(overrides))
  except (KeyError, AttributeError) as error:
    raise ValueError(f"get_comparison: {error}") from None
  return config


def _run_all(configs: Mapping[str, Any], workdir: pathlib.Path, seeds: Sequence[int], budget: Any
             ) -> dict[str, list[tuple[dict, dict]]]:
  from fedjax_face.training import experiment, run
  results: dict[str, list[tuple[dict, dict]]] = {name: [] for name in configs}
  loaded: tuple[str, Any] = ("", None)  # the settings of a seed mostly share their data
  for seed in seeds:
    for name, config in configs.items():
      config.seed = seed
      print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
      key = f"{config.data} {seed}"
      if loaded[0] != key:
        loaded = key, experiment.load_sources(config)
      results[name].append(run.run(config, workdir / name / f"seed{seed}", loaded[1],
                                   workdir / "public_stages", budget))
  return results


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


def _unit(results: Mapping[str, Sequence[tuple[dict, dict]]]) -> str:
  """"each person, replace_one, delta 1e-05": what every epsilon of the table is for."""
  said = {f"each {unit['unit']}, {unit['adjacency']}, delta {unit['delta']:g}"
          for runs in results.values() for _, privacy in runs for unit in privacy["units"]
          if any(part["epsilon"]["best"] not in (None, "infinite")
                 for part in (unit, *unit["channels"]))}
  return " / ".join(sorted(said)) or "nobody"


def _print(table: Mapping[str, Any], metrics: Sequence[str], seeds: int, unit: str,
           beside: Mapping[str, Mapping[str, Any]] | None = None) -> None:
  """The table: settings, then `beside`, what the first of them compared itself with."""
  from rich.console import Console
  from rich.table import Table

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


def _print_equivalence(table: Mapping[str, Any], equivalence: Margins) -> None:
  from rich.console import Console
  from rich.table import Table

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


def _channels(units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Epsilon of each channel of the first unit alone."""
  return {c["channel"]: c["epsilon"]["best"] for unit in units[:1] for c in unit["channels"]}


def _epsilon(row: Mapping[str, Any]) -> str:
  """The total; where there is none, the channels that have one."""
  number = lambda value: None if value in (None, "infinite") else f"{float(value):.2f}"
  alone = [f"{channel} {number(value)}" for channel, value in row["channels"].items()
           if number(value)]
  return number(row["epsilon"]) or "; ".join(["none", *alone])


def _compare(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  command_line.answer_help(values, arguments, __doc__)
  values(list(arguments))
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  budget = command_line.privacy_budget(values)
  configs, gap, equivalence, non_private = settings(values.config)
  workdir = pathlib.Path(values.workdir)
  if values.only_seed is not None:
    _run_all(configs, workdir, [values.only_seed], budget)
    return
  results = _run_all(configs, workdir, range(values.seeds), budget)
  table = summarise(results, gap, equivalence, non_private)
  (workdir / "comparison.json").write_text(json.dumps(table, indent=2))
  headline = next(iter(configs.values())).evaluation.headline
  _print(table, headline, values.seeds, _unit(results), references(next(iter(results.values()))))
  if equivalence:
    _print_equivalence(table, equivalence)
  _draw_curves(configs, headline, workdir, range(values.seeds))
  if gap:
    _draw(table, results, headline, gap, workdir)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["compare", *arguments]
  values = _flags()
  return command_line.one_line_errors(
      lambda: _compare(values, given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
