"""The folder of one program of a run over the wire: what it is of, and its privacy statement."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.edge.halves import EdgeParts
from fedjax_face.privacy import statement
from fedjax_face.runs import config as configs
from fedjax_face.runs import disk, edge, lock, streams
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.records import write_json


class Prepared(NamedTuple):
  """What a program starts from.

  Attributes:
    workdir: made, with the arguments of `fit` in it.
    parts: of the run.
    digest: of these arguments, the rounds too.
  """

  workdir: pathlib.Path
  parts: EdgeParts
  digest: str


@contextlib.contextmanager
def prepared(config: Mapping[str, Any], workdir: str | os.PathLike,
             device: int | None = None) -> Iterator[Prepared]:
  """Checks what is asked, builds it, and holds the folder while the program writes there.

  All of it runs under the generator of `streams.pinned`.

  Args:
    config: arguments of `fit`.
    workdir: of the program; made once nothing is refused.
    device: whose parts are built; None: the server's.

  Raises:
    ValueError: arguments that are refused, or a workdir of another run or in use.
    FileNotFoundError: data that are not there.
  """
  asked, place = Asked.of_config(config), pathlib.Path(workdir).absolute()
  configs.check_same_run(asked.record, place)
  with streams.pinned():
    parts = edge.build(asked, device)
  with lock.held(place), streams.pinned():
    configs.check_same_run(asked.record, place)  # another process may have begun one meanwhile
    configs.record(asked.record, place)
    # In a section of its own the number of rounds is part of the digest: noise depends on it.
    said = {name: value for name, value in asked.record.items()
            if name not in ("evaluation", "compute")}
    yield Prepared(place, parts, configs.digest({"config": said}))


class Statement:
  """privacy.json and PRIVACY.md of a program, with a sentence on who says so; true at any moment.

  Args:
    workdir: of the program.
    parts: of the run.
    author: the sentence.
    files: of `statement_files`, what the program leaves.
  """

  def __init__(self, workdir: pathlib.Path, parts: EdgeParts, author: str,
               files: Sequence[Any]) -> None:
    self._workdir, self._parts, self._author, self._files = workdir, parts, author, files
    self._passes: int | None = None

  def exists(self) -> bool:
    """Whether the program wrote one in this folder before."""
    return (self._workdir / "PRIVACY.md").exists()

  def cover(self, steps_begun: int) -> None:
    """Writes it anew where so many steps release more than it says: before the next one is sent.

    Args:
      steps_begun: of which anything was sent, or may have been.

    Raises:
      OSError: one line naming the file.
    """
    passes = self._parts.passes_begun(steps_begun)
    if passes == self._passes:
      return
    parts = self._parts
    said = statement.privacy_json(
        parts.ledger(steps_begun), delta=parts.delta, population=parts.population,
        sampling=parts.sampling, noise_keys="devices" if parts.noise_seed is None else "pinned",
        files=self._files)
    write_json(self._workdir / "privacy.json", said | {"author": self._author})
    disk.write(self._workdir / "PRIVACY.md",
               f"{statement.privacy_markdown(said)}\n{self._author}\n")
    self._passes = passes
