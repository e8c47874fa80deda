"""PRIVACY.md, for two readers: first whoever answers for the data, then a researcher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_COUNT = {1: "one", 2: "two", 3: "three"}
_MEANS = {
    "add_or_remove_one": "whether the data of {a_unit} are among the training data",
    "replace_one": "whether the training data hold the data of {a_unit} or any other data in their "
                   "place",
    "zero_out": "whether the contribution of {a_unit} was in or replaced by zero",
}
_PUBLIC_NUMBER = (
    "The number of {unit}s, {population}, is treated as public. Add-or-remove here means: one "
    "{unit}'s data are there or not, while this number, and all that is computed from it (sampling "
    "probabilities, what sums are divided by), stay as published. Hidden is whose data they are, "
    "not how many {unit}s there are.")


def privacy_markdown(statement: Mapping[str, Any]) -> str:
  """PRIVACY.md from what `statement.privacy_json` returned."""
  lines = ["# What this run protects", "", _opening(statement), ""]
  for unit in statement["units"]:
    lines += [_meaning(unit), ""]
  lines += ["## What adds up", "", *_what_adds_up(statement), "",
            "## Who is one person", "", *_who(statement), "",
            "## What is NOT covered", "",
            *_bullets(statement["not_covered"], "Nothing was declared."), "",
            "## Data treated as public (not protected)", "",
            *_bullets(statement["public_datasets"], "None."), "", *_files(statement["files"]),
            "# For researchers", ""]
  for unit in statement["units"]:
    lines += _of_unit(unit)
  return "\n".join([*lines, *_how(statement), *_appendix(statement)])


def epsilon_words(value: Any, note: str) -> str:
  """An epsilon of the statement for a reader: "3.142", or why there is none."""
  if value is None:
    return f"not computed: {note}"
  if value == "infinite":
    return f"none (epsilon infinite): {note}"
  return _rounded_up(value)


def _opening(statement: Mapping[str, Any]) -> str:
  """Which run, on which data and whom; what an attacker finds; the verdict for each unit."""
  run, said = statement["run"], []
  if run is not None:
    said += _of_run(run)
  if not statement["units"]:
    said.append("Nothing is on the ledger: no release of this run carries a guarantee.")
  if statement["noise_keys"] == "pinned":
    said.append("The seeds of this run are pinned: no privacy is claimed against anyone who knows "
                "them" + (", and what follows is true only of others." if _is_bounded(statement)
                          else "."))
  for unit in statement["units"]:
    verdict = unit["verdict"]
    said.append(f"{_found(unit)} **Protection of each {unit['unit']}: {verdict['word']}**, for "
                f"{verdict['why']}.")
  if run is not None:
    data = run["data"]
    digest = (f"; digest of {data['digest_of']}: {data['digest']}" if data["digest"] else
              "; nothing of the run is kept in files, nor a digest of its data")
    said.append(f"Written on {run['written']} by revision {run['revision']}{digest}.")
  said.append(f"(The words are {statement['verdicts']}.)")
  return " ".join(said)


def _is_bounded(statement: Mapping[str, Any]) -> bool:
  """Whether any unit has a finite epsilon on all channels together."""
  return any(isinstance(unit["epsilon"]["best"], float) for unit in statement["units"])


def _of_run(run: Mapping[str, Any]) -> list[str]:
  data, status = run["data"], run["status"]
  said = [f"This is about the model that {run['algorithm']} trained on {data['name']}: "
          f"{data['people']:,} people, {data['images']:,} images.",
          f"It is evaluated on {run['evaluated_on']}."]
  if status == "unfinished":
    said.insert(0, "**This run has not finished.** What follows is the most that it can have "
                f"released since this was written: {run['counted']:,} rounds. The statement is "
                "written anew with every checkpoint, and when it ends.")
  elif status != "finished":
    counted = f": {run['counted']:,} rounds" if "counted" in run else ""
    said.insert(0, "**This run stopped before its end.** What follows is what it released until "
                f"then{counted}.")
  return said


def _found(unit: Mapping[str, Any]) -> str:
  """The share of members that an attacker finds, in one sentence."""
  name, total, attacker = unit["unit"], unit["epsilon"], unit["attacker"]
  if isinstance(total["best"], str) or total["best"] is None:
    return (f"No bound holds for {_a(name)} on all channels together: whoever sees them all may be "
            "able to tell who is in the data, without any error.")
  wrong = f"{100 * attacker['false_positives']:g} %"
  return (f"An attacker who sees everything that was released, knows the data of everybody else "
          f"and not the secrets named below, and is wrong on {wrong} of those that are not "
          f"in, finds at most {_percent(attacker['found_at_most'])} of the {name}s that are in "
          f"(without any release: {wrong}).")


def _meaning(unit: Mapping[str, Any]) -> str:
  """What epsilon and delta say of an attacker."""
  name, total = unit["unit"], unit["epsilon"]
  what = _MEANS[unit["adjacency"]].format(a_unit=_a(name))
  if isinstance(total["best"], str) or total["best"] is None:
    return (f"There is no finite bound for {_a(name)} on all channels together: an attacker who "
            f"sees them all may be able to tell {what}. The reason: "
            f"{epsilon_words(total['best'], total['note'])}.")
  said = (f"What such an attacker tries to tell is {what}. The share follows from epsilon "
          f"{_rounded_up(total['best'])} at delta {unit['delta']:g} for each {name}, "
          f"{_dashed(unit)}: nothing that can be seen becomes more than "
          f"{_factor(unit['attacker']['likelihood_factor'])} times (e^epsilon) as probable by one "
          f"{name}, but for a probability of delta. What is true of the data as a whole is not "
          "protected.")
  if unit["delta_warning"]:
    said += f"\n\n**Warning:** {unit['delta_warning']}."
  return said


def _what_adds_up(statement: Mapping[str, Any]) -> list[str]:
  twice = (": two runs that release as much as this one have together at most twice its epsilon at "
           "twice its delta") if _is_bounded(statement) else ""
  lines = [f"Every further run on the same people, with another seed, config or method, adds to "
           f"what is known of them{twice}. Trials that were looked at and thrown away count too."]
  others = ("Only experiments.train, experiments.compare and experiments.audit --one_run enter "
            "their runs in a budget: what else is released of these people "
            "(experiments.edge_server and experiments.device, code of one's own) is not counted.")
  budget = statement["budget"]
  if budget is None:
    return [*lines, "", "No privacy budget was kept (--privacy_budget FILE): other runs on these "
            "people are not counted here."]
  for unit, epsilon in budget["total"].items():
    limit = "" if budget["limit"] is None else f", of a limit of {budget['limit']:g}"
    lines += ["", f"**Running total of {budget['data']}, {_number(len(budget['runs']))} run(s): "
              f"epsilon {_cell(epsilon)} for each {unit} at delta {budget['delta']:g}{limit}.** "
              "Runs are entered in full before they begin."]
  lines += ["", others]
  rows = [(run.get("name", ""), run.get("started", ""), run.get("revision", ""),
           ", ".join(f"{_cell(e)} for each {u} at delta {budget['delta']:g}"
                     for u, e in run["epsilon"].items())) for run in budget["runs"]]
  return [*lines, "", *_table(("run", "entered on", "revision",
                               "epsilon of the run alone"), rows)]


def _who(statement: Mapping[str, Any]) -> list[str]:
  lines = [
      "* Somebody who is in the data under several identities counts as several people: k of them "
      "together have at most k times the epsilon, at a larger delta.",
      "* Relatives and others who look alike are not one person. What a model learns of many may "
      "tell something of anyone, whether in the data or not.",
      "* Somebody who is also in a public or in the evaluation set is protected only as far as the "
      "training data go: those sets are used without noise."]
  for unit in statement["units"]:
    if unit["adjacency"] == "add_or_remove_one":
      lines.append("* " + _PUBLIC_NUMBER.format(**unit))
    if persons := unit["persons"]:
      name = unit["unit"]
      lines += [
          f"* The unit is {_a(name)}, not a person. A person with k {name}s, all added or removed "
          f"together, at delta {unit['delta']:g} (group privacy: a mixture of Gaussians over the "
          f"number of them that a step samples, composed over the steps; the most that one person "
          f"has here is {persons['largest']}):", "",
          *_table((f"{name}s of a person", "epsilon of the person"),
                  [(k, _cell(e)) for k, e in persons["epsilon"].items()]), ""]
  return lines


def _files(files: Sequence[Mapping[str, str]]) -> list[str]:
  if not files:
    return []
  return ["## Files: publish, guard, delete", "",
          *_table(("file", "what to do", "why"),
                  [(file["pattern"], file["handling"], file["why"]) for file in files]), ""]


def _of_unit(unit: Mapping[str, Any]) -> list[str]:
  name, total = unit["unit"], unit["epsilon"]
  condition = f"delta {unit['delta']:g}, {_dashed(unit)}"
  rows = []
  for channel in unit["channels"]:
    epsilon = channel["epsilon"]
    rows.append((
        channel["channel"], channel["seen_by"], epsilon_words(epsilon["best"], epsilon["note"]),
        _cell(epsilon["rdp"]), _cell(epsilon["pld"]), channel["steps"], channel["events"],
        _listed(channel["noise_over_sensitivity"]), _listed(channel["sampling_rate"]),
        channel["mechanism"]))
  return [
      f"## Each {name}, one of {unit['population']}", "",
      f"**Epsilon of everything released about {_a(name)}, at {condition}: "
      f"{epsilon_words(total['best'], total['note'])}**", "",
      f"Neighbouring data sets: {unit['adjacency_in_words']}.", "",
      *_table(("channel", "seen by", f"epsilon for {_a(name)} ({condition})", "RDP", "PLD", "steps",
               "privacy events", "noise / sensitivity", "sampling rate q", "mechanism"), rows), "",
      f"All channels together: RDP {_cell(total['rdp'])}, PLD {_cell(total['pld'])} "
      f"({condition}, per {name}); {total['note']}.", ""]


def _how(statement: Mapping[str, Any]) -> list[str]:
  mechanism = statement["mechanism"]
  return ["## How", "",
          *(_table(("quantity", "value"), [(k, f"{v:.6g}" if isinstance(v, float) else v)
                                           for k, v in mechanism.items()])
            + [""] if mechanism else []),
          f"* Sampling: {statement['sampling']}.",
          *(f"* Dealt: {note}." for note in statement["dealt"]),
          f"* Secrets: {statement['noise_keys_in_words']}.", ""]


def _appendix(statement: Mapping[str, Any]) -> list[str]:
  lines = [
      "# Appendix: accounting", "",
      f"{statement['accountants']}. Both are upper bounds and the smaller one holds. PLD is "
      "computed on a grid that is rounded up. A noise multiplier is noise over the sensitivity "
      "under the stated adjacency. The attacker's bound is read off the same privacy loss "
      "distribution.", ""]
  for unit in statement["units"]:
    for channel in unit["channels"]:
      lines.append(f"* {channel['channel']}, per {unit['unit']}, {channel['events']} events, each "
                   f"{'; '.join(channel['event'])}")
  return [*lines, ""]


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
  line = lambda cells: "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"
  return [line(header), "|" + "---|" * len(header), *map(line, rows)]


def _listed(values: Sequence[float | None]) -> str:
  return ", ".join("-" if value is None else f"{value:.6g}" for value in values)


def _rounded_up(value: float) -> str:
  """Three decimals, never below the bound itself."""
  return f"{math.ceil(value * 1000) / 1000:.3f}"


def _percent(share: float) -> str:
  """One decimal of a percentage, never below the bound itself."""
  return f"{min(math.ceil(share * 1000) / 10, 100):.1f} %"


def _factor(value: float | str | None) -> str:
  """Two decimals, never below the number itself."""
  if not isinstance(value, float):
    return "any number of"
  return f"{math.ceil(value * 100) / 100:.2f}" if value < 1e6 else f"{value * 1.01:.1e}"


def _number(count: int) -> str:
  return _COUNT.get(count, str(count))


def _dashed(unit: Mapping[str, Any]) -> str:
  return unit["adjacency"].replace("_", "-")


def _a(unit: str) -> str:
  return f"an {unit}" if unit[0] in "aeiou" else f"a {unit}"


def _cell(value: float | str | None) -> str:
  if value is None:
    return "not available"
  return value if isinstance(value, str) else _rounded_up(value)


def _bullets(sentences: Sequence[str], none: str) -> list[str]:
  return [f"* {sentence}" for sentence in sentences] or [none]
