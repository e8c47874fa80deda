"""A progress bar on a terminal, and a plain line now and then elsewhere.

A stream that is closed, full, or a pipe that nobody reads any more takes no lines; nothing ends for
that.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TextIO, cast

from fedjax_face.privacy.ledger import RDP_ALONE_ABOVE

SECONDS_BETWEEN_LINES = 10.0


def show(text: str, stream: TextIO | None = None) -> None:
  """Prints a line, on stderr if not told where; a stream that takes none is passed over."""
  stream = sys.stderr if stream is None else stream
  if stream is not None:
    with _passed_over(stream):
      print(text, file=stream, flush=True)


@contextlib.contextmanager
def _passed_over(stream: TextIO) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError):  # ValueError: closed
    _empty_at_exit(stream)


@functools.cache
def _empty_at_exit(stream: TextIO) -> None:
  """What a stream still holds at the end goes nowhere; the interpreter would report a failure."""
  def empty() -> None:
    with contextlib.suppress(OSError, ValueError, io.UnsupportedOperation):
      try:
        stream.flush()
      except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()

  atexit.register(empty)


class _Patient(io.TextIOBase):
  """A terminal for the bar, whose thread must not see it fail either."""

  def __init__(self, stream: TextIO):
    self._stream = stream

  def write(self, text: str) -> int:
    with _passed_over(self._stream):
      self._stream.write(text)
    return len(text)

  def flush(self) -> None:
    with _passed_over(self._stream):
      self._stream.flush()

  def isatty(self) -> bool:
    return True

  @property
  def encoding(self) -> str:  # type: ignore[override]
    return getattr(self._stream, "encoding", None) or "utf-8"


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
    if self._shown and _is_terminal():
      from rich.console import Console
      from rich.progress import BarColumn, Progress, TextColumn
      screen = Console(file=cast(TextIO, _Patient(sys.stderr)))
      self._bar = Progress(TextColumn("{task.description}"), BarColumn(),
                           TextColumn("{task.fields[text]}"), console=screen)
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
      show(text)

  def say(self, text: str) -> None:
    """Prints one line above the bar."""
    if not self._shown:
      return
    if self._bar is not None:
      self._bar.console.print(text, markup=False, highlight=False)
    else:
      show(text)

  def _is_due(self) -> bool:
    waited = time.monotonic() - self._last_line
    return waited >= SECONDS_BETWEEN_LINES or self._done == self._rounds

  def _text(self, values: Mapping[str, float]) -> str:
    parts = [f"{self._title}: " * bool(self._title) + f"round {self._done}/{self._rounds}"]
    if "loss" in values:
      parts.append(f"loss {values['loss']:.4g}")
    parts += [f"{name.replace('_', ' ')} {_epsilon(value)}" for name, value in values.items()
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


def _epsilon(value: float) -> str:
  by = " (at most; by RDP alone)" if RDP_ALONE_ABOVE < value < math.inf else ""
  return f"{value:.3g}{by}"


def _is_terminal() -> bool:
  try:
    return sys.stderr is not None and sys.stderr.isatty()
  except (OSError, ValueError):
    return False


def _clock(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
