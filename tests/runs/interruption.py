"""Kills a run at a chosen moment."""

import re


def undated(path):
  """What a file says, but for the day on which it was written and digests under the run's own key.
  """
  return re.sub(r"\d{4}-\d\d-\d\d|\b[0-9a-f]{32}\b", "", path.read_text())


class Killed(BaseException):
  """Stands for SIGKILL: nothing in the program catches it."""


def interrupt(monkeypatch, owner, name, call, before):
  """Dies at the given call of a function, before or after it did its work."""
  original, calls = getattr(owner, name), []

  def dying(*args, **kwargs):
    calls.append(1)
    if before and len(calls) == call:
      raise Killed
    result = original(*args, **kwargs)
    if not before and len(calls) == call:
      raise Killed
    return result

  monkeypatch.setattr(owner, name, dying)
