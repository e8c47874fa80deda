import errno
import io
import math
import os
import subprocess
import sys

import pytest

from fedjax_face.runs import progress
from fedjax_face.runs.progress import Display


class Broken(io.StringIO):
  """A stream that takes nothing; a terminal or not."""

  def __init__(self, error, terminal):
    super().__init__()
    self._error, self._terminal = error, terminal

  def write(self, text):
    raise self._error

  def flush(self):
    raise self._error

  def isatty(self):
    return self._terminal


ERRORS = [BrokenPipeError(errno.EPIPE, "pipe"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
          ValueError("I/O operation on closed file")]


@pytest.mark.parametrize("terminal", [False, True], ids=["lines", "bar"])
@pytest.mark.parametrize("error", ERRORS, ids=["pipe", "full", "closed"])
def test_a_stream_that_takes_nothing_ends_nothing(monkeypatch, error, terminal):
  monkeypatch.setattr(sys, "stderr", Broken(error, terminal))
  with Display(3, 0) as display:
    display.say("a line")
    for done in (1, 2, 3):
      display.update(done, {"loss": 1.0})
  progress.show("a line")
  progress.show("a line", Broken(error, terminal))


def test_without_a_stream_nothing_is_said(monkeypatch):
  monkeypatch.setattr(sys, "stderr", None)
  with Display(1, 0) as display:
    display.say("a line")
    display.update(1, {})


def test_lines_are_shown_where_they_can_be(capsys):
  with Display(2, 0) as display:
    display.say("a line")
    display.update(2, {"loss": 0.5})
  progress.show("another", sys.stdout)
  said = capsys.readouterr()
  assert said.err == "a line\nround 2/2  loss 0.5\n" and said.out == "another\n"


PROGRAM = """
import sys
from fedjax_face.runs.progress import Display, show
with Display(1, 0) as display:
  display.update(1, {})
show("done", sys.stdout)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("place", ["/dev/full", "a pipe that nobody reads"])
def test_a_program_whose_streams_take_nothing_ends_well(place):
  if place == "/dev/full":
    out = os.open(place, os.O_WRONLY)
  else:
    reader, out = os.pipe()
    os.close(reader)
  buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
  try:
    assert subprocess.run([sys.executable, "-c", PROGRAM], stdout=out, stderr=out, env=buffered,
                          check=False).returncode == 0
  finally:
    os.close(out)


def test_an_epsilon_of_one_accountant_alone_says_so(capsys):
  with Display(2, 0) as display:
    display.update(2, {"epsilon": 99.5, "epsilon_photograph": 512.4, "epsilon_image": math.inf})
  assert capsys.readouterr().err == (
      "round 2/2  epsilon 99.5  epsilon photograph 512 (at most; by RDP alone)  "
      "epsilon image inf\n")
