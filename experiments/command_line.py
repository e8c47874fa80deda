"""What the programs share: flags to config, one-line errors, compilation cache, ROC figures."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

MISTAKES = (ValueError, OSError, ImportError, flags.Error)


def define_config(values: flags.FlagValues, arguments: Sequence[str]) -> None:
  """Adds `--config=configs/NAME.py[:variant]`, with overrides read from `arguments`."""
  arguments, _ = _without_unset(arguments)
  config_flags.DEFINE_config_file(
    "config", None, "configs/NAME.py[:variant]; --config.x.y=value replaces one value",
    lock_config=True, flag_values=values, sys_argv=list(arguments))


def define_shared(values: flags.FlagValues) -> None:
  """Adds `--workdir`, `--compilation_cache`, `--cpu_devices` and `--debug`."""
  flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
  flags.DEFINE_string(
    "compilation_cache", None, "folder of compiled programs, or off; default "
    "$JAX_COMPILATION_CACHE_DIR or the user's cache folder", flag_values=values)
  flags.DEFINE_integer(
    "cpu_devices", None, "devices that JAX makes of the processor, each of which trains clients of "
    "its own; as many as there are cores is fastest where they divide the clients of a round",
    lower_bound=1, flag_values=values)
  flags.DEFINE_boolean("debug", False, "show tracebacks", flag_values=values)


class HelpAsked(Exception):
  """Raised for --help; its text is what to print."""


def parse(values: flags.FlagValues, arguments: Sequence[str], doc: str | None) -> None:
  """Parses the command line.

  Args:
    values: flags of the program.
    arguments: of the process, its name first.
    doc: of the program's module; --help shows it above the flags.

  Raises:
    HelpAsked: --help or -h is among the arguments.
    ValueError: in one line, naming the flag or config key and the nearest one that exists.
  """
  answer_help(values, arguments, doc)
  _require_config_file(arguments)
  arguments, unset = _without_unset(arguments)
  try:
    rest = values(list(arguments))[1:]
    for name in unset:
      values.config.update_from_flattened_dict({name: None})
  except AttributeError as error:  # a --config.x.y that the config lacks
    raise ValueError(_unknown_key(str(error), arguments)) from error
  except flags.Error as error:
    raise ValueError(_innermost(str(error))) from error
  except Exception as error:  # a config file runs code of its own
    raise ValueError(f"--config: {type(error).__name__}: {error}") from error
  if rest:
    raise ValueError(f"argument {rest[0]!r} is not a flag: flags start with --")
  if "overrides" in values and values.overrides and values.config is not None:
    _override(values, values.overrides, arguments)


def answer_help(values: flags.FlagValues, arguments: Sequence[str], doc: str | None) -> None:
  """Raises HelpAsked where --help or -h is among the arguments."""
  if {"--help", "-h"} & set(arguments):
    raise HelpAsked(_help(values, doc or ""))


def _help(values: flags.FlagValues, doc: str) -> str:
  lines = [doc.strip(), "", "Flags:"]
  for name in sorted(values):
    flag = values[name]
    if "." in name:
      continue
    default = "" if flag.default in (None, "") else f" (default {flag.default})"
    lines += [f"  --{name}", *textwrap.wrap(f"{flag.help}{default}", 94, initial_indent="      ",
                                            subsequent_indent="      ")]
  return "\n".join(lines)


def define_overrides(values: flags.FlagValues) -> None:
  """Adds `--overrides`, which `parse` applies."""
  flags.DEFINE_string("overrides", None, "rehearsal.json, whose overrides replace values of the "
                      "config", flag_values=values)


def define_budget(values: flags.FlagValues) -> None:
  """Adds `--privacy_budget` and `--privacy_budget_limit`, which `privacy_budget` reads."""
  flags.DEFINE_string("privacy_budget", None, "JSON file, kept across the runs on one data set: "
                      "the run is entered in it before it releases anything", flag_values=values)
  flags.DEFINE_float("privacy_budget_limit", None, "largest epsilon of all runs of a new "
                     "--privacy_budget together, for each person and each unit of the runs; a run "
                     "beyond it is refused", lower_bound=0.0, flag_values=values)
  flags.DEFINE_string("privacy_budget_data", None, "name of the data set in --privacy_budget, "
                      "where the run's own is another but the people are the same",
                      flag_values=values)


def privacy_budget(values: flags.FlagValues) -> Any:
  """The `budget.Budget` that the flags name, or None.

  Raises:
    ValueError: a limit or a name without a file, or a limit that is not finite.
  """
  from fedjax_face.privacy.budget import Budget
  if values.privacy_budget is None:
    for name in ("privacy_budget_limit", "privacy_budget_data"):
      if values[name].value is not None:
        raise ValueError(f"--{name} needs --privacy_budget FILE")
    return None
  limit = values.privacy_budget_limit
  if limit is not None and not math.isfinite(limit):
    raise ValueError(f"--privacy_budget_limit={limit}: expected a finite number; without the flag "
                     "there is no limit")
  if values.privacy_budget_data == "":
    raise ValueError("--privacy_budget_data=: expected the name of a data set")
  return Budget(pathlib.Path(values.privacy_budget).absolute(), limit,
                values.privacy_budget_data)


def _override(values: flags.FlagValues, path: str, arguments: Sequence[str]) -> None:
  from fedjax_face.training import config
  try:
    overrides = json.loads(pathlib.Path(path).read_text())["overrides"]
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise ValueError(f"--overrides={path}: not what a rehearsal writes ({error!r})") from None
  for argument in arguments:
    name = argument.partition("=")[0].removeprefix("--config.")
    if name in overrides:
      raise ValueError(f"{argument}: --overrides={path} gives {name} as well; leave one out")
  config.override(values.config, overrides)


def _without_unset(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
  """The arguments without `--config.x.y=None`, and the keys `x.y` that they unset.

  A number's own flag takes numbers only.
  """
  unset = [match[1] for a in arguments if (match := re.fullmatch(r"--config\.(.+)=None", a))]
  kept = [a for a in arguments if not re.fullmatch(r"--config\.(.+)=None", a)]
  return kept, unset


def _require_config_file(arguments: Sequence[str]) -> None:
  for i, argument in enumerate(arguments):
    name, equals, value = argument.partition("=")
    if name.lstrip("-") == "config":
      path = (value if equals else "".join(arguments[i + 1:i + 2])).partition(":")[0]
      if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
          f"--config={path}: no such file; expected configs/NAME.py[:variant]")


def _unknown_key(message: str, arguments: Sequence[str]) -> str:
  """"config has no key local.lr (did you mean ...)" from what ml_collections says."""
  names = re.findall(r'"(\w+)" instead of "(\w+)"', message)
  missing = names[0][1] if names else re.sub(r"\W", "", message)
  full = next((a.partition("=")[0] for a in arguments
               if a.startswith("--config.") and missing in a.partition("=")[0].split(".")), missing)
  hint = f"; did you mean {names[0][0]!r}?" if names else ""
  return f"{full}: the config has no key {missing!r}{hint}"


def _innermost(message: str) -> str:
  """The last line of a message that holds a whole traceback."""
  lines = [line for line in message.splitlines() if line.strip()]
  return lines[-1].strip() if "Traceback" in message else " ".join(message.split())


def one_line_errors(main: Callable[[], None], debug: Callable[[], bool]) -> int:
  """Runs a program: 0, 2 with `error: ...` for a mistake in what was asked, or 130 for ctrl-C."""
  try:
    main()
  except HelpAsked as text:
    _print_to_reader(str(text))
  except MISTAKES as error:
    if debug():
      traceback.print_exc()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
    return 130
  return 0


def _print_to_reader(text: str) -> None:
  """Prints; a reader that has seen enough, such as `head`, may leave."""
  try:
    print(text, flush=True)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def use_devices(cpu_devices: int | None) -> None:
  """Makes so many devices of the processor; None leaves the number to JAX, which makes one."""
  import jax
  if cpu_devices is not None:
    jax.config.update("jax_num_cpu_devices", cpu_devices)


def use_compilation_cache(folder: str | None) -> None:
  """Keeps compiled programs between runs, in `folder` or the user's cache folder."""
  import jax
  if folder == "off":
    return
  default = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  chosen = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") or (
    pathlib.Path(default) / "fedjax_face" / "compiled")
  jax.config.update("jax_compilation_cache_dir", str(chosen))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def save_roc(roc: Mapping[str, Any] | None, names: Mapping[str, str], folder: pathlib.Path) -> None:
  """Draws roc.png and det.png; nothing where the protocols gave no curve; see `roc_figures`."""
  from fedjax_face.figures import figures
  from fedjax_face.runs.figures import roc_figures
  for name, figure in roc_figures(roc, names).items():
    figures.save(figure, folder / f"{name}.png")


def curve_names(references: Mapping[str, Mapping[str, Any]], model: str) -> dict[str, str]:
  """Names of curves for `save_roc`: the model's, and the words of the references."""
  return {"model": model} | {name: of["words"] for name, of in references.items()}
