"""Code of the user's own that looks at a run, and may end it."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_face.runs.records import read_json, write_json

Callback = Callable[[int, Mapping[str, float]], Any]
"""(rounds done, metrics of the last of them) -> True to end training, else False or None."""

ENDED = "ended.json"  # of a run that a callback ended
LOOKED_AT = ("Code of the user's own was given the metrics of the rounds, some of which are "
             "without noise, and could stop training by them.")


def ended(callbacks: Sequence[Callback], rows: Sequence[tuple[int, Mapping[str, float]]]) -> bool:
  """Whether a callback ends training; every one is called, with a copy of the last row.

  Raises:
    ValueError: one that returns something else than a truth value or None.
  """
  done, values = rows[-1]
  said = [callback(done, dict(values)) for callback in callbacks]
  for value in said:
    if value is not None and not isinstance(value, bool | np.bool_):
      raise ValueError(f"a callback returned {value!r}: expected True to end training, else False "
                       "or nothing")
  return any(bool(value) for value in said)


def mark_ended(workdir: pathlib.Path, done: int, asked: int) -> None:
  """Writes down that a callback ended the run, before the state that it leaves is kept."""
  write_json(workdir / ENDED, {"rounds": done, "asked": asked})


def ended_early(workdir: pathlib.Path, rounds: int) -> int | None:
  """Rounds after which a callback ended the run, or None.

  Raises:
    ValueError: more rounds are asked for now: its noise is over.
  """
  path = workdir / ENDED
  if not path.exists():
    return None
  said = read_json(path, "asked", "rounds")
  if said["asked"] != rounds:
    raise ValueError(f"{workdir}: a callback ended this run after round {said['rounds']} of "
                     f"{said['asked']}; it cannot go on to {rounds}: choose another folder")
  return said["rounds"]
