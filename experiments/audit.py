r"""Audits what a config promises: claimed epsilon beside what an adversary measures, at least.

python -m experiments.audit --config=configs/dp_fedemb.py:synthetic --workdir=runs/audit

Backbone: canaries through the config's aggregator and sampling of users or silos; model: a canary
unit through the config's clip and noise (DP-SGD); split learning: the messages of a device. The
neighbouring data set lacks the FIRST or the last user or unit, or has it replaced. The population
is small and the noise is set so that the claim is --epsilon: a few thousand trials cannot show a
large epsilon. So this tests sampling, assignment to clients, clipping, noise and accounting of a
run, not the noise level of its config.
Cyclic sampling and correlated noise need --rounds of at least cohort.min_separation. Writes
audit.json and audit.png.

Clusters of class embeddings (configs with exchange.mechanism): two silos that differ in one person,
through every mechanism that there is, at the same claim. Writes audit_clusters.json and .png.

One run (--one_run): the config itself, with its data and its noise, is trained once with --canaries
canary users (or units), each in the training set by a coin, and the bound is on the epsilon of its
noised sum at privacy.delta. Writes audit_one_run.json and .png; what was trained is thrown away.
On private data it is a further release, which --privacy_budget=FILE counts; guard its files.

Mechanisms that are broken on purpose show whether the game can tell. The exit status is 1 if a real
mechanism reveals more than it claims.
"""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command_line


def _flags(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.define_shared(values)
  flags.DEFINE_integer("trials", 4000, "games in each of the two neighbouring populations",
                       lower_bound=100, flag_values=values)
  flags.DEFINE_integer("cluster_trials", 40_000, "publications of each of two neighbouring silos",
                       lower_bound=100, flag_values=values)
  flags.DEFINE_integer("rounds", 2, "rounds of a game", lower_bound=1, flag_values=values)
  flags.DEFINE_float("delta", 1e-2, "of claim and measurement", flag_values=values)
  flags.DEFINE_float("epsilon", 2.5, "claim, for which the noise is set", flag_values=values)
  flags.DEFINE_boolean("one_run", False, "audit the config's own run, trained once with canaries",
                       flag_values=values)
  flags.DEFINE_integer("canaries", 1000, "of --one_run, half of them in the training set",
                       lower_bound=2, flag_values=values)
  command_line.define_budget(values)
  return values


def _audit(values: flags.FlagValues, arguments: Sequence[str]) -> bool:
  """Whether every real mechanism held."""
  command_line.parse(values, arguments, __doc__)
  for name in ("config", "workdir"):
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face.training.records import make_guarded
  records = _records(values)
  workdir = pathlib.Path(values.workdir)
  make_guarded(workdir)
  for name, record in records.items():
    _write(record, workdir, name)
    _print(record)
    print(f"results: {workdir}/{name}.json  figure: {workdir}/{name}.png")
  return not any(row["violated"] for record in records.values() for row in record["games"]
                 if not row["broken"])


def _records(values: flags.FlagValues) -> dict[str, dict[str, Any]]:
  """File name -> what was measured, for each channel of the config that can be audited.

  Raises:
    ValueError: there is none.
  """
  from experiments.audit_games import cluster_record, game_of
  from experiments.audit_one_run import one_run_record
  config, records, budget = values.config, {}, command_line.privacy_budget(values)
  if values.one_run:
    return {"audit_one_run": one_run_record(
        config, values.canaries, pathlib.Path(values.workdir).absolute(), budget)}
  if budget is not None:
    raise ValueError("--privacy_budget counts what is trained on the data of the config: without "
                     "--one_run nothing is")
  clusters = (config.get("exchange") or {}).get("mechanism", "none") != "none"
  game = game_of(config, values.rounds, values.trials, values.delta)
  not_played = game if isinstance(game, str) else ""
  if not isinstance(game, str):
    records["audit"] = game.record(game.play(game.noise_for(values.epsilon)))
  if clusters:
    records["audit_clusters"] = cluster_record(
        values.epsilon, values.delta, values.cluster_trials, config.seed)
  if not records:
    raise ValueError(f"{not_played}; exchange.mechanism is none as well")
  if not_played:
    print(f"the noised sum is not audited: {not_played}")
  return records


def _write(record: Mapping[str, Any], workdir: pathlib.Path, name: str) -> None:
  from fedjax_face.figures import audit_figure, figures
  from fedjax_face.training.records import write_json
  write_json(workdir / f"{name}.json", record)
  claims = [audit_figure.Claim(game["mechanism"], game["claimed_epsilon"],
                               game["measured_epsilon"]) for game in record["games"]]
  figure = audit_figure.claimed_and_measured(
      claims, delta=record["delta"], unit=record["unit"],
      adjacency=record["adjacency"].replace("_", "-"), confidence=record["confidence"],
      channel=record["channel"])
  figures.save(figure, workdir / f"{name}.png")


def _print(record: Mapping[str, Any]) -> None:
  from rich.console import Console
  from rich.table import Table
  unit, adjacency = record["unit"], record["adjacency"].replace("_", "-")
  table = Table(
      title=f"{record['channel']}: epsilon for each {unit} at delta {record['delta']:g}, "
            f"{adjacency}; {_length(record)}, trials in each population: {record['trials']}",
      caption=record.get("note"))
  for column in ("mechanism", "users", "claimed", f"measured, at least "
                 f"({record['confidence']:.0%} confidence)", "verdict"):
    table.add_column(column)
  for game in record["games"]:
    table.add_row(game["mechanism"], str(game["users"]), f"{game['claimed_epsilon']:.3f}",
                  f"{game['measured_epsilon']:.3f}", _verdict(game, record))
  Console(width=None if sys.stdout.isatty() else 160).print(table)


def _length(record: Mapping[str, Any]) -> str:
  return " ".join(f"{name}: {record[name]}" for name in ("rounds", "publications")
                  if name in record)


def _verdict(game: Mapping[str, Any], record: Mapping[str, Any]) -> str:
  if game["broken"]:
    return "caught" if game["violated"] else "NOT caught: the game is too weak to tell"
  if game["violated"]:
    return "VIOLATED"
  reach = record.get("largest_measurable_epsilon", math.inf)
  return "holds" if reach > game["claimed_epsilon"] else "not violated; the bound cannot reach it"


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the program and returns its exit status: 1 if the real mechanism does not hold."""
  given = sys.argv if arguments is None else ["audit", *arguments]
  values = _flags(given)
  held: list[bool] = []
  status = command_line.one_line_errors(
      lambda: held.append(_audit(values, given)), lambda: "--debug" in given)
  return status or int(not all(held))


if __name__ == "__main__":
  sys.exit(main())
