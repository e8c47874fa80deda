"""Runs draw their figures where a test looks at them, and nowhere else: it takes seconds each."""

import contextlib
import pathlib

from fedjax_face.runs import figures

_save = figures.save
_wanted = []


@contextlib.contextmanager
def drawn():
  """Runs that end inside the block draw their figures."""
  _wanted.append(True)
  try:
    yield
  finally:
    _wanted.pop()


def save(workdir, headline=()):
  """In place of `runs.figures.save`: an empty folder of figures, but inside `drawn`."""
  if _wanted:
    _save(workdir, headline)
  else:
    (pathlib.Path(workdir) / figures.FOLDER).mkdir(exist_ok=True)
