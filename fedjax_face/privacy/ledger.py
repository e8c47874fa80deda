"""What a run has released, to whom, and the epsilon that follows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import attr
import dp_accounting
import numpy as np

from fedjax_face.privacy import accounting
from fedjax_face.privacy.accounting import EpsilonReport
from fedjax_face.privacy.adjacency import Adjacency

RDP_ALONE_ABOVE = 100.0  # epsilon of a progress line
_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Release:
  """One thing that leaves, each time it leaves.

  Attributes:
    channel: what it is, e.g. "backbone", "clusters", "activations".
    unit: whose data is protected, e.g. "person", "image".
    adjacency: the neighbouring relation of the guarantee.
    event: privacy event of one recording; noise multipliers relative to the sensitivity under
      `adjacency`. `NonPrivateDpEvent` when nothing is promised; `note` must then say why.
    seen_by: who sees it.
    covers: steps that ONE event accounts for (correlated noise: the whole run; banded: the bands).
    note: the mechanism in words, or why there is no guarantee.
  """

  channel: str
  unit: str
  adjacency: Adjacency
  event: dp_accounting.DpEvent
  seen_by: str
  covers: int = 1
  note: str = ""

  def __post_init__(self) -> None:
    for name in ("channel", "unit", "seen_by"):
      if not getattr(self, name):
        raise ValueError(f"Release.{name} must not be empty")
    if not isinstance(self.adjacency, Adjacency):
      raise ValueError(f"Release.adjacency must be an Adjacency, got {self.adjacency!r}")
    if not isinstance(self.event, dp_accounting.DpEvent):
      raise ValueError(f"Release.event must be a DpEvent, got {self.event!r}")
    if self.covers < 1:
      raise ValueError(f"Release.covers must be at least 1, got {self.covers}")
    if is_non_private(self.event) and not self.note:
      raise ValueError(f"Release.note must say why channel {self.channel!r} has no guarantee")


def non_private(channel: str, unit: str, adjacency: Adjacency, seen_by: str,
                reason: str) -> Release:
  """A release without any guarantee: epsilon is infinite, for the reason given."""
  return Release(channel, unit, adjacency, dp_accounting.NonPrivateDpEvent(), seen_by, note=reason)


def is_non_private(event: dp_accounting.DpEvent) -> bool:
  """True if `event` contains a `NonPrivateDpEvent`."""
  if isinstance(event, dp_accounting.NonPrivateDpEvent):
    return True
  if isinstance(event, dp_accounting.ComposedDpEvent):
    return any(is_non_private(e) for e in event.events)
  return hasattr(event, "event") and is_non_private(event.event)


class Ledger:
  """Counts releases and answers epsilon questions about them.

  Releases that are equal share one count. Epsilon of a unit composes ALL its channels (adaptive
  composition); channels of one unit must be stated under the same adjacency.
  """

  def __init__(self) -> None:
    self._times: dict[str, int] = {}            # release as JSON text -> steps recorded
    self._releases: dict[str, Release] = {}
    self._not_covered: list[str] = []
    self._public: list[str] = []
    self._reports: dict[tuple[Any, ...], EpsilonReport] = {}
    self._curves: dict[str, np.ndarray] = {}

  def record(self, release: Release, times: int = 1) -> None:
    """Adds `times` steps in which `release` left.

    Raises:
      ValueError: negative `times`, or another adjacency than the unit's earlier releases.
    """
    if times < 0:
      raise ValueError(f"times must not be negative, got {times}")
    for other in self._releases.values():
      if other.unit == release.unit and other.adjacency is not release.adjacency:
        raise ValueError(
            f"unit {release.unit!r}: channel {release.channel!r} is {release.adjacency.value} but "
            f"channel {other.channel!r} is {other.adjacency.value}; use one adjacency per unit")
    key = json.dumps(_release_to_json(release), sort_keys=True)
    self._releases.setdefault(key, release)
    self._times[key] = self._times.get(key, 0) + int(times)
    self._reports.clear()

  def declare_not_covered(self, sentence: str) -> None:
    """States something that leaves without a guarantee; repeated sentences count once."""
    if sentence not in self._not_covered:
      self._not_covered.append(sentence)

  def declare_public(self, dataset: str) -> None:
    """States that a data set was used as public, hence is protected by nothing here."""
    if dataset not in self._public:
      self._public.append(dataset)

  @property
  def entries(self) -> tuple[tuple[Release, int], ...]:
    """(release, steps recorded), in order of first recording."""
    return tuple((release, self._times[key]) for key, release in self._releases.items())

  @property
  def units(self) -> tuple[str, ...]:
    """Units with a release, in order of first recording."""
    return tuple(dict.fromkeys(r.unit for r in self._releases.values()))

  @property
  def not_covered(self) -> tuple[str, ...]:
    """Sentences from `declare_not_covered`."""
    return tuple(self._not_covered)

  @property
  def public(self) -> tuple[str, ...]:
    """Data sets from `declare_public`."""
    return tuple(self._public)

  def adjacency(self, unit: str) -> Adjacency:
    """The adjacency that all releases of `unit` share."""
    return self._releases[self._keys(unit)[0]].adjacency

  def event(self, unit: str, channel: str | None = None) -> dp_accounting.DpEvent:
    """Composition of everything released about `unit`, or of one channel."""
    counted = ((self._releases[key].event, self._events(key))
               for key in self._keys(unit, channel))
    return dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(event, count) for event, count in counted if count])

  def epsilon(self, delta: float, unit: str) -> EpsilonReport:
    """Epsilon at `delta` of all channels of `unit` together, by RDP and PLD (cached)."""
    return self._report(delta, unit, None)

  def per_channel(self, delta: float, unit: str) -> dict[str, EpsilonReport]:
    """Epsilon at `delta` of each channel of `unit` ALONE; the total is `epsilon`, not their sum."""
    channels = dict.fromkeys(self._releases[key].channel for key in self._keys(unit))
    return {channel: self._report(delta, unit, channel) for channel in channels}

  def epsilon_so_far(self, delta: float, unit: str) -> float:
    """Epsilon of `unit`, cheap enough for a progress line; nan where no accountant can tell.

    The smaller of PLD and RDP, as `epsilon` gives it; but RDP curves add up, so each release's
    curve is computed once and then only multiplied, and PLD is left out where RDP is above
    `RDP_ALONE_ABOVE`: there it is slow, and nobody needs the digits.
    """
    rdp = np.zeros_like(accounting.RDP_ORDERS)
    for key in self._keys(unit):
      if count := self._events(key):
        rdp += count * self._rdp_curve(key)
    bounds = [math.nan if np.isnan(rdp).any() else accounting.epsilon_from_rdp(rdp, delta)]
    event, adjacency = self.event(unit), self.adjacency(unit)
    if not bounds[0] > RDP_ALONE_ABOVE and not accounting.unsupported(event, adjacency, "pld"):
      bounds.append(accounting.epsilon_by("pld", event, delta, adjacency))
    return float(np.nanmin(bounds)) if not np.isnan(bounds).all() else math.nan

  def to_json(self) -> dict[str, Any]:
    """Everything, as strict JSON types; `from_json` restores it exactly."""
    return {
        "version": _VERSION,
        "entries": [{"release": _release_to_json(r), "times": n} for r, n in self.entries],
        "not_covered": list(self._not_covered),
        "public": list(self._public),
    }

  @classmethod
  def from_json(cls, data: Mapping[str, Any]) -> Ledger:
    """Inverse of `to_json`.

    Raises:
      ValueError: another version, or an event that dp_accounting does not define.
    """
    if data.get("version") != _VERSION:
      raise ValueError(f"ledger version must be {_VERSION}, got {data.get('version')!r}")
    ledger = cls()
    for entry in data["entries"]:
      ledger.record(_release_from_json(entry["release"]), entry["times"])
    for sentence in data["not_covered"]:
      ledger.declare_not_covered(sentence)
    for dataset in data["public"]:
      ledger.declare_public(dataset)
    return ledger

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Ledger) and self.to_json() == other.to_json()

  __hash__ = None  # type: ignore[assignment]

  def _keys(self, unit: str, channel: str | None = None) -> list[str]:
    keys = [key for key, r in self._releases.items()
            if r.unit == unit and channel in (None, r.channel)]
    if not keys:
      raise ValueError(f"nothing is recorded for unit {unit!r}"
                       + (f", channel {channel!r}" if channel else "")
                       + f"; recorded units: {', '.join(self.units) or 'none'}")
    return keys

  def _events(self, key: str) -> int:
    return events_used(self._times[key], self._releases[key].covers)

  def _rdp_curve(self, key: str) -> np.ndarray:
    """RDP of one event of a release; nan where RDP cannot account for it."""
    if key not in self._curves:
      event, adjacency = self._releases[key].event, self._releases[key].adjacency
      if accounting.unsupported(event, adjacency, "rdp"):
        self._curves[key] = np.full_like(accounting.RDP_ORDERS, np.nan)
      else:
        self._curves[key] = accounting.rdp_curve(event, adjacency)
    return self._curves[key]

  def _report(self, delta: float, unit: str, channel: str | None) -> EpsilonReport:
    query = (delta, unit, channel)
    if query not in self._reports:
      self._reports[query] = accounting.epsilon(
          self.event(unit, channel), delta, self.adjacency(unit))
    return self._reports[query]


def events_used(times: int, covers: int) -> int:
  """Privacy events that `times` steps cost when one event covers `covers` steps."""
  return -(-times // covers)


def event_to_json(event: dp_accounting.DpEvent) -> dict[str, Any]:
  """A DpEvent, nested ones included, as strict JSON types."""
  return {"type": type(event).__name__,
          **{field.name: _value_to_json(getattr(event, field.name))
             for field in attr.fields(type(event))}}


def event_from_json(data: Mapping[str, Any]) -> dp_accounting.DpEvent:
  """Inverse of `event_to_json`, equal to the original (lists and tuples kept apart).

  Raises:
    ValueError: not an event of dp_accounting.
  """
  kind = getattr(dp_accounting.dp_event, str(data.get("type")), None)
  if not (isinstance(kind, type) and issubclass(kind, dp_accounting.DpEvent)):
    raise ValueError(f"unknown DpEvent {data.get('type')!r}")
  return kind(**{k: _value_from_json(v) for k, v in data.items() if k != "type"})


def _value_to_json(value: Any) -> Any:
  if isinstance(value, dp_accounting.DpEvent):
    return event_to_json(value)
  if isinstance(value, np.ndarray | np.generic):
    return _value_to_json(value.tolist())
  if isinstance(value, tuple):
    return {"tuple": [_value_to_json(v) for v in value]}
  if isinstance(value, list):
    return [_value_to_json(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return {"float": repr(value)}
  return value


def _value_from_json(value: Any) -> Any:
  if isinstance(value, list):
    return [_value_from_json(v) for v in value]
  if isinstance(value, Mapping):
    if "tuple" in value:
      return tuple(_value_from_json(v) for v in value["tuple"])
    if "float" in value:
      return float(value["float"])
    return event_from_json(value)
  return value


def _release_to_json(release: Release) -> dict[str, Any]:
  data = {f.name: getattr(release, f.name) for f in dataclasses.fields(release)}
  return {**data, "adjacency": release.adjacency.value, "event": event_to_json(release.event)}


def _release_from_json(data: Mapping[str, Any]) -> Release:
  return Release(**{**data, "adjacency": Adjacency(data["adjacency"]),
                    "event": event_from_json(data["event"])})
