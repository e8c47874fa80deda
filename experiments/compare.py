r"""Runs a config beside its baselines over several seeds and prints one table.

python -m experiments.compare --config=configs/dp_fedemb.py:femnist --workdir=runs/femnist --seeds=3

What is compared is `get_comparison(variant)` of the config file: names and the overrides that make
each setting. Finished runs are not repeated, so seeds can be computed by several processes
(--only_seed) and joined by a last call.
"""

from __future__ import annotations

import json
import pathlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

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
  return values


def settings(path: str) -> dict[str, Any]:
  """Name -> config of everything that `configs/NAME.py:variant` is compared with.

  Raises:
    ValueError: the file has no `get_comparison`, or it overrides a key that the config lacks.
    FileNotFoundError: no such file.
  """
  name, _, variant = path.partition(":")
  if not pathlib.Path(name).is_file():
    raise FileNotFoundError(f"--config={name}: no such file; expected configs/NAME.py[:variant]")
  module = runpy.run_path(name)
  if "get_comparison" not in module:
    raise ValueError(f"{name} has no get_comparison(variant)")
  chosen = [variant] if variant else []
  return {setting: _overridden(module["get_config"](*chosen), overrides)
          for setting, overrides in module["get_comparison"](*chosen).items()}


def _overridden(config: Any, overrides: Mapping[str, Any]) -> Any:
  config.lock()
  try:
    config.update_from_flattened_dict(dict(overrides))
  except (KeyError, AttributeError) as error:
    raise ValueError(f"get_comparison: {error}") from None
  return config


def _run_all(configs: Mapping[str, Any], workdir: pathlib.Path, seeds: Sequence[int]
             ) -> dict[str, list[tuple[dict, dict]]]:
  from fedjax_face.training import run
  results: dict[str, list[tuple[dict, dict]]] = {name: [] for name in configs}
  for seed in seeds:
    for name, config in configs.items():
      config.seed = seed
      print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
      results[name].append(run.run(config, workdir / name / f"seed{seed}"))
  return results


def summarise(results: Mapping[str, Sequence[tuple[dict, dict]]]) -> dict[str, Any]:
  """Means over seeds with 95 % t-intervals, and paired differences to the first setting.

  Args:
    results: name -> (summary.json, privacy.json) of every seed.

  Returns:
    name -> {"epsilon": of the person, "metrics": {metric: {"mean", "low", "high", "difference",
    "difference_low", "difference_high"}}}, JSON types only.
  """
  from fedjax_face.evaluation.confidence import mean_interval, paired_difference
  reference = next(iter(results))

  def values(name: str, metric: str) -> list[float]:
    return [float(summary["metrics"][metric]["value"]) for summary, _ in results[name]]

  table: dict[str, Any] = {}
  for name, runs in results.items():
    metrics = {}
    for metric in runs[0][0]["metrics"]:
      mean = mean_interval(values(name, metric))
      difference = paired_difference(values(name, metric), values(reference, metric))
      metrics[metric] = {
          "mean": mean.value, "low": mean.low, "high": mean.high,
          "difference": difference.difference, "difference_low": difference.low,
          "difference_high": difference.high}
    units = runs[0][1]["units"]
    table[name] = {"epsilon": units[0]["epsilon"]["best"] if units else None, "metrics": metrics}
  return table


def _unit(results: Mapping[str, Sequence[tuple[dict, dict]]]) -> str:
  """"each person, replace_one, delta 1e-05": what every epsilon of the table is for."""
  said = {f"each {unit['unit']}, {unit['adjacency']}, delta {unit['delta']:g}"
          for runs in results.values() for _, privacy in runs for unit in privacy["units"]
          if unit["epsilon"]["best"] != "infinite"}
  return " / ".join(sorted(said)) or "nobody"


def _print(table: Mapping[str, Any], metrics: Sequence[str], seeds: int, unit: str) -> None:
  from rich.console import Console
  from rich.table import Table

  reference = next(iter(table))
  shown = Table(title=f"mean over {seeds} seeds, 95 % t-interval in brackets; epsilon for {unit}")
  shown.add_column("setting")
  shown.add_column("epsilon", justify="right")
  for metric in metrics:
    shown.add_column(metric, justify="right")
    shown.add_column(f"minus {reference}", justify="right")
  for name, row in table.items():
    cells = [name, _epsilon(row["epsilon"])]
    for metric in metrics:
      m = row["metrics"][metric]
      cells.append(f"{m['mean']:.3f} [{m['low']:.3f}, {m['high']:.3f}]")
      cells.append("" if name == reference else
                   f"{m['difference']:+.3f} [{m['difference_low']:+.3f}, "
                   f"{m['difference_high']:+.3f}]")
    shown.add_row(*cells)
  Console(width=None if sys.stdout.isatty() else 160).print(shown)


def _epsilon(value: Any) -> str:
  return "none" if value in (None, "infinite") else f"{float(value):.2f}"


def _compare(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  values(list(arguments))
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_compilation_cache(values.compilation_cache)
  configs, workdir = settings(values.config), pathlib.Path(values.workdir)
  if values.only_seed is not None:
    _run_all(configs, workdir, [values.only_seed])
    return
  results = _run_all(configs, workdir, range(values.seeds))
  table = summarise(results)
  (workdir / "comparison.json").write_text(json.dumps(table, indent=2))
  _print(table, next(iter(configs.values())).evaluation.headline, values.seeds,
         _unit(results))


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status."""
  given = sys.argv if arguments is None else ["compare", *arguments]
  values = _flags()
  return command_line.one_line_errors(
      lambda: _compare(values, given), lambda: "--debug" in given)


if __name__ == "__main__":
  sys.exit(main())
