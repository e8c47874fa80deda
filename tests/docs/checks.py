"""Whether a command could run: its program, flags, config and overrides; nothing trains."""

import argparse
import contextlib
import importlib
import re
from unittest import mock

from experiments import calls, command_line
from tests.docs.pages import ROOT

# What each program calls once it has read its command line and the config.
ENTRIES = {
    "attack": "fedjax_face.attacks.attack.attack",
    "audit": "fedjax_face.attacks.method_audit.audit",
    "compare": "fedjax_face.runs.compare.compare",
    "detect": "fedjax_face.runs.detect.detect",
    "device": "fedjax_face.runs.edge_device.edge_device",
    "edge_server": "fedjax_face.runs.edge_server.edge_server",
    "evaluate": "fedjax_face.runs.evaluate.evaluate",
    "inspect": "fedjax_face.runs.inspection.inspect",
    "plan": "experiments.plan.plan",
    "rehearse": "fedjax_face.runs.rehearsal.rehearse",
    "train": "fedjax_face.runs.fit.carried_out",
}
_ARE_CALLS_OF_FIT = ("audit", "device", "edge_server", "inspect", "rehearse", "train")


class Reached(Exception):
  """A program would begin its work now."""


class Refused(Exception):
  """A command that could not run, and why."""


def check(command):
  """Raises Refused where a command of a page could not run."""
  head, *rest = command.words
  if head == "make":
    _expect(re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE),
            f"the Makefile has no target {rest[0]}")
  elif head == "pip":
    _check_pip(rest)
  elif head == "python" and rest[0] == "-m":
    _check_module(rest[1], rest[2:])
  else:
    _expect(head == "pre-commit", f"nobody knows how to check {head}")


def _expect(holds, why):
  if not holds:
    raise Refused(why)


def _check_pip(words):
  extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
  _expect(words[:-1] == ["install", "-e"] and extra, "expected pip install -e .[EXTRA]")
  _expect(f'"{extra[1]}": [' in (ROOT / "setup.py").read_text(), f"setup.py has no {extra[1]}")


def _check_module(module, arguments):
  room, _, name = module.partition(".")
  if room == "experiments":
    _check_program(name, arguments)
  elif room == "benchmarks":
    _check_benchmark(module, arguments)
  elif room == "pytest":
    for word in arguments:
      _expect(not word.startswith("tests") or (ROOT / word).exists(), f"there is no {word}")
  else:
    _expect((ROOT / room / name / "__main__.py").exists(), f"there is no program {module}")


def _check_benchmark(module, arguments):
  parse = argparse.ArgumentParser.parse_args

  def parsed(parser, args=None, namespace=None):
    parse(parser, arguments, namespace)
    raise Reached

  with mock.patch.object(argparse.ArgumentParser, "parse_args", parsed):
    try:
      importlib.import_module(module).main()
    except Reached:
      return
    except SystemExit as error:
      raise Refused(f"{module} refuses {arguments}") from error
  raise Refused(f"{module} reads no command line")


def _check_program(name, arguments):
  _expect(name in ENTRIES, f"there is no program experiments.{name}")
  program, given = importlib.import_module(f"experiments.{name}"), ["", *arguments]
  with contextlib.ExitStack() as stack:
    reached = stack.enter_context(mock.patch(ENTRIES[name], side_effect=Reached))
    for function in ("use_devices", "use_compilation_cache"):
      stack.enter_context(mock.patch.object(command_line, function))
    stack.enter_context(mock.patch("fedjax_face.runs.mesh.connect"))
    stack.enter_context(mock.patch(  # a file that a command before it writes
        "fedjax_face.runs.rehearsal.applied", side_effect=lambda config, *_: config))
    try:
      status = program.main(arguments)
    except Reached:
      pass
    else:
      asked = any(word.startswith(("--options", "--help")) for word in arguments)
      _expect(asked and status == 0, f"experiments.{name} ends with {status}")
  if name in _ARE_CALLS_OF_FIT:
    _check_config(calls.said(given))
  if name == "evaluate" and reached.called:
    _check_evaluation(*reached.call_args.args, **reached.call_args.kwargs)


def _check_config(config):
  from fedjax_face.runs.asked import Asked, check_noise
  asked = Asked.of_config(config)
  check_noise(asked.method, asked.privacy)


def _check_evaluation(workdir, asked, *, data, **_):
  from fedjax_face import options
  from fedjax_face.data.judging_sets import JudgingSet
  from fedjax_face.data.sets import PublicSet
  from fedjax_face.evaluation.protocols import PROTOCOLS
  del workdir
  unknown = set(asked.get("protocols", ())) - set(PROTOCOLS)
  _expect(not unknown, f"unknown protocols {unknown}")
  if data:
    flags = [f"--config.data.{key}={value}" for key, value in data.items() if key != "name"]
    judging = data["name"] in options.kind_of(JudgingSet).names()
    kind = JudgingSet if judging else PublicSet
    options.override({"data": {"name": data["name"]}}, {"data": kind}, flags)
