"""Reader for `<person>/<image>` folders and zip archives."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import unicodedata
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.encoded_images import EncodedImages, decode_later, is_on_demand
from fedjax_face.data.readers.layout import person_depth
from fedjax_face.data.readers.listing import Listing, listing


class People(NamedTuple):
  """Who is in a source.

  Attributes:
    files: of every person, by name.
    skipped: (file, reason) of what belongs to nobody.
    remarks: sentences about names.
  """

  files: dict[str, list[str]]
  skipped: list[tuple[str, str]]
  remarks: list[str]


def read_folder(path: str | pathlib.Path, *, size: int | None = None, channels: int = 3,
                people: Collection[str] | None = None, min_images: int = 1,
                limit: int | None = None, people_at: int | None = None, on_bad: OnBad = "skip",
                on_demand: bool | None = False) -> tuple[FaceDataset, ReadReport]:
  """Reads images of `<person>/<image>` in a folder or zip archive.

  A person is a folder, with everything below it; the name of the folder, in Unicode's composed
  form, is the name of the person. Folders that hold nothing but one folder are passed through on
  the way to the people. Where pictures are in folders of folders, these may be sessions of people
  or people of groups: that is refused unless `people_at` says which (`layout.person_depth`).
  Persons are numbered in the order of their names, and are the labels.

  Args:
    path: folder or zip archive.
    size: height and width to scale to; None = as stored, all of one shape.
    channels: 1 (grey) or 3 (RGB).
    people: only these persons; None = all.
    min_images: leaves out persons with fewer files (a choice, so not reported as bad).
    limit: only the first so many files, in order of person and file name.
    people_at: how far below `path` the folders of people are: 1 = in it; None = as seen.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: files missing, cut off or no images, files
      outside a person's folder, persons with no (readable) image.
    on_demand: decodes an image when it is asked for, and needs `size`; None: where all would take
      much memory.

  Returns:
    The data set, and a report with the file of every row and everything that was skipped.

  Raises:
    FileNotFoundError: nothing at `path`, or a person of `people` is not there.
    ValueError: bad files and `on_bad` is 'refuse', no readable image at all, images of several
      shapes without `size`, one person's name in two places, or sessions or groups without
      `people_at`.
  """
  check_on_bad(on_bad)
  source = str(path)
  with contextlib.ExitStack() as opened:
    content = opened.enter_context(listing(path))
    found = _people(source, content, people_at)
    persons, skipped = found.files, found.skipped
    if people is not None:
      people = {composed(name) for name in people}
      _check_people(source, people, persons)
    wanted = [(name, file) for name in sorted(persons) for file in persons[name]
              if (people is None or name in people) and len(persons[name]) >= min_images][:limit]
    skipped += [(name, "person with no images") for name in sorted(persons)
                if not persons[name] and (people is None or name in people)]
    if not wanted:
      raise ValueError(f"{source}: no image of a person with at least {min_images} file(s); "
                       "expected <person>/<image>")
    files = [file for _, file in wanted]
    later = is_on_demand(on_demand, len(files), size, channels)
    decode = decode_later if later else decode_images
    images, rows, bad = decode(source, files, content.read, size, channels)
    if isinstance(images, EncodedImages):
      images.holds = opened.pop_all()
  kept = [wanted[row][0] for row in rows]
  lost = sorted({name for name, _ in wanted} - set(kept))
  skipped += bad + [(name, "person with no readable image") for name in lost]
  report = settle(ReadReport(source, tuple(files[row] for row in rows), tuple(skipped),
                             (*content.remarks, *found.remarks)), on_bad)
  names, label = np.unique(kept, return_inverse=True)
  label = label.astype(np.int32)
  return FaceDataset(pathlib.Path(path).stem, images, label, label.copy(),
                     names=tuple(names.tolist())), report


def count_files(path: str | pathlib.Path, people_at: int | None = None) -> dict[str, int]:
  """Number of files of every person of a folder or zip archive, without opening any."""
  with listing(path) as content:
    return {name: len(files)
            for name, files in _people(str(path), content, people_at).files.items()}


def composed(name: str) -> str:
  """A name in the one spelling (NFC) in which it is compared with others."""
  return unicodedata.normalize("NFC", name)


def _people(source: str, content: Listing, people_at: int | None) -> People:
  """Files of every person, and what belongs to nobody."""
  depth, remarks = person_depth(source, content, people_at)
  persons: dict[str, list[str]] = {}
  places: dict[str, list[str]] = collections.defaultdict(list)
  skipped = []
  of_folders = (f"{folder}/" for folder in content.folders if folder.count("/") >= depth - 1)
  for entry in sorted({*content.files, *of_folders}):
    parts = entry.split("/")
    if len(parts) <= depth:
      skipped.append((entry, "not in a person's folder"))
      continue
    name, folder = composed(parts[depth - 1]), "/".join(parts[:depth])
    files = persons.setdefault(name, [])
    if parts[-1]:
      files.append(entry)
    if folder not in places[name]:
      places[name].append(folder)
  return People(persons, skipped, remarks + _check_names(source, places))


def _check_names(source: str, places: dict[str, list[str]]) -> list[str]:
  """What is said about names that are nearly one; the same name in two places is refused."""
  remarks = []
  for name, folders in places.items():
    if len({composed(folder) for folder in folders}) > 1:
      raise ValueError(f"{source}: person {name} is in both {folders[0]} and {folders[1]}; "
                       "expected one folder per person")
    if len(folders) > 1:
      remarks.append(f"{name} is spelled in {len(folders)} forms of Unicode; taken as one person")
  alike: dict[str, list[str]] = collections.defaultdict(list)
  for name in places:
    alike[name.casefold()].append(name)
  return remarks + [f"{' and '.join(names)} differ in capitals only; taken as {len(names)} people"
                    for names in alike.values() if len(names) > 1]


def _check_people(source: str, people: Collection[str], persons: Collection[str]) -> None:
  """Refuses names that the source does not have."""
  unknown = sorted(set(people) - set(persons))
  if unknown:
    raise FileNotFoundError(f"{source}: {len(unknown)} person(s) not found: {_few(unknown)}")


def _few(names: list[str]) -> str:
  """The first few names of a list."""
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
