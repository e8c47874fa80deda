"""What the ledger of a run over the wire says before its first step."""

import types

import pytest

from fedjax_face.runs import edge
from fedjax_face.runs.settings import Rehearsed
from fedjax_face.runs.start import Start


def ledger_of(*, start=None, rehearsal=None):
  named = lambda name, people: types.SimpleNamespace(name=name, num_persons=people)
  sources = types.SimpleNamespace(
      train=named("private", 9), evaluation=named("private", 9), public=named("studio", 7),
      not_covered=("of the data",))
  algorithm = types.SimpleNamespace(not_covered=("of the method",), releases=())
  asked = types.SimpleNamespace(start=start, rehearsal=rehearsal)
  return edge._ledger_before(asked, sources, algorithm)


def test_without_a_start_it_says_what_is_not_covered():
  ledger = ledger_of()
  assert ledger.not_covered == ("of the method", "of the data", *edge.NOT_COVERED)
  assert not ledger.public and not ledger.entries


def test_a_public_start_is_named_as_public_and_another_is_a_release():
  assert ledger_of(start=Start(None, 5, None, True)).public == ("studio",)
  ledger = ledger_of(start=Start(None, 5, None, False))
  ((release, times),) = ledger.entries
  assert not ledger.public and times == 1
  assert release.channel == "pre-trained backbone" and "studio, which is not" in release.note


def test_what_a_rehearsal_chose_is_said_and_what_is_not_public_refused():
  said = Rehearsed(public="studio", people=7, judges=3, chose=("method.activations.clip_norm=1.0",))
  ledger = ledger_of(rehearsal=said)
  assert ledger.public == ("studio",)
  assert any("activations clip norm were chosen by rehearsal on 7 public people of studio" in line
             for line in ledger.not_covered)
  with pytest.raises(ValueError, match="rehearsal was on private, which trains in this run"):
    ledger_of(rehearsal=said._replace(public="private"))
