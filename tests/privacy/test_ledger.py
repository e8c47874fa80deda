"""Counting, composing, covering and storing of releases."""

from __future__ import annotations

import json
import math

import dp_accounting
import numpy as np
import pytest

from fedjax_face.privacy import accounting, ledger
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Ledger, Release

ADD, REPLACE = Adjacency.ADD_OR_REMOVE_ONE, Adjacency.REPLACE_ONE
Gaussian = dp_accounting.GaussianDpEvent


def gaussian_release(channel="clusters", noise=3., unit="person", adjacency=ADD, **kwargs):
  return Release(channel, unit, adjacency, Gaussian(noise), "everyone", **kwargs)


def sampled_release(noise=.62):
  event = dp_accounting.PoissonSampledDpEvent(256 / 6800, Gaussian(noise))
  return Release("backbone", "person", ADD, event, "everyone")


def test_releases_add_up_to_the_known_epsilon():
  book = Ledger()
  for _ in range(50):
    book.record(sampled_release(), times=4)
  assert book.epsilon(1e-5, "person").pld == pytest.approx(11.10, abs=.01)
  assert len(book.entries) == 1


def test_channels_compose_and_differ_from_their_parts():
  book = Ledger()
  book.record(gaussian_release("clusters", 3.), 3)
  book.record(gaussian_release("counts", 4.), 2)
  exact = dp_accounting.get_epsilon_gaussian((3 / 9 + 2 / 16)**-.5, 1e-5)
  assert book.epsilon(1e-5, "person").pld == pytest.approx(exact, abs=1e-3)
  alone = book.per_channel(1e-5, "person")
  assert alone["clusters"].pld == pytest.approx(
      dp_accounting.get_epsilon_gaussian(3 / math.sqrt(3), 1e-5), abs=1e-3)
  assert alone["counts"].pld < alone["clusters"].pld < exact


def test_units_are_separate():
  book = Ledger()
  book.record(gaussian_release(unit="person"))
  book.record(gaussian_release(unit="image", noise=1., adjacency=REPLACE))
  assert book.units == ("person", "image")
  assert book.epsilon(1e-5, "person").pld == pytest.approx(
      dp_accounting.get_epsilon_gaussian(3., 1e-5), abs=1e-3)


@pytest.mark.parametrize("covers, times, events",
                         [(1, 7, 7), (7, 7, 1), (7, 8, 2), (3, 7, 3), (100, 1, 1), (4, 0, 0)])
def test_one_event_covers_several_steps(covers, times, events):
  book = Ledger()
  release = gaussian_release(covers=covers)
  for _ in range(times):
    book.record(release)
  if not times:
    book.record(release, 0)
  assert ledger.events_used(times, covers) == events
  expected = accounting.epsilon_by(
      "rdp", dp_accounting.SelfComposedDpEvent(Gaussian(3.), events), 1e-5, ADD) if events else 0.
  assert book.epsilon(1e-5, "person").rdp == pytest.approx(expected)
  assert book.epsilon_so_far(1e-5, "person") == pytest.approx(book.epsilon(1e-5, "person").best)


def test_an_infinite_release_makes_the_unit_infinite_and_needs_a_reason():
  book = Ledger()
  book.record(gaussian_release())
  leak = ledger.non_private("heads", "person", ADD, "the server", "selection depends on the data")
  book.record(leak)
  assert book.epsilon(1e-5, "person").best == book.epsilon_so_far(1e-5, "person") == math.inf
  assert math.isfinite(book.per_channel(1e-5, "person")["clusters"].best)
  with pytest.raises(ValueError, match="must say why channel 'heads'"):
    Release("heads", "person", ADD, dp_accounting.SelfComposedDpEvent(leak.event, 2), "the server")


def test_epsilon_so_far_is_the_best_bound_and_computes_a_curve_once(monkeypatch):
  computed = []
  real = accounting.rdp_curve
  monkeypatch.setattr(
      accounting, "rdp_curve", lambda *given: computed.append(given) or real(*given))
  book = Ledger()
  for _ in range(5):
    book.record(sampled_release())
    value = book.epsilon_so_far(1e-5, "person")
  assert len(computed) == 1
  assert value == pytest.approx(book.epsilon(1e-5, "person").best)


def test_epsilon_is_computed_once_per_state(monkeypatch):
  computed = []
  real = accounting.epsilon
  monkeypatch.setattr(accounting, "epsilon", lambda *given: computed.append(given) or real(*given))
  book = Ledger()
  book.record(gaussian_release())
  first = book.epsilon(1e-5, "person")
  assert book.epsilon(1e-5, "person") == first and len(computed) == 1
  book.record(gaussian_release())
  assert book.epsilon(1e-5, "person").best > first.best and len(computed) == 2


def test_epsilon_so_far_is_by_pld_where_rdp_cannot():
  book = Ledger()
  event = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent(6800, .03, 300, 1.)
  book.record(Release("backbone", "person", ADD, event, "everyone"))
  assert book.epsilon_so_far(1e-5, "person") == book.epsilon(1e-5, "person").pld


def test_one_adjacency_per_unit():
  book = Ledger()
  book.record(gaussian_release("clusters"))
  with pytest.raises(ValueError, match="'person': channel 'backbone' is replace_one but channel "
                                       "'clusters' is add_or_remove_one"):
    book.record(gaussian_release("backbone", adjacency=REPLACE))
  assert len(book.entries) == 1


def full_ledger():
  book = Ledger()
  sampled = dp_accounting.dp_event.SampledWithoutReplacementDpEvent(
      6800, 256, dp_accounting.ComposedDpEvent([Gaussian(.1 + .2), Gaussian(1 / 3)]))
  mixture = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(1., (0., 1.), [.9, .1])
  repeated = dp_accounting.dp_event.RepeatAndSelectDpEvent(Gaussian(2.), 3., math.inf)
  book.record(Release("backbone", "person", REPLACE, sampled, "everyone", 8, "banded"), 17)
  book.record(Release("count", "image", ADD, mixture, "the server"), 3)
  book.record(Release("tuning", "image", ADD, repeated, "the server"))
  book.record(ledger.non_private("labels", "image", ADD, "the server", "sent in clear"))
  book.declare_not_covered("Metrics leave without noise.")
  book.declare_public("digiface")
  return book


def test_json_round_trip_is_exact():
  book = full_ledger()
  text = json.dumps(book.to_json(), allow_nan=False)
  restored = Ledger.from_json(json.loads(text))
  assert restored == book
  assert restored.entries == book.entries
  assert (restored.not_covered, restored.public) == (book.not_covered, book.public)
  restored.record(restored.entries[0][0])
  assert restored != book
  assert len(restored.entries) == len(book.entries)


def test_numpy_scalars_are_stored_as_numbers():
  event = Gaussian(np.float64(.3))
  assert ledger.event_from_json(json.loads(json.dumps(ledger.event_to_json(event)))) == event


@pytest.mark.parametrize("change, message", [
    (lambda d: d.update(version=99), "version must be 1, got 99"),
    (lambda d: d["entries"][0]["release"]["event"].update(type="os.system"), "unknown DpEvent"),
    (lambda d: d["entries"][0]["release"]["event"].update(type="DpEventNamedTuple"), "unknown")])
def test_bad_json(change, message):
  data = full_ledger().to_json()
  change(data)
  with pytest.raises(ValueError, match=message):
    Ledger.from_json(data)


def test_declarations_count_once():
  book = Ledger()
  for _ in range(3):
    book.declare_not_covered("Metrics leave without noise.")
    book.declare_public("digiface")
  assert book.not_covered == ("Metrics leave without noise.",)
  assert book.public == ("digiface",)


@pytest.mark.parametrize("change, message", [
    ({"channel": ""}, "Release.channel"), ({"unit": ""}, "Release.unit"),
    ({"seen_by": ""}, "Release.seen_by"), ({"covers": 0}, "Release.covers"),
    ({"adjacency": "replace_one"}, "Release.adjacency"), ({"event": 3.}, "Release.event")])
def test_bad_release(change, message):
  fields = {"channel": "backbone", "unit": "person", "adjacency": ADD, "event": Gaussian(1.),
            "seen_by": "everyone"}
  with pytest.raises(ValueError, match=message):
    Release(**{**fields, **change})


def test_unknown_unit_and_negative_times():
  book = Ledger()
  book.record(gaussian_release())
  with pytest.raises(ValueError, match="unit 'image'; recorded units: person"):
    book.epsilon(1e-5, "image")
  with pytest.raises(ValueError, match="times must not be negative, got -1"):
    book.record(gaussian_release(), -1)
