"""`attack`: plays an attack, and writes what it recovered as tables and figures."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, get_type_hints

from fedjax_face import options
from fedjax_face.attacks.activation_runs import Suite
from fedjax_face.attacks.attacked import Attacked
from fedjax_face.attacks.leak_back_study import Study

ATTACKS: Mapping[str, Any] = {"activations": Suite, "leak_back": Study}
"""Name -> what is played: its fields are the options, `play(workdir)` plays it."""


def attack(asked: Mapping[str, Any], workdir: str | os.PathLike) -> Attacked:
  """Plays an attack; writes attack.json, attack.png and, where faces are rebuilt, grids of them.

  What the folder holds already is not trained again.

  Args:
    asked: `attack`, "activations" (options: `activation_runs.Suite`) or "leak_back"
      (`leak_back_study.Study`), and its options; dicts or a ConfigDict.
    workdir: made if absent.

  Raises:
    ValueError: an option that the attack does not take or refuses, in one line, before anything is
      trained.
    FileNotFoundError: data that are not there.
  """
  name = asked["attack"] if "attack" in asked else None
  if not isinstance(name, str) or name not in ATTACKS:
    raise ValueError(f"attack={name!r} is not one of {', '.join(ATTACKS)}")
  chosen = ATTACKS[name]
  given = options.arguments(
      options_of(name), {option: asked[option] for option in asked if option != "attack"})
  for option in chosen._fields:
    if option not in given and option not in chosen._field_defaults:
      raise ValueError(f"{option}: {name} needs it")
  return chosen(**given).play(pathlib.Path(workdir).absolute())


def options_of(name: str) -> dict[str, Any]:
  """Option -> what it accepts, of an attack; the root of `options.override`."""
  return get_type_hints(ATTACKS[name], include_extras=True)
