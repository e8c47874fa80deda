"""Configs, which are the arguments of `fedjax_face.fit` written down: read and overridden."""

from __future__ import annotations

import inspect
import pathlib
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import command_line

PREFIX = "--config."
_DATA = ("--data=", "--data.")  # for --config.data= and --config.data.


def define(values: flags.FlagValues) -> None:
  """Adds `--config`; its overrides are for `said`."""
  flags.DEFINE_string("config", None, "FILE[:variant]; --config.x.y=value replaces or adds one "
                      "value, --config.method.head=arcface a part; --data=NAME and "
                      "--data.KEY=VALUE are short for --config.data", flag_values=values)
  flags.DEFINE_string("options", None, "prints what can be said of a section of the config, with "
                      "its values, and does nothing else: --options=method.head; all of it: "
                      "--options=all", flag_values=values)


def parse(values: flags.FlagValues, arguments: Sequence[str], doc: str | None,
          needed: Sequence[str] = ("config", "workdir")) -> None:
  """`command_line.parse` without the overrides.

  Raises:
    ValueError: as there, or a flag of `needed` is missing.
  """
  command_line.parse(values, _parted(arguments)[1], doc)
  if "options" in values and values.options is not None:
    from fedjax_face.runs.asked import described
    raise command_line.HelpAsked(described(said(arguments), values.options))
  for name in needed:
    if values[name].value is None:
      raise ValueError(f"--{name} is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)


def module_of(path: str) -> tuple[dict[str, Any], list[str]]:
  """What a config file defines, and its variant, the named or the default one, as a list.

  Args:
    path: FILE[:variant].

  Raises:
    FileNotFoundError: no such file.
    ValueError: the file cannot be run.
  """
  name, _, variant = path.partition(":")
  if not pathlib.Path(name).is_file():
    raise FileNotFoundError(f"--config={name}: no such file; expected configs/NAME.py[:variant]")
  try:
    module = runpy.run_path(name)
  except Exception as error:  # a config file runs code of its own
    raise ValueError(f"--config={name}: {type(error).__name__}: {error}") from error
  return module, [variant] if variant else _default_variant(module.get("get_config"))


def _default_variant(get_config: Any) -> list[str]:
  if not callable(get_config):
    return []
  return [parameter.default for parameter in inspect.signature(get_config).parameters.values()
          if parameter.default is not parameter.empty][:1]


def config_of(arguments: Sequence[str]) -> Any:
  """The config that `--config=FILE[:variant]` names, as the file says it.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no `--config`, or the file or variant is refused.
  """
  arguments = _parted(arguments)[1]
  given = [a.partition("=")[2] or "".join(arguments[i + 1:i + 2])
           for i, a in enumerate(arguments) if a.partition("=")[0] in ("--config", "-config")]
  if not given:
    raise ValueError("--config is required")
  module, variant = module_of(given[-1])
  if "get_config" not in module:
    raise ValueError(f"--config={given[-1]}: the file has no get_config")
  try:
    return module["get_config"](*variant)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(f"--config={given[-1]}: {type(error).__name__}: {error}") from error


def overrides(arguments: Sequence[str]) -> list[str]:
  """The overrides `--config.KEY=VALUE` among the arguments, with what is short for them.

  `--config.KEY VALUE` is one too.
  """
  return [f"{PREFIX}{a[2:]}" if a.startswith(_DATA) else a for a in _parted(arguments)[0]]


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """Overrides, each with its value, and the other arguments."""
  found: list[str] = []
  others: list[str] = []
  waits = False  # whether the last override has no value yet
  for argument in arguments:
    override = argument.startswith((PREFIX, *_DATA))
    if override:
      found.append(argument)
    elif waits and not argument.startswith("--"):
      found[-1] += f"={argument}"
    else:
      others.append(argument)
    waits = override and "=" not in argument
  return found, others


def said(arguments: Sequence[str]) -> dict[str, Any]:
  """The config of a command line with its overrides; says what they dropped.

  Raises:
    FileNotFoundError, ValueError: as `config_of`, or an override that no signature takes.
  """
  from fedjax_face.runs.asked import overridden
  config = config_of(arguments)
  if "method" not in config:
    raise ValueError("the config says no method: it is for another program")
  changed = overridden(config, overrides(arguments))
  if changed.dropped:
    print(f"dropped, as another part took its place: {', '.join(changed.dropped)}",
          file=sys.stderr)
  return changed.config
