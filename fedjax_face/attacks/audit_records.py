"""Records of audits: verdicts, the files that are kept, the table that is shown."""

from __future__ import annotations

import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from fedjax_face.figures import audit_figure, figures
from fedjax_face.runs.records import write_json

Record = Mapping[str, Any]


def violated(record: Record) -> bool:
  """Whether a mechanism that is not broken on purpose reveals more than it claims."""
  return any(game["violated"] for game in record["games"] if not game["broken"])


def verdict(game: Mapping[str, Any], record: Record) -> str:
  """What one game of a record shows, in words."""
  if game["broken"]:
    return "caught" if game["violated"] else "NOT caught: the game is too weak to tell"
  if game["violated"]:
    return "VIOLATED"
  reach = record.get("largest_measurable_epsilon", math.inf)
  return "holds" if reach > game["claimed_epsilon"] else "not violated; the bound cannot reach it"


def write(record: Record, workdir: pathlib.Path, name: str) -> None:
  """Writes NAME.json and NAME.png into a folder."""
  write_json(workdir / f"{name}.json", record)
  claims = [audit_figure.Claim(game["mechanism"], game["claimed_epsilon"],
                               game["measured_epsilon"]) for game in record["games"]]
  figure = audit_figure.claimed_and_measured(
      claims, delta=record["delta"], unit=record["unit"], adjacency=_hyphened(record),
      confidence=record["confidence"], channel=record["channel"])
  figures.save(figure, workdir / f"{name}.png")


def show(record: Record) -> None:
  """Prints the table of a record."""
  table = Table(
      title=f"{record['channel']}: epsilon for each {record['unit']} at delta "
            f"{record['delta']:g}, {_hyphened(record)}; {_length(record)}, trials in each "
            f"population: {record['trials']}",
      caption=record.get("note"))
  for column in ("mechanism", "users", "claimed", f"measured, at least "
                 f"({record['confidence']:.0%} confidence)", "verdict"):
    table.add_column(column)
  for game in record["games"]:
    table.add_row(game["mechanism"], str(game["users"]), f"{game['claimed_epsilon']:.3f}",
                  f"{game['measured_epsilon']:.3f}", verdict(game, record))
  Console(width=None if sys.stdout.isatty() else 160).print(table)


def _hyphened(record: Record) -> str:
  return record["adjacency"].replace("_", "-")


def _length(record: Record) -> str:
  return " ".join(f"{name}: {record[name]}" for name in ("rounds", "publications")
                  if name in record)
