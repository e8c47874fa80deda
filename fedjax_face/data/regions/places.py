"""Where the photographs of a source lie, and whether two sources are of the same ones."""

from __future__ import annotations

import hashlib
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_face.data.photographs import Photographs
from fedjax_face.data.sources import data_root

_IN_DATA_ROOT: Mapping[str, tuple[str, str]] = {
    "aflw2000": ("root", "aflw2000_3d"), "lfw_originals": ("root", "lfw"),
    "lfw_aligned": ("root", "lfw"), "utkface": ("path", "utkface/UTKFace-1000.zip"),
    "aflw": ("root", "aflw")}
"""Sources in files: the option that says where, and the default within the data root."""

_OF_TFDS = ("celeb_a", "the300w_lp")
_RELATED: Mapping[frozenset[str], str] = {
    frozenset({"aflw", "aflw2000"}): "AFLW photographs",
    frozenset({"lfw_aligned", "lfw_originals"}): "LFW photographs"}
"""Sets that hold the same photographs under other names: what they are."""


def place(source: Mapping[str, Any]) -> pathlib.Path | None:
  """The resolved folder or archive of a source in files, None for others.

  Args:
    source: a source of a config's data section: `name` and options.
  """
  name = str(source.get("name"))
  if name == "listing":
    return pathlib.Path(str(source.get("path"))).resolve()
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
      people are always those from number 0 on), or a set made of the same photographs (aligned
      LFW and its originals, unless the former is of `people="others"`).
  """
  notes = []
  for key, source in public.items():
    for other, theirs in private.items():
      same = _why_same(source, theirs)
      if same:
        raise ValueError(f"data.public.{key} and data.sources.{other} are both {same}; "
                         "expected public photographs of other people")
      if not _is_synthetic(source) and not _is_synthetic(theirs):
        how = ("people are told apart by LFW's names and by their photographs alone"
               if _are_other_people(source, theirs)
               else "whether they share a person cannot be checked")
        notes.append(f"data.public.{key} ({source.get('name')}) and data.sources.{other} "
                     f"({theirs.get('name')}): {how}")
  return tuple(notes)


def check_private(private: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
  """Sentences for the privacy statement about private sources that train together.

  Args:
    private: sources of `data`, any name -> `name` and options; nothing is read.

  Raises:
    ValueError: two of them are the same, in the sense of `check_public`.
  """
  for (key, source), (other, theirs) in itertools.combinations(private.items(), 2):
    same = _why_same(source, theirs)
    if same:
      raise ValueError(f"data.sources.{key} and data.sources.{other} are both {same}; expected "
                       "every set once, as what is in two of them would count twice")
  real = [f"data.sources.{key}" for key, source in private.items() if not _is_synthetic(source)]
  if len(real) < 2:
    return ()
  return (f"{', '.join(real)}: epsilon assumes that no person (method.units.unit=person) and no "
          "photograph (method.units.unit=image) is in two of them, which is not known; one that is "
          "counts once in each, and may be on both sides of the split.",)


def check_copies(public: Mapping[str, Photographs], private: Mapping[str, Photographs]) -> None:
  """Refuses a photograph that two private sources, or a public and a private one, both hold.

  Photographs are compared pixel for pixel. Sources that decode theirs when asked are left out.

  Args:
    public: what was read of the sources of `data.public`.
    private: what was read of those of `data`.

  Raises:
    ValueError: the first such photograph.
  """
  if len(public) + len(private) < 2:
    return
  held: dict[tuple, str] = {}
  for key, photographs in private.items():
    own = _digests(f"data.sources.{key}", photographs)
    _refuse_copies(own, held, "every photograph once, as one in two of them would count twice")
    held |= own
  for key, photographs in public.items():
    _refuse_copies(_digests(f"data.public.{key}", photographs), held,
                   "public photographs of other people")


def _refuse_copies(own: Mapping[tuple, str], held: Mapping[tuple, str], expected: str) -> None:
  for digest, photograph in own.items():
    if digest in held:
      raise ValueError(f"{photograph} is {held[digest]}, pixel for pixel; expected {expected}")


def _digests(place: str, photographs: Photographs) -> dict[tuple, str]:
  """Shape and digest -> which photograph, of those that are in memory."""
  if not isinstance(photographs.images, np.ndarray | list):
    return {}
  return {(image.shape, hashlib.blake2b(image.tobytes()).digest()):
          f"photograph {number} of {place}" for number, image in enumerate(photographs.images)}


def _is_synthetic(source: Mapping[str, Any]) -> bool:
  """Whether nobody in a source is in any other, unless it is of the same world."""
  return source.get("name") == "synthetic_scenes"


def _are_other_people(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
  """Whether aligned LFW leaves out the people of the uncropped originals."""
  sources = {source.get("name"): source for source in (first, second)}
  return (set(sources) == {"lfw_aligned", "lfw_originals"} and place(first) == place(second)
          and sources["lfw_aligned"].get("people") == "others")


def _why_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
  """What two sources have in common so that they show the same people, '' if nothing."""
  names = first.get("name"), second.get("name")
  related = _RELATED.get(frozenset(map(str, names)))
  if related and not _are_other_people(first, second):
    return f"{related} ({names[0]}, {names[1]})"
  if names[0] != names[1]:
    return ""
  if names[0] == "synthetic_scenes" and first.get("seed") == second.get("seed"):
    return f"synthetic_scenes with seed {first.get('seed')}"
  if place(first) is not None and place(first) == place(second):
    return f"{names[0]} in {place(first)}"
  return ""
