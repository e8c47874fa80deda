"""A signal ends a run after the dispatch under way; none is lost, and the second ends it now."""

import os
import signal
import threading

import pytest

from fedjax_face.runs import interrupts

ENDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: SystemExit, signal.SIGHUP: SystemExit}


@pytest.fixture(autouse=True)
def heard():
  """A hangup is not ignored, as it is where `nohup` runs the tests."""
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ENDS)
def test_what_waits_goes_on_until_it_asks_and_the_second_signal_ends_it(number):
  with interrupts.watched() as stop:
    stop.waits = True
    assert not stop.asked()
    os.kill(os.getpid(), number)
    assert stop.asked()
    with pytest.raises(ENDS[number]) as error:
      stop.end()
    assert number == signal.SIGINT or error.value.code == 128 + number
    with pytest.raises(ENDS[number]):
      os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDS)
def test_what_does_not_wait_ends_at_once_and_a_lost_exception_comes_again(number):
  with interrupts.watched() as stop:
    stop.check()
    with pytest.raises(ENDS[number]):  # as foreign code would swallow it
      os.kill(os.getpid(), number)
    with pytest.raises(ENDS[number]):
      stop.check()


def test_handlers_of_others_stay_and_come_back():
  mine = lambda number, frame: None
  before = signal.signal(signal.SIGTERM, mine)
  try:
    with interrupts.watched():
      assert signal.getsignal(signal.SIGTERM) is mine
      assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    signal.signal(signal.SIGTERM, before)


def test_an_ignored_hangup_stays_ignored():
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
  try:
    with interrupts.watched() as stop:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not stop.asked()
  finally:
    signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_changes():
  handlers = []

  def work():
    with interrupts.watched() as stop:
      handlers.append((signal.getsignal(signal.SIGINT), stop.asked()))

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert handlers == [(signal.default_int_handler, False)]
