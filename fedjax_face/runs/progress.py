"""A progress bar on a terminal, and a plain line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

SECONDS_BETWEEN_LINES = 10.0


class Display:
  """Shows round, loss, epsilon, rounds per second and time left.

  Use as a context. The rate is that of this process, without its first dispatch (compilation).

  Args:
    rounds: total.
    start: rounds that were done before.
    shown: False prints nothing (all processes but the first).
    title: what trains, where it is not the run itself.
  """

  def __init__(self, rounds: int, start: int, shown: bool = True, title: str = ""):
    self._rounds, self._done, self._shown = rounds, start, shown
    self._title = title
    self._first: tuple[int, float] | None = None
    self._last_line = -math.inf
    self._bar: Any = None
    self._task: Any = None

  def __enter__(self) -> Self:
    if self._shown and sys.stderr.isatty():
      from rich.console import Console
      from rich.progress import BarColumn, Progress, TextColumn
      self._bar = Progress(TextColumn("{task.description}"), BarColumn(),
                           TextColumn("{task.fields[text]}"), console=Console(stderr=True))
      self._bar.start()
      self._task = self._bar.add_task(self._title or "training", total=self._rounds,
                                      completed=self._done, text="compiling")
    return self

  def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
               trace: TracebackType | None) -> None:
    if self._bar is not None:
      self._bar.stop()

  def update(self, done: int, values: Mapping[str, float]) -> None:
    """Shows the state after `done` rounds; `values` are this round's metrics."""
    if self._first is None:
      self._first = (done, time.monotonic())
    self._done = done
    if not self._shown:
      return
    text = self._text(values)
    if self._bar is not None:
      self._bar.update(self._task, completed=done, text=text)
    elif self._is_due():
      self._last_line = time.monotonic()
      print(text, file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Prints one line above the bar."""
    if not self._shown:
      return
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      print(text, file=sys.stderr, flush=True)

  def _is_due(self) -> bool:
    waited = time.monotonic() - self._last_line
    return waited >= SECONDS_BETWEEN_LINES or self._done == self._rounds

  def _text(self, values: Mapping[str, float]) -> str:
    parts = [f"{self._title}: " * bool(self._title) + f"round {self._done}/{self._rounds}"]
    if "loss" in values:
      parts.append(f"loss {values['loss']:.4g}")
    parts += [f"{name.replace('_', ' ')} {value:.3g}" for name, value in values.items()
              if name.startswith("epsilon")]
    rate = self._rate()
    if rate:
      left = (self._rounds - self._done) / rate
      parts.append(f"{rate:.3g} rounds/s")
      parts.append(f"{_clock(left)} left")
    return "  ".join(parts)

  def _rate(self) -> float | None:
    if self._first is None or self._done == self._first[0]:
      return None
    return (self._done - self._first[0]) / max(time.monotonic() - self._first[1], 1e-9)


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
