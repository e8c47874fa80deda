"""What a config says that a rehearsal chose: checked, and entered in the statement."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs.config import as_dict, did_you_mean, flatten
from fedjax_face.runs.settings import Rehearsed


def chosen_values(rehearsal: Mapping[str, Any]) -> dict[str, Any]:
  """Path -> value, of a section `rehearsal`."""
  found = {}
  for entry in rehearsal["chose"]:
    path, equals, value = entry.partition("=")
    try:
      found[path] = json.loads(value)
    except json.JSONDecodeError:
      raise ValueError(f"rehearsal.chose: {entry!r} is not KEY=NUMBER; it is for --overrides to "
                       "write") from None
  return found


def check(record: Mapping[str, Any]) -> None:
  """Refuses a config that says of other values than its own that a rehearsal chose them."""
  if record["rehearsal"] is None:
    return
  flat = flatten(as_dict(record))
  for name, value in chosen_values(record["rehearsal"]).items():
    if name not in flat:
      raise ValueError(f"rehearsal.chose: the config says no {name}{did_you_mean(name, flat)}")
    if flat[name] != value:
      raise ValueError(f"{name}={flat[name]!r}, but rehearsal.chose says {value!r}: rehearse "
                       "again, or choose values yourself with --config.rehearsal=None")


def enter(ledger: Ledger, said: Rehearsed, sources: Any) -> None:
  """The rehearsal's set is declared public, and what was chosen on it costs nothing.

  Raises:
    ValueError: it has the name of a set that is not public here, or of the run's public set, but
      not its size.
  """
  public, of = sources.public, said.public
  declared = public is not None and of == public.name
  for role, other in (("trains", sources.train), ("evaluates", sources.evaluation),
                      ("validates", getattr(sources, "validation", None))):
    if not declared and other is not None and of == other.name:
      raise ValueError(f"rehearsal was on {of}, which {role} in this run and so is not public: "
                       "rehearse on the public set, or leave out what is said of it "
                       "(--config.rehearsal=None)")
  if declared and said.people != public.num_persons:
    raise ValueError(f"rehearsal was on {said.people} people of {of}, but the public set holds "
                     f"{public.num_persons} of them: rehearse again, or leave out what is said of "
                     "it (--config.rehearsal=None)")
  names = [entry.partition("=")[0].removeprefix("method.").replace(".", " ").replace("_", " ")
           for entry in said.chose]
  listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
  ledger.declare_public(of)
  ledger.declare_not_covered(
      f"Of the hyperparameters, {listed} were chosen by rehearsal on {said.people} public people "
      f"of {of} only, {said.judges} of whom judged, which costs nothing. The candidates were "
      "values of the config and multiples of them: how the config came by these is not covered.")
