"""Where the photographs of a source lie, and whether two sources are of the same ones."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from fedjax_face.data.sources import data_root

_IN_DATA_ROOT: Mapping[str, tuple[str, str]] = {
    "aflw2000": ("root", "aflw2000_3d"), "lfw_originals": ("root", "lfw"),
    "utkface": ("path", "utkface/UTKFace-1000.zip"), "aflw": ("root", "aflw")}
"""Sources in files: the option that says where, and the default within the data root."""

_OF_TFDS = ("celeb_a", "the300w_lp")
_RELATED = (frozenset({"aflw", "aflw2000"}),)
"""Sets that hold the same photographs under other names."""


def place(source: Mapping[str, Any]) -> pathlib.Path | None:
  """The resolved folder or archive of a source in files, None for others.

  Args:
    source: a source of a config's data section: `name` and options.
  """
  name = str(source.get("name"))
  if name in _IN_DATA_ROOT:
    option, default = _IN_DATA_ROOT[name]
    return pathlib.Path(source.get(option) or data_root() / default).resolve()
  if name in _OF_TFDS:
    folder = source.get("data_dir") or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(folder).expanduser().resolve() / name
  return None


def check_public(public: Mapping[str, Mapping[str, Any]],
                 private: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
  """Notes about sources that are taken as public beside private ones.

  Args:
    public: sources of `data.public`, any name -> `name` and options; nothing is read.
    private: those of `data`.

  Raises:
    ValueError: a public source is a private one: the same files, the same synthetic world (its
      people are always those from number 0 on), or a set made of the same photographs.
  """
  notes = []
  for key, source in public.items():
    for other, theirs in private.items():
      same = _why_same(source, theirs)
      if same:
        raise ValueError(f"data.public.sources.{key} and data.sources.{other} are both {same}; "
                         "expected public photographs of other people")
      if "synthetic_scenes" not in (source.get("name"), theirs.get("name")):
        notes.append(f"data.public.sources.{key} ({source.get('name')}) and data.sources.{other} "
                     f"({theirs.get('name')}): whether they share a person cannot be checked")
  return tuple(notes)


def _why_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
  """What two sources have in common so that they show the same people, '' if nothing."""
  names = first.get("name"), second.get("name")
  if any(set(names) == related for related in _RELATED):
    return f"AFLW photographs ({names[0]}, {names[1]})"
  if names[0] != names[1]:
    return ""
  if names[0] == "synthetic_scenes" and first.get("seed") == second.get("seed"):
    return f"synthetic_scenes with seed {first.get('seed')}"
  if place(first) is not None and place(first) == place(second):
    return f"{names[0]} in {place(first)}"
  return ""
