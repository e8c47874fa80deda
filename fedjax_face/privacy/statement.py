"""The privacy statement of a run: privacy.json and PRIVACY.md.

No number is given without its unit, adjacency and delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import dp_accounting

from fedjax_face.privacy import ledger as ledgers
from fedjax_face.privacy.accounting import EpsilonReport
from fedjax_face.privacy.ledger import Ledger

_DEVICE_ONLY = (
    "a keyed hash (BLAKE2b) turns a root into 64-bit keys of Threefry-2x32, the 20-round "
    "counter-based generator that draws the noise on the device. Threefry is made from a cipher "
    "and passes statistical tests, but nobody has shown it to be cryptographically secure, and "
    "whoever can try 2^64 keys can undo the noise of that key: against an attacker beyond that, or "
    "one who breaks Threefry, no guarantee is given")
_GENERATORS = (
    "each round has a 64-bit noise key and a 256-bit seed of numpy's PCG64, which draws who takes "
    "part and is a statistical generator too, not a cryptographic one; " + _DEVICE_ONLY)
NOISE_KEYS = {
    "operating_system": "noise, and who takes part in which round, follow from two separate "
                        "256-bit roots of the operating system's entropy, kept in secrets/ while "
                        "the run is unfinished and deleted at its end; " + _GENERATORS,
    "devices": "the noise of each device follows from its own 256-bit root of the operating "
               "system's entropy, which it keeps in its own noise.json and must keep secret; who "
               "sends what when follows from the config's seed and hides nothing; " + _DEVICE_ONLY,
    "pinned": "noise and who takes part are pinned by seeds: no privacy is claimed against anyone "
              "who knows the seeds",
    "none": "none; nothing is noised, and the config's seed decides who takes part in which round",
}


def privacy_json(ledger: Ledger, *, delta: float, population: Mapping[str, int], sampling: str,
                 noise_keys: str) -> dict[str, Any]:
  """Everything that the statement says, as strict JSON types.

  Args:
    ledger: what was released.
    delta: at which every epsilon is computed, in (0, 1).
    population: unit -> number of such units that could have taken part.
    sampling: how the units of a step are chosen, in words.
    noise_keys: a key of `NOISE_KEYS`, e.g. "operating_system".

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
  return {
      "units": [_unit(ledger, unit, delta, population[unit]) for unit in ledger.units],
      "sampling": sampling,
      "noise_keys": noise_keys,
      "noise_keys_in_words": NOISE_KEYS[noise_keys],
      "not_covered": list(ledger.not_covered),
      "public_datasets": list(ledger.public),
      "accountants": f"dp_accounting {metadata.version('dp-accounting')}: RDP and PLD",
      "ledger": ledger.to_json(),
  }


def delta_warning(delta: float, unit: str, population: int) -> str | None:
  """A sentence if `delta` is not below 1 / population, else None.

  A mechanism that publishes one unit's data in full, chosen at random, has delta 1 / population.
  """
  if delta * population < 1:
    return None
  return (f"delta = {delta:g} is not below 1/{population}, the inverse of the number of {unit}s: "
          f"such a delta does not exclude that one {unit}'s data is revealed outright")


def privacy_markdown(statement: Mapping[str, Any]) -> str:
  """PRIVACY.md from what `privacy_json` returned."""
  parts = ["# What this run protects", ""]
  if not statement["units"]:
    parts += ["Nothing is on the ledger: no release of this run carries a guarantee.", ""]
  for unit in statement["units"]:
    parts += _unit_markdown(unit)
  parts += [
      "## How", "",
      f"* Sampling: {statement['sampling']}.",
      f"* Secrets: {statement['noise_keys_in_words']}.",
      f"* Accounting: {statement['accountants']}. Both are upper bounds and the smaller one holds. "
      "PLD is computed on a grid that is rounded up.", "",
      "## What is NOT covered", "",
      *_bullets(statement["not_covered"], "Nothing was declared."), "",
      "## Data treated as public (not protected)", "",
      *_bullets(statement["public_datasets"], "None."), ""]
  return "\n".join(parts)


def epsilon_words(value: Any, note: str) -> str:
  """An epsilon of the statement for a reader: "3.142", or why there is none."""
  if value is None:
    return f"not computed: {note}"
  if value == "infinite":
    return f"none (epsilon infinite): {note}"
  return _rounded_up(value)


def _rounded_up(value: float) -> str:
  """Three decimals, never below the bound itself."""
  return f"{math.ceil(value * 1000) / 1000:.3f}"


def _unit(ledger: Ledger, unit: str, delta: float, population: int) -> dict[str, Any]:
  adjacency = ledger.adjacency(unit)
  reasons = [f"{r.channel}: {r.note}" for r, times in ledger.entries
             if r.unit == unit and times and ledgers.is_non_private(r.event)]
  return {
      "unit": unit,
      "population": population,
      "adjacency": adjacency.value,
      "adjacency_in_words": adjacency.words(unit),
      "delta": delta,
      "delta_warning": delta_warning(delta, unit, population),
      "epsilon": _epsilon(ledger.epsilon(delta, unit), "; ".join(reasons)),
      "channels": [_channel(ledger, unit, channel, report)
                   for channel, report in ledger.per_channel(delta, unit).items()],
  }


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
  }


def _event_words(event: dp_accounting.DpEvent) -> str:
  return str(event).replace("DpEvent", "")


def _epsilon(report: EpsilonReport, reason: str) -> dict[str, Any]:
  return {"best": _number(report.best), "rdp": _number(report.rdp), "pld": _number(report.pld),
          "note": reason if math.isinf(report.best) and reason else report.note}


def _number(value: float) -> float | str | None:
  if math.isnan(value):
    return None
  return "infinite" if math.isinf(value) else value


def _unit_markdown(unit: Mapping[str, Any]) -> list[str]:
  name, delta, total = unit["unit"], unit["delta"], unit["epsilon"]
  condition = f"delta {delta:g}, {unit['adjacency'].replace('_', '-')}"
  lines = [
      f"## Each {name}, one of {unit['population']}", "",
      f"**Epsilon of everything released about {_a(name)}, at {condition}: "
      f"{epsilon_words(total['best'], total['note'])}**", "",
      f"Protected: every single {name} of the training data, against anyone who sees all the "
      "channels below and may know everybody else's data, but not the secrets named under How. "
      f"Whether {unit['adjacency_in_words']} changes the probability of anything they can see by a "
      "factor of at most e^epsilon, plus delta. What is true of the data as a whole is not "
      "protected.", ""]
  if isinstance(total["best"], str) or total["best"] is None:
    lines[-2] = f"There is no finite bound for {_a(name)} on all channels together."
  if unit["delta_warning"]:
    lines += [f"**Warning:** {unit['delta_warning']}.", ""]
  lines += [f"| channel | seen by | epsilon for {_a(name)} ({condition}) | RDP | PLD | steps | "
            "privacy events | mechanism |", "|---|---|---|---|---|---|---|---|"]
  for channel in unit["channels"]:
    epsilon = channel["epsilon"]
    lines.append(
        f"| {channel['channel']} | {channel['seen_by']} "
        f"| {epsilon_words(epsilon['best'], epsilon['note'])} | {_cell(epsilon['rdp'])} "
        f"| {_cell(epsilon['pld'])} | {channel['steps']} | {channel['events']} "
        f"| {channel['mechanism']}; each event {'; '.join(channel['event'])} |")
  lines += ["", f"All channels together: RDP {_cell(total['rdp'])}, PLD {_cell(total['pld'])} "
            f"({condition}, per {name}); {total['note']}.", ""]
  return lines


def _a(unit: str) -> str:
  return f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"


def _cell(value: float | str | None) -> str:
  if value is None:
    return "not available"
  return value if isinstance(value, str) else _rounded_up(value)


def _bullets(sentences: list[str], none: str) -> list[str]:
  return [f"* {sentence}" for sentence in sentences] or [none]
