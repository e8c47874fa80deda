"""A folder has one writer; a lock dies with who holds it, and leaves nothing in an empty folder."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from fedjax_face.runs import lock

HOLDS = """
import sys, time
from fedjax_face.runs import lock
with lock.held(sys.argv[1]):
  print("held", flush=True)
  time.sleep(600)
"""


@contextlib.contextmanager
def another_process(folder):
  child = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE,
                           text=True)
  try:
    assert child.stdout.readline() == "held\n"
    yield child
  finally:
    child.kill()
    child.wait()


def test_the_second_is_refused_by_the_first_ones_number_and_a_kill_lets_go(tmp_path):
  folder = tmp_path / "w"
  with another_process(folder) as child:
    for _ in range(2):
      with pytest.raises(ValueError, match=rf"w is in use by process {child.pid}: ") as error:
        with lock.held(folder):
          raise AssertionError("both hold it")
    assert "\n" not in str(error.value)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with lock.held(folder):
      (folder / "file").touch()
  assert (folder / lock.LOCK).exists()


def test_within_a_process_it_is_held_once(tmp_path):
  with lock.held(tmp_path):
    with pytest.raises(ValueError, match="is in use"):
      with lock.held(tmp_path):
        pass
  with lock.held(tmp_path):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_into_which_nothing_was_put_is_gone_again(tmp_path, fails):
  with contextlib.suppress(ZeroDivisionError), lock.held(tmp_path / "new"):
    assert (tmp_path / "new" / lock.LOCK).stat().st_mode & 0o077 == 0
    if fails:
      raise ZeroDivisionError
  assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match=r"file/w not made: ") as error:
    with lock.held(tmp_path / "file" / "w"):
      pass
  assert "\n" not in str(error.value)


def test_a_forked_child_does_not_hold_the_lock(tmp_path):
  read, write = os.pipe()
  with lock.held(tmp_path):
    child = os.fork()
    if not child:
      os.write(write, b".")  # what runs in a child after a fork has run
      signal.pause()
    os.read(read, 1)
  try:
    with lock.held(tmp_path):
      pass
  finally:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_an_empty_folder_that_was_there_stays(tmp_path):
  with lock.held(tmp_path):
    pass
  assert tmp_path.exists()
