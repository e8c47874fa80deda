"""Reader for `<person>/<image>` folders and zip archives."""

from __future__ import annotations

import pathlib
import threading
import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle


class Listing(NamedTuple):
  """The files of a source, before any is opened.

  Attributes:
    folders: every folder, '' = the root, '/' as separator.
    files: every file.
    read: the bytes of a file; may be called from several threads.
  """

  folders: list[str]
  files: list[str]
  read: Callable[[str], bytes]


@contextmanager
def listing(path: str | pathlib.Path) -> Iterator[Listing]:
  """Opens a folder or zip archive.

  Raises:
    FileNotFoundError: nothing there.
    ValueError: neither a folder nor a readable zip archive.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist; expected a folder or zip archive")
  if path.is_dir():
    entries = sorted(path.rglob("*"))
    yield Listing(
        [e.relative_to(path).as_posix() for e in entries if e.is_dir()],
        [e.relative_to(path).as_posix() for e in entries if not e.is_dir()],
        lambda name: (path / name).read_bytes())
    return
  try:
    archive = zipfile.ZipFile(path)
  except (zipfile.BadZipFile, OSError) as error:
    raise ValueError(f"{path} is neither a folder nor a readable zip archive ({error})") from None
  lock = threading.Lock()

  def read(name: str) -> bytes:
    try:
      with lock:
        return archive.read(name)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError) as error:
      raise OSError(f"broken in the archive ({error})") from None

  with archive:
    names = sorted(archive.namelist())
    yield Listing([n.rstrip("/") for n in names if n.endswith("/")],
                  [n for n in names if not n.endswith("/")], read)


def read_folder(path: str | pathlib.Path, *, size: int | None = None, channels: int = 3,
                people: Collection[str] | None = None, min_images: int = 1,
                limit: int | None = None, on_bad: OnBad = "skip",
                ) -> tuple[FaceDataset, ReadReport]:
  """Reads images of `<person>/<image>`, at any depth below the root of a folder or zip archive.

  A person is a folder that holds files and no folders; the name of the folder is the name of the
  person. Persons are numbered in the order of their names, and are the labels.

  Args:
    path: folder or zip archive.
    size: height and width to scale to; None = as stored, all of one shape.
    channels: 1 (grey) or 3 (RGB).
    people: only these persons; None = all.
    min_images: leaves out persons with fewer files (a choice, so not reported as bad).
    limit: only the first so many files, in order of person and file name.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: files missing, cut off or no images, files
      outside a person's folder, persons with no (readable) image.

  Returns:
    The data set, and a report with the file of every row and everything that was skipped.

  Raises:
    FileNotFoundError: nothing at `path`, or a person of `people` is not there.
    ValueError: bad files and `on_bad` is 'refuse', no readable image at all, images of several
      shapes without `size`, or one person's name in two places.
  """
  check_on_bad(on_bad)
  source = str(path)
  with listing(path) as content:
    persons, skipped = _by_person(source, content)
    if people is not None:
      _check_people(source, people, persons)
    wanted = [(name, file) for name in sorted(persons) for file in persons[name]
              if (people is None or name in people) and len(persons[name]) >= min_images][:limit]
    skipped += [(name, "person with no images") for name in sorted(persons)
                if not persons[name] and (people is None or name in people)]
    if not wanted:
      raise ValueError(f"{source}: no image of a person with at least {min_images} file(s); "
                       "expected <person>/<image>")
    files = [file for _, file in wanted]
    images, rows, bad = decode_images(source, files, content.read, size, channels)
  kept = [wanted[row][0] for row in rows]
  lost = sorted({name for name, _ in wanted} - set(kept))
  skipped += bad + [(name, "person with no readable image") for name in lost]
  report = settle(ReadReport(source, tuple(files[row] for row in rows), tuple(skipped)), on_bad)
  names, label = np.unique(kept, return_inverse=True)
  label = label.astype(np.int32)
  return FaceDataset(pathlib.Path(path).stem, images, label, label.copy(),
                     names=tuple(names.tolist())), report


def count_files(path: str | pathlib.Path) -> dict[str, int]:
  """Number of files of every person of a folder or zip archive, without opening any."""
  with listing(path) as content:
    return {name: len(files) for name, files in _by_person(str(path), content)[0].items()}


def _by_person(source: str, content: Listing,
               ) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
  """Files of every person, and what belongs to nobody."""
  folders = {*content.folders, *_parents(content.files)}
  leaves = folders - {str(pathlib.PurePosixPath(folder).parent) for folder in folders}
  persons: dict[str, list[str]] = {}
  place: dict[str, str] = {}
  skipped = []
  for folder in sorted(leaves):
    if not _hidden(folder):
      name = pathlib.PurePosixPath(folder).name
      if name in place:
        raise ValueError(f"{source}: person {name} is in both {place[name]} and {folder}; "
                         "expected one folder per person")
      place[name], persons[name] = folder, []
  for file in content.files:
    folder = str(pathlib.PurePosixPath(file).parent)
    if _hidden(file):
      skipped.append((file, "hidden file"))
    elif folder in leaves and folder != ".":
      persons[pathlib.PurePosixPath(folder).name].append(file)
    else:
      skipped.append((file, "not in a person's folder"))
  return persons, skipped


def _parents(files: list[str]) -> set[str]:
  """Folders above the files, all the way up, without the root."""
  return {str(p) for f in files for p in pathlib.PurePosixPath(f).parents if str(p) != "."}


def _hidden(path: str) -> bool:
  """Whether a path is one that archivers and desktops leave behind."""
  return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _check_people(source: str, people: Collection[str], persons: Collection[str]) -> None:
  """Refuses names that the source does not have."""
  unknown = sorted(set(people) - set(persons))
  if unknown:
    raise FileNotFoundError(f"{source}: {len(unknown)} person(s) not found: {_few(unknown)}")


def _few(names: list[str]) -> str:
  """The first few names of a list."""
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
