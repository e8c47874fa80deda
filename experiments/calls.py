"""Configs that are the arguments of `fedjax_face.fit`, written down: read, overridden, run."""

from __future__ import annotations

import importlib.util
import inspect
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from experiments import command_line


def config_of(arguments: Sequence[str]) -> Any | None:
  """The config that `--config=FILE[:variant]` names, where it is the arguments of `fit`.

  Raises:
    FileNotFoundError: no such file.
  """
  said = [a.partition("=")[2] or "".join(arguments[i + 1:i + 2])
          for i, a in enumerate(arguments) if a.partition("=")[0] in ("--config", "-config")]
  path, _, variant = said[-1].partition(":") if said else ("", "", "")
  if not pathlib.Path(path).is_file():
    return None  # the flag itself says so
  spec = importlib.util.spec_from_file_location("config_of_a_call", path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  takes = inspect.signature(module.get_config).parameters
  config = module.get_config(variant) if variant and takes else module.get_config()
  return config if "method" in config else None


def train(config: Any, arguments: Sequence[str], doc: str | None) -> None:
  """`fit(**from_config(config))` with the overrides and flags of a command line.

  Args:
    config: of `config_of`.
    arguments: of the process, its name first.
    doc: of the program.

  Raises:
    ValueError: an override or a section that no signature takes, in one line.
  """
  values = flags.FlagValues()
  flags.DEFINE_string("config", None, "FILE[:variant]; --config.x.y=value replaces or adds one "
                      "value, --config.method.head=arcface a part", flag_values=values)
  command_line.define_shared(values)
  command_line.define_budget(values)
  own = [a for a in arguments if a.startswith("--config.")]
  command_line.parse(values, [a for a in arguments if a not in own], doc)
  if values.workdir is None:
    raise ValueError("--workdir is required")
  command_line.use_devices(values.cpu_devices)
  command_line.use_compilation_cache(values.compilation_cache)
  from fedjax_face import options
  from fedjax_face.runs import figures, fit
  from fedjax_face.training import summary
  from fedjax_face.training.records import read_json
  changed = options.override(config, fit.ARGUMENTS, own)
  for line in changed.dropped:
    print(f"dropped, as another part took its place: {line}")
  asked = fit.from_config(changed.config)
  fit.fit(**asked, workdir=values.workdir, account=command_line.privacy_budget(values))
  workdir = pathlib.Path(values.workdir)
  headline = options.made(asked["evaluation"]).headline if "evaluation" in asked else ()
  figures.save(workdir, headline)
  summary.print_results(workdir, read_json(workdir / "summary.json"),
                        read_json(workdir / "privacy.json"), headline)
