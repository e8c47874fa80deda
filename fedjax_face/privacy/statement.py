"""The privacy statement of a run, as privacy.json; `statement_page` makes PRIVACY.md of it.

No number is given without its unit, adjacency and delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import dp_accounting

from fedjax_face.privacy import attacker, groups
from fedjax_face.privacy import ledger as ledgers
from fedjax_face.privacy.accounting import EpsilonReport
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.privacy.statement_files import File
from fedjax_face.privacy.statement_page import epsilon_words, privacy_markdown

__all__ = ["GROUPS", "MOST_PEOPLE", "NOISE_KEYS", "delta_warning", "epsilon_words",
           "privacy_json", "privacy_markdown"]

GROUPS = (2, 5, 10)
"""Numbers of units of one person of which the statement gives the epsilon, beside the largest."""


MOST_PEOPLE = "most people in a client"
"""Name of a quantity of `mechanism` that is counted in the training set."""


_OF_ANY_GUARANTEE = (
    "Gaussian noise is drawn in 32-bit floating point; the guarantee is that of real numbers.",
    "Hyperparameters chosen by looking at results on the same people are not accounted for.",
)
_DEVICE_ONLY = (
    "a keyed hash (BLAKE2b) turns a root into 64-bit keys of Threefry-2x32, the 20-round "
    "counter-based generator that draws the noise on the device. Threefry is made from a cipher "
    "and passes statistical tests, but nobody has shown it to be cryptographically secure, and "
    "whoever can try 2^64 keys can undo the noise of that key: against an attacker beyond that, or "
    "one who breaks Threefry, no guarantee is given")
_GENERATORS = (
    "who takes part is drawn by SipHash-2-4 under 128-bit keys, one for each purpose and round, "
    "which BLAKE2b under the root gives: keyed functions for which no attack better than guessing "
    "the key is known. Each round has a 64-bit noise key; " + _DEVICE_ONLY)
NOISE_KEYS = {
    "operating_system": "noise, and who takes part in which round, follow from two separate "
                        "256-bit roots of the operating system's entropy, kept in secrets/ while "
                        "the run is unfinished and deleted at its end; " + _GENERATORS,
    "memory": "noise, and who takes part in which round, follow from two separate 256-bit roots of "
              "the operating system's entropy, which the process held in memory and wrote nowhere; "
              + _GENERATORS,
    "devices": "the noise of each device follows from its own 256-bit root of the operating "
               "system's entropy, which it keeps in its own noise.json and must keep secret; who "
               "sends what when follows from the config's seed and hides nothing; " + _DEVICE_ONLY,
    "pinned": "noise and who takes part are pinned by seeds: no privacy is claimed against anyone "
              "who knows the seeds",
    "none": "no guarantee rests on a secret: the config's seed decides who takes part in which "
            "round, and noise, where a method draws any without a proof, follows from a 256-bit "
            "root of the operating system's entropy",
}


def privacy_json(ledger: Ledger, *, delta: float, population: Mapping[str, int], sampling: str,
                 noise_keys: str, units_per_person: Mapping[str, int] | None = None,
                 mechanism: Mapping[str, float | str] | None = None, dealt: Sequence[str] = (),
                 run: Mapping[str, Any] | None = None,
                 budget: Mapping[str, Any] | None = None,
                 files: Sequence[File] = ()) -> dict[str, Any]:
  """Everything that the statement says, as strict JSON types.

  Args:
    ledger: what was released.
    delta: at which every epsilon is computed, in (0, 1).
    population: unit -> number of such units that could have taken part.
    sampling: how the units of a step are chosen, in words.
    noise_keys: a key of `NOISE_KEYS`, e.g. "operating_system".
    units_per_person: unit -> the most of them that one person has, where it may be several.
    mechanism: clip norm, noise and sensitivity, by name.
    dealt: how groups and silos were dealt, and other notes on who is where.
    run: `algorithm`, `data` (`name`, `people`, `images`, `digest`, `digest_of`), `evaluated_on`
      (words, or None), `status` ("finished", or in words what became of it), `revision` and
      `written`; None where the statement is not of a run.
    budget: of `budget.statement`, where one is kept.
    files: what the program leaves (`statement_files`).

  Returns:
    A dict; an infinite epsilon is the string "infinite", one that no accountant gives is None.

  Raises:
    ValueError: unknown `noise_keys`, or a unit without a population.
  """
  if noise_keys not in NOISE_KEYS:
    raise ValueError(f"noise_keys must be one of {', '.join(NOISE_KEYS)}, got {noise_keys!r}")
  missing = [unit for unit in ledger.units if unit not in population]
  if missing:
    raise ValueError(f"population has no entry for unit {missing[0]!r}")
  several = units_per_person or {}
  units = [_unit(ledger, unit, delta, population[unit], noise_keys == "pinned", several.get(unit))
           for unit in ledger.units]
  return {
      "run": None if run is None else dict(run),
      "units": units,
      "sampling": sampling,
      "mechanism": dict(mechanism or {}),
      "dealt": list(dealt),
      "noise_keys": noise_keys,
      "noise_keys_in_words": NOISE_KEYS[noise_keys],
      "not_covered": list(dict.fromkeys([
          *ledger.not_covered, *(_OF_ANY_GUARANTEE if _is_some(units) else ()),
          *_stated(ledger.units, several, mechanism or {}, dealt, run is not None)])),
      "public_datasets": list(ledger.public),
      "budget": None if budget is None else dict(budget),
      "files": [file._asdict() for file in files],
      "verdicts": attacker.SOURCE,
      "accountants": f"dp_accounting {metadata.version('dp-accounting')}: RDP and PLD",
      "ledger": ledger.to_json(),
  }


def _is_some(units: Sequence[Mapping[str, Any]]) -> bool:
  """Whether any channel has a guarantee."""
  return any(channel["epsilon"]["best"] != "infinite" for unit in units
             for channel in unit["channels"])


def _stated(units: Sequence[str], several: Mapping[str, int], mechanism: Mapping[str, Any],
            dealt: Sequence[str], of_a_run: bool) -> list[str]:
  """The sentence on private numbers that the statement itself gives away."""
  numbers = [*(["the number of people"] if of_a_run or "person" in units else []),
             *(["the number of images"] if of_a_run else []),
             *(f"the number of {unit}s" for unit in units if unit != "person"),
             *(f"the most {unit}s of one person" for unit in several),
             *([MOST_PEOPLE] if MOST_PEOPLE in mechanism else []),
             *(["the notes on how people were dealt"] if dealt else [])]
  if not numbers:
    return []
  return [f"Of the training set, {', '.join(dict.fromkeys(numbers))} are stated here as they are, "
          "without noise, and so is what is computed from them (sampling, noise, epsilon): they "
          "are treated as public."]


def delta_warning(delta: float, unit: str, population: int) -> str | None:
  """A sentence if `delta` is not below 1 / population, else None.

  A mechanism that publishes one unit's data in full, chosen at random, has delta 1 / population.
  """
  if delta * population < 1:
    return None
  return (f"delta = {delta:g} is not below 1/{population}, the inverse of the number of {unit}s: "
          f"such a delta does not exclude that one {unit}'s data is revealed outright")


def _unit(ledger: Ledger, unit: str, delta: float, population: int, pinned: bool,
          per_person: int | None) -> dict[str, Any]:
  adjacency = ledger.adjacency(unit)
  reasons = [f"{r.channel}: {r.note}" for r, times in ledger.entries
             if r.unit == unit and times and ledgers.is_non_private(r.event)]
  total = ledger.epsilon(delta, unit)
  return {
      "unit": unit,
      "population": population,
      "adjacency": adjacency.value,
      "adjacency_in_words": adjacency.words(unit),
      "delta": delta,
      "delta_warning": delta_warning(delta, unit, population),
      "epsilon": _epsilon(total, "; ".join(reasons)),
      "verdict": attacker.verdict(total.best, delta, population, pinned)._asdict(),
      "attacker": {
          "false_positives": attacker.FALSE_POSITIVES,
          "found_at_most": attacker.most_found(
              ledger.event(unit), adjacency, total.best, delta),
          "likelihood_factor": _number(_exp(total.best))},
      "persons": _persons(ledger, unit, delta, per_person),
      "channels": [_channel(ledger, unit, channel, report)
                   for channel, report in ledger.per_channel(delta, unit).items()],
  }


def _exp(epsilon: float) -> float:
  return math.exp(epsilon) if epsilon < 700 else (epsilon if math.isnan(epsilon) else math.inf)


def _persons(ledger: Ledger, unit: str, delta: float,
             largest: int | None) -> dict[str, Any] | None:
  """Epsilon of a person with k units, for some k and the largest; None where each has one."""
  released = [(r, times) for r, times in ledger.entries if r.unit == unit]
  if largest is None:
    return None
  epsilons = {}
  for k in sorted({*GROUPS, largest}):
    found = math.nan
    if len(released) == 1 and released[0][0].covers == 1:
      found = groups.group_epsilon(released[0][0].event, released[0][1], k, delta)
    epsilons[str(k)] = _number(found)
  return {"largest": largest, "epsilon": epsilons}


def _channel(ledger: Ledger, unit: str, channel: str, report: EpsilonReport) -> dict[str, Any]:
  releases = [(r, times) for r, times in ledger.entries
              if r.unit == unit and r.channel == channel]
  reasons = [r.note for r, times in releases if times and ledgers.is_non_private(r.event)]
  return {
      "channel": channel,
      "epsilon": _epsilon(report, "; ".join(reasons)),
      "seen_by": ", ".join(dict.fromkeys(r.seen_by for r, _ in releases)),
      "mechanism": "; ".join(dict.fromkeys(r.note or type(r.event).__name__ for r, _ in releases)),
      "steps": sum(times for _, times in releases),
      "events": sum(ledgers.events_used(times, r.covers) for r, times in releases),
      "event": [_event_words(r.event) for r, _ in releases],
      "sampling_rate": [_sampling_rate(r.event) for r, _ in releases],
      "noise_over_sensitivity": [_noise_multiplier(r.event) for r, _ in releases],
  }


def _sampling_rate(event: dp_accounting.DpEvent) -> float | None:
  """q of an event, 1 without sampling; None where there is no single one."""
  match event:
    case dp_accounting.PoissonSampledDpEvent():
      return float(event.sampling_probability)
    case dp_accounting.TruncatedSubsampledGaussianDpEvent():
      return float(event.sampling_probability)
    case dp_accounting.SampledWithoutReplacementDpEvent():
      return event.sample_size / event.source_dataset_size
    case dp_accounting.ComposedDpEvent():
      return None
  return 1.0


def _noise_multiplier(event: dp_accounting.DpEvent) -> float | None:
  """Noise over sensitivity of an event's Gaussian; None where it is of another kind."""
  if isinstance(event, dp_accounting.GaussianDpEvent
                | dp_accounting.TruncatedSubsampledGaussianDpEvent):
    return float(event.noise_multiplier)
  if isinstance(event, dp_accounting.PoissonSampledDpEvent
                | dp_accounting.SampledWithoutReplacementDpEvent):
    return _noise_multiplier(event.event)
  return None


def _event_words(event: dp_accounting.DpEvent) -> str:
  return str(event).replace("DpEvent", "")


def _epsilon(report: EpsilonReport, reason: str) -> dict[str, Any]:
  return {"best": _number(report.best), "rdp": _number(report.rdp), "pld": _number(report.pld),
          "note": reason if math.isinf(report.best) and reason else report.note}


def _number(value: float) -> float | str | None:
  if math.isnan(value):
    return None
  return "infinite" if math.isinf(value) else value
