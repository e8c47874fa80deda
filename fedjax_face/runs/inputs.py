"""Who trains, who evaluates and who is public in a run, kept with it: facts, and digests of pixels.

    inputs.json    of each set its name, counts and a digest; the digest of the file beside it
    facts.npz      of each set the facts (`data.facts`) and a keyed digest of each image

With them a run is known again, and is loaded where its images are not there. They name people:
both files are for their owner alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data.facts import facts, packed, unpacked
from fedjax_face.runs import checkpoint, disk, input_differences, training_set

INPUTS, FACTS = "inputs.json", "facts.npz"
SETS = ("train", "evaluation", "public", "validation")


class Known(NamedTuple):
  """Facts of the sets of a run; None where there is no such set."""

  train: Any
  evaluation: Any
  public: Any
  validation: Any = None


def record(sources: Any, workdir: pathlib.Path) -> None:
  """Keeps what is known of the sets of a run that begins; what is kept already stays.

  Raises:
    OSError: a file that cannot be written.
  """
  if (workdir / INPUTS).exists():
    return
  key = training_set.key(workdir)
  arrays: dict[str, Any] = {}
  said: dict[str, Any] = {}
  for name in SETS:
    said[name], own = _kept(_set(sources, name), key)
    arrays |= {f"{name}/{field}": array for field, array in own.items()}
  content = io.BytesIO()
  np.savez_compressed(content, **arrays)
  disk.write(workdir / FACTS, content.getvalue(), disk.OWNER_ONLY)
  said["facts"] = {"file": FACTS, "digest": _digest(content.getvalue())}
  disk.write(workdir / INPUTS, json.dumps(said, indent=2) + "\n", disk.OWNER_ONLY)


def recorded(workdir: pathlib.Path) -> Known:
  """Facts of the sets of the run in a folder.

  Raises:
    FileNotFoundError: nothing is kept there.
    ValueError: files that are damaged or not of one run.
  """
  said, arrays = _read(workdir)
  return Known(*(None if said.get(name) is None else unpacked(_of(arrays, name), said[name])
                 for name in SETS))


def require_recorded(workdir: pathlib.Path) -> None:
  """Raises FileNotFoundError where a folder does not say what its run is trained on."""
  if (workdir / INPUTS).is_file():
    return
  raise FileNotFoundError(
      f"{workdir / INPUTS} is gone, which says what the run is trained on: put it back"
      if checkpoint.exist(workdir / "checkpoints") else
      f"{workdir}: no checkpoint yet, and no {INPUTS}, which says what the run is trained on")


def require_same(sources: Any, workdir: pathlib.Path, sets: tuple[str, ...] = SETS) -> None:
  """Refuses other data than those of the run in a folder, naming what differs first.

  A folder whose run has not begun is anybody's. The same noise on other data would be a second
  release, and who evaluates must not train.

  Args:
    sources: the sets.
    workdir: of the run.
    sets: that are compared.

  Raises:
    ValueError: people, labels or pixels of a set are not those of the run, or the files are
      damaged.
  """
  if not (workdir / INPUTS).exists():
    return
  said, arrays = _read(workdir)
  key = training_set.key(workdir, must_exist=True)
  for name in sets:
    now = _set(sources, name)
    difference = _difference(name, said.get(name), _of(arrays, name), now, key)
    if difference is not None:
      raise ValueError(f"{workdir} is of a run on other data: {difference}; give the data of the "
                       "run, or choose another folder")


def _difference(name: str, said: Mapping[str, Any] | None, arrays: Mapping[str, np.ndarray],
                of: Any, key: bytes) -> str | None:
  """What differs first between a recorded set and one that is given; None: nothing."""
  now, now_arrays = _kept(of, key)
  if said is None or now is None:
    there, here = ("no", "one") if said is None else ("a", "none")
    return None if now is said else f"there is {there} {name} set there and {here} here"
  if now | {"name": said["name"]} == said:  # named after its folder, which may have moved
    return None
  return (input_differences.first(name, said, arrays, now, now_arrays)
          or f"what is known of the {name} set differs")


def _set(sources: Any, name: str) -> Any:
  """A set of rows, or None: what trains or evaluates may be made by a test, without rows."""
  of = getattr(sources, name, None)
  return of if hasattr(of, "label") or hasattr(of, "regions") else None


def _kept(of: Any, key: bytes) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
  """What JSON says of a set, and the arrays beside it: facts, and digests of images."""
  if of is None:
    return None, {}
  arrays, said = packed(facts(of))
  rows, digests = training_set.image_digests(of, key)
  if training_set.is_encoded(of.images):
    said["digests_of"] = training_set.ENCODED
  arrays |= {"seen": rows, "digests": digests}
  person = arrays["person"]
  whole = hashlib.blake2b(digest_size=16, key=key)
  for name, array in sorted(arrays.items()):
    whole.update(f"{name}{array.dtype}{array.shape}".encode())
    whole.update(np.ascontiguousarray(array).tobytes())
  return said | {"people": len(np.unique(person[person >= 0])), "digest": whole.hexdigest()}, arrays


def _of(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
  return {field.removeprefix(f"{name}/"): array for field, array in arrays.items()
          if field.startswith(f"{name}/")}


def _digest(content: bytes) -> str:
  return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read(workdir: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """inputs.json, and facts.npz where it is the file that inputs.json means."""
  path, beside = workdir / INPUTS, workdir / FACTS
  try:
    said = json.loads(path.read_text())
    wanted = said["facts"]["digest"]
    [said[name] for name in SETS if name != "validation"]  # which a version before has not
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{path} is damaged, or not of this version ({error}): put it back, or choose "
                     "another folder") from None
  if not beside.is_file():
    raise FileNotFoundError(f"{beside}: gone; it says who trains in this run: put it back, or "
                            "choose another folder")
  content = beside.read_bytes()
  if _digest(content) != wanted:
    raise ValueError(f"{beside} is not the file whose digest {INPUTS} holds: put it back, or "
                     "choose another folder")
  with np.load(io.BytesIO(content)) as held:
    return said, dict(held)
