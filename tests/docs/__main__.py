"""Runs the commands of the pages, shortened by `shortened.py`, in a folder that is thrown away.

python -m tests.docs [PAGE ...]

Commands of one block run in their order, and those of several processes side by side. Prints a line
for each command; the exit status is 1 if one failed.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import conftest  # noqa: F401  (settings of jax, which the commands inherit)
from tests.docs import pages, shortened

_SECONDS = 1800


def main(chosen):
  """Runs the commands of some pages, or of all."""
  outcomes = []
  done = set()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    (folder / "configs").mkdir()
    for path in (pages.ROOT / "configs").glob("*.py"):
      (folder / "configs" / path.name).symlink_to(path)
    for page in pages.PAGES:
      if chosen and str(page) not in chosen:
        continue
      if str(page) in shortened.NEED_THEIR_CODE:
        code = "\n".join(pages.blocks(page, "python"))
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True,
                       env=_environment(folder))
      for block in _blocks(page):
        fresh = [command for command in block if command.words not in done]
        done |= {command.words for command in fresh}
        outcomes += _run(folder, fresh)
  failed = outcomes.count("failed")
  print(f"{len(outcomes)} commands: {outcomes.count('ran')} ran, {failed} failed, "
        f"{outcomes.count('skipped')} skipped")
  return int(failed > 0)


def _blocks(page):
  """Commands of a page, those of one block together."""
  blocks = {}
  for number, command in enumerate(pages.commands(page)):
    blocks.setdefault(command.block if command.block >= 0 else f"sentence {number}", []).append(
        command)
  return blocks.values()


def _run(folder, commands):
  """Runs the commands of a block; those that wait for each other side by side."""
  waiting, outcomes = [], []
  for command in commands:
    if why := shortened.skipped(command.words):
      outcomes.append(_told("skipped", command, why))
    elif _waits(command.words):
      waiting.append((command, _started(folder, command), time.monotonic()))
    else:
      outcomes.append(_ended(command, _started(folder, command), time.monotonic()))
  return outcomes + [_ended(*one) for one in waiting]


def _waits(words):
  return words[2] in ("experiments.edge_server", "experiments.device") or any(
      word.startswith("--processes=") for word in words)


def _started(folder, command):
  words = shortened.shortened(command.words)
  if command.words[2] == "experiments.compare":
    key = shortened.key_of(command.words)
    (folder / "compared").mkdir(exist_ok=True)
    path = folder / "compared" / f"{key.replace(':', '_')}.py"
    path.write_text(shortened.compared(key))
    words = [f"--config={path}:{key.partition(':')[2]}" if word.startswith("--config=") else word
             for word in words]
  return subprocess.Popen(
      [sys.executable, *words[1:]], cwd=folder, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, env=_environment(folder))


def _environment(folder):
  return os.environ | {"PYTHONPATH": str(pages.ROOT),
                       "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}


def _ended(command, process, start):
  try:
    said, _ = process.communicate(timeout=_SECONDS)
  except subprocess.TimeoutExpired:
    process.kill()
    said = f"{process.communicate()[0]}\nstopped after {_SECONDS} s"
  if process.returncode:
    return _told("failed", command, f"exit status {process.returncode}\n{said[-2000:]}")
  return _told("ran", command, f"{time.monotonic() - start:.0f} s")


def _told(outcome, command, words):
  print(f"{outcome:8} {command.page}: {command} ({words})", flush=True)
  return outcome


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
