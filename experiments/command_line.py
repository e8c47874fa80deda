"""What the programs share: flags to config, one-line errors, compilation cache, ROC figures."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pathlib
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TextIO

from absl import flags

_ENDED_BY_A_SIGNAL = (128 + 1, 128 + 15)  # SIGHUP, SIGTERM
MISTAKES = (ValueError, OSError, ImportError, flags.Error)


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
    ValueError: in one line, naming the flag and the nearest one that exists.
  """
  if rest := parse_with_names(values, arguments, doc):
    raise ValueError(f"argument {rest[0]!r} is not a flag: flags start with --")


def parse_with_names(values: flags.FlagValues, arguments: Sequence[str],
                     doc: str | None) -> list[str]:
  """The same, where arguments that are no flags name files; returns them.

  Raises:
    HelpAsked, ValueError: as `parse`; an empty text, which would stand for the current folder.
  """
  answer_help(values, arguments, doc)
  try:
    rest = values(list(arguments))[1:]
  except flags.Error as error:
    raise ValueError(_innermost(str(error))) from error
  for name in values:
    if values[name].present and values[name].value == "":
      raise ValueError(f"--{name}=: expected a text; leave the flag out for its default")
  return rest


def answer_help(values: flags.FlagValues, arguments: Sequence[str], doc: str | None) -> None:
  """Raises HelpAsked where --help or -h is among the arguments."""
  if {"--help", "-h"} & set(arguments):
    raise HelpAsked(_help(values, doc or ""))


def _help(values: flags.FlagValues, doc: str) -> str:
  lines, grouped = [doc.strip()], {name for names in _GROUPS.values() for name in names}
  own = {"This program": tuple(name for name in values if name not in grouped)}
  for title, names in {**own, **_GROUPS}.items():
    held = [name for name in names if name in values]
    lines += ["", f"{title}:"] if held else []
    for name in held:
      flag = values[name]
      default = "" if flag.default in (None, "", [], False) else f" (default {flag.default})"
      lines += [f"  --{name}", *textwrap.wrap(
          f"{flag.help}{default}", 94, initial_indent="      ", subsequent_indent="      ")]
  return "\n".join(lines)


_GROUPS: Mapping[str, tuple[str, ...]] = {
    "What all runs on the same people release":
        ("privacy_budget", "privacy_budget_limit", "privacy_budget_data"),
    "A run that was interrupted elsewhere, or is damaged":
        ("restart_same_noise", "allow_other_platform"),
    "Several processes": ("coordinator", "processes", "process"),
    "This computer": ("compilation_cache", "cpu_devices", "debug")}
"""Flags that several programs have, by what they are about."""


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


def _innermost(message: str) -> str:
  """The last line of a message that holds a whole traceback."""
  lines = [line for line in message.splitlines() if line.strip()]
  return lines[-1].strip() if "Traceback" in message else " ".join(message.split())


class _Output(io.TextIOBase):
  """The standard output of a program, which does its work also where nobody takes what it says.

  Attributes:
    failure: the first error of writing, after which nothing is written any more; or None.
  """

  _kept: ClassVar[list[_Output]] = []  # print does not hold sys.stdout, which threads replace

  def __init__(self, stream: TextIO | None):
    self._stream = stream
    self.failure: OSError | None = None
    self._kept.append(self)

  def write(self, text: str) -> int:
    self._unless_failed(lambda stream: stream.write(text))
    return len(text)

  def flush(self) -> None:
    self._unless_failed(lambda stream: stream.flush())

  def isatty(self) -> bool:
    return self._stream is not None and self._stream.isatty()

  def fileno(self) -> int:
    if self._stream is None:
      raise io.UnsupportedOperation("fileno")
    return self._stream.fileno()

  @property
  def encoding(self) -> str:  # type: ignore[override]
    return getattr(self._stream, "encoding", None) or "utf-8"

  def _unless_failed(self, change: Callable[[TextIO], Any]) -> None:
    if self._stream is None or self.failure is not None:
      return
    try:
      change(self._stream)
    except OSError as error:
      self.failure = error
      with contextlib.suppress(OSError, ValueError):  # what it holds would fail again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


def one_line_errors(main: Callable[[], None], debug: Callable[[], bool],
                    continues: bool = False) -> int:
  """Runs a program, to its end also where its output is a pipe that nobody reads any more.

  Args:
    main: the program.
    debug: () -> whether tracebacks are asked for.
    continues: the same command goes on from what an interrupted one has left.

  Returns:
    0; 2 with `error: ...` for a mistake in what was asked, or an output that took nothing; 130, 143
    or 129 where ctrl-C, SIGTERM or SIGHUP ended it.
  """
  output = _Output(sys.stdout)
  with contextlib.redirect_stdout(output):
    status = _status(main, debug, continues)
  output.flush()
  if output.failure is None or isinstance(output.failure, BrokenPipeError):
    return status
  _say(f"error: standard output: {output.failure.strerror or output.failure}")
  return status or 2


def _say(line: str) -> None:
  from fedjax_face.runs.progress import show
  show(line)


def _status(main: Callable[[], None], debug: Callable[[], bool], continues: bool) -> int:
  try:
    main()
  except HelpAsked as text:
    print(text)
  except (*MISTAKES, MemoryError, RuntimeError) as error:
    memory = _out_of_memory(error)
    if memory is None and not isinstance(error, MISTAKES):
      raise
    if debug():
      traceback.print_exc()
    _say(f"error: {memory or ' '.join(str(error).split())}")
    return 2
  except (KeyboardInterrupt, SystemExit) as error:
    if isinstance(error, SystemExit) and error.code not in _ENDED_BY_A_SIGNAL:
      raise
    _say("interrupted" + ("; the same command goes on from the last checkpoint, if there is one"
                          if continues else ""))
    return 130 if isinstance(error, KeyboardInterrupt) else int(error.code or 0)
  return 0


def _out_of_memory(error: BaseException) -> str | None:
  """That memory ran out, of an error that says so; None of any other."""
  text = " ".join(str(error).split())
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return (f"too little memory ({text or 'of this computer'}): fewer or smaller images, clients "
            "in a round (method.clients.per_round) or side by side (compute.clients_per_chunk), or "
            "data.on_demand=True where the set has it")
  return None


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
  chosen = folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") or _user_cache()
  if chosen is None:
    print("compiled programs are not kept: there is no home folder; --compilation_cache=FOLDER "
          "keeps them", file=sys.stderr)
    return
  jax.config.update("jax_compilation_cache_dir", str(chosen))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _user_cache() -> pathlib.Path | None:
  """Of a user without a home folder None."""
  try:
    default = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  except RuntimeError:
    return None
  return pathlib.Path(default) / "fedjax_face" / "compiled"
