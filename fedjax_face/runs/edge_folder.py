"""The folder of one program of a run over the wire: what it is of, and its privacy statement."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_face.edge.halves import EdgeParts
from fedjax_face.privacy import statement
from fedjax_face.runs import config as configs
from fedjax_face.runs import edge
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.records import make_guarded, write_atomically, write_json


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


def prepare(config: Mapping[str, Any], workdir: str | os.PathLike,
            device: int | None = None) -> Prepared:
  """Checks what is asked, and builds it.

  Args:
    config: arguments of `fit`.
    workdir: of the program; made once nothing is refused.
    device: whose parts are built; None: the server's.

  Raises:
    ValueError: arguments that are refused, or a workdir of another run.
    FileNotFoundError: data that are not there.
  """
  asked, place = Asked.of_config(config), pathlib.Path(workdir).absolute()
  configs.check_same_run(asked.record, place)
  parts = edge.build(asked, device)
  make_guarded(place)
  configs.record(asked.record, place)
  # In a section of its own the number of rounds is part of the digest: noise depends on it.
  said = {name: value for name, value in asked.record.items()
          if name not in ("evaluation", "compute")}
  return Prepared(place, parts, configs.digest({"config": said}))


def write_privacy(workdir: pathlib.Path, parts: EdgeParts, steps_begun: int, author: str,
                  files: Sequence[Any]) -> None:
  """Writes privacy.json and PRIVACY.md for so many steps, with a sentence on who says so.

  Args:
    workdir: of the program.
    parts: of the run.
    steps_begun: of which anything was sent, or may have been.
    author: the sentence.
    files: of `statement_files`, what the program leaves.

  Raises:
    OSError: one line naming the file.
  """
  said = statement.privacy_json(
      parts.ledger(steps_begun), delta=parts.delta, population=parts.population,
      sampling=parts.sampling, noise_keys="devices" if parts.noise_seed is None else "pinned",
      files=files)
  write_json(workdir / "privacy.json", said | {"author": author})
  write_atomically(workdir / "PRIVACY.md", f"{statement.privacy_markdown(said)}\n{author}\n")
