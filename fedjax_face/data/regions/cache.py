"""Regions on disk, filed under a digest of everything that decides what they are."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedjax_face.data.regions.cutting import Regions

_FORMAT = 3


def cached_regions(folder: str | pathlib.Path, key: Mapping[str, Any],
                   make: Callable[[], Regions]) -> Regions:
  """Reads regions from `folder`, or makes and writes them.

  Args:
    folder: is created where absent.
    key: JSON values that decide the regions: source, seed, proposer, options. Another key is
      another file; `dataclasses.asdict` of `RegionOptions` fits in it.
    make: makes the regions of that key.

  Raises:
    ValueError: the key is not JSON, or the file is damaged.
  """
  text = _canonical(key)
  path = pathlib.Path(folder) / f"regions-{_digest(text)}.npz"
  if path.exists():
    return _read(path)
  regions = make()
  _write(path, text, regions)
  return regions


def digest(key: Mapping[str, Any]) -> str:
  """16 hexadecimal digits that do not depend on the order of the key's fields.

  Raises:
    ValueError: the key is not JSON.
  """
  return _digest(_canonical(key))


def _canonical(key: Mapping[str, Any]) -> str:
  try:
    return json.dumps({"format": _FORMAT, "key": dict(key)}, sort_keys=True, allow_nan=False)
  except (TypeError, ValueError) as error:
    raise ValueError(f"key of a region cache must be JSON ({error})") from None


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: pathlib.Path) -> Regions:
  try:
    with np.load(path, allow_pickle=False) as stored:
      return Regions(*(stored[field] for field in Regions._fields))
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise ValueError(f"{path}: damaged region file ({error}); delete it to make it again") from None


def _write(path: pathlib.Path, key: str, regions: Regions) -> None:
  """Writes beside the file and renames, so that a killed run leaves no half a file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f"{path.name}.{os.getpid()}")
  with unfinished.open("wb") as stream:
    np.savez(stream, **regions._asdict(), key=np.array(key))
  unfinished.replace(path)
