"""Signals that ask a run to stop: it ends after the dispatch that is under way, and keeps it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
                 if hasattr(signal, name))


class Stop:
  """Whether a signal has asked to stop.

  Attributes:
    waits: what is under way is finished first; else, and the second time, the signal ends it.
  """

  def __init__(self) -> None:
    self.waits = False
    self._number: int | None = None

  def asked(self) -> bool:
    """Whether to stop now; the same answer in every process of a job, all of which must ask."""
    mine = self._number is not None
    if jax.process_count() == 1:
      return mine
    from jax.experimental import multihost_utils
    return bool(np.asarray(multihost_utils.process_allgather(np.int32(mine))).any())

  def end(self) -> None:
    """Raises KeyboardInterrupt, or SystemExit of the signal that asked."""
    raise _error(self._number if self._number is not None else signal.SIGINT)

  def check(self) -> None:
    """Raises as `end` if a signal has come whose exception got lost in foreign code."""
    if self._number is not None:
      self.end()

  def take(self, number: int, frame: Any) -> None:
    """The handler of the signals."""
    first, self._number = self._number is None, number
    if not (first and self.waits):
      raise _error(number)


def _error(number: int) -> BaseException:
  return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextlib.contextmanager
def watched() -> Iterator[Stop]:
  """Takes SIGINT, SIGTERM and SIGHUP, where they are not handled or ignored already.

  Outside the main thread, where Python hands out no signals, nothing changes.
  """
  stop, before = Stop(), {}
  if threading.current_thread() is threading.main_thread():
    for number in _SIGNALS:
      if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
        before[number] = signal.signal(number, stop.take)
  try:
    yield stop
  finally:
    stop.waits = False
    for number, handler in before.items():
      signal.signal(number, handler)
