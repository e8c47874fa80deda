"""A limit on the time of one evaluation, with a line of progress while it lasts."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from collections.abc import Iterator

from absl import logging

SECONDS = 60.0
FIRST_LINE = 10.0           # seconds of silence

_deadline: contextvars.ContextVar[float] = contextvars.ContextVar("deadline", default=float("inf"))


class TookTooLong(Exception):
  """The evaluation was given up."""


@contextlib.contextmanager
def limited(what: str, seconds: float | None = None) -> Iterator[None]:
  """Lets `check` raise once the time is over; logs a line that says what takes so long.

  Args:
    what: for the line of progress, one every `FIRST_LINE` seconds.
    seconds: the limit; None: `SECONDS`. An earlier end of a limit around this one stays.
  """
  seconds = SECONDS if seconds is None else seconds
  start, done = time.monotonic(), threading.Event()

  def report() -> None:
    while not done.wait(FIRST_LINE):
      logging.warning("%s: %.0f s so far, given up after %.0f s", what,
                      time.monotonic() - start, seconds)

  reporter = threading.Thread(target=report, daemon=True)
  reporter.start()
  token = _deadline.set(min(_deadline.get(), start + seconds))
  try:
    yield
  finally:
    _deadline.reset(token)
    done.set()
    reporter.join()


def check() -> None:
  """Raises TookTooLong if the limit around this call is over; called between bounded pieces."""
  if time.monotonic() > _deadline.get():
    raise TookTooLong
