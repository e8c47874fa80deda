"""InsightFace training sets (`train.rec`, `train.idx`, `property`): CASIA-WebFace and others.

A .rec is a file of records of dmlc's RecordIO. A record is one part or several; a part is the
magic number, a word with a flag (3 bits) and a length (29 bits), that many bytes, and zeros up to a
multiple of 4. Several parts (flags 1, 2..., 3) stand for a record that contains the magic number
itself, which the writer left out where it cut. A record starts with MXNet's image header: the
number of labels that follow the header (0: the header's own label is it), a label, two numbers.
Record 0 holds [first identity record, last + 1]; the records before the first are images.
"""

from __future__ import annotations

import mmap
import pathlib
import struct

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.file_bytes import printable, require_given
from fedjax_face.data.readers.text_file import read_text

_MAGIC = struct.pack("<I", 0xced7230a)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")


def read_rec(folder: str | pathlib.Path, *, size: int | None = None, channels: int = 3,
             limit: int | None = None, on_bad: OnBad = "skip") -> tuple[FaceDataset, ReadReport]:
  """Reads a folder with `train.rec`, `train.idx` and, perhaps, `property` (`classes,height,width`).

  Args:
    folder: where the files are; its name becomes the name of the data set.
    size: height and width to scale to; None = as stored, all of one shape.
    channels: 1 (grey) or 3 (RGB).
    limit: only the first so many images, in the order of their record numbers.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: images that are broken, labels that are no
      class, records that the index lacks, persons with no readable image.

  Returns:
    The data set, whose labels and persons keep the numbers of the file and have no names, and a
    report of everything that was skipped.

  Raises:
    FileNotFoundError: no `train.rec` or no `train.idx`.
    ValueError: a file that is cut off or of another format, bad records and `on_bad` is 'refuse',
      no readable image at all, or images of several shapes without `size`.
  """
  check_on_bad(on_bad)
  if limit is not None and limit < 1:
    raise ValueError(f"{folder}: limit is {limit}; expected at least 1")
  folder = require_given(folder)
  path, index = folder / "train.rec", folder / "train.idx"
  offsets = _read_index(index)
  num_classes = _num_classes(folder / "property")
  with _Records(path, offsets) as records:
    keys, skipped = _image_keys(records)
    wanted: dict[str, tuple[int, int]] = {}  # number and label of a record, by its name
    for key in keys[:limit]:
      try:
        wanted[f"record {key}"] = key, _label(records.read(key), num_classes)
      except _BadRecordError as error:
        skipped.append((f"record {key}", str(error)))
    names = list(wanted)
    images, rows, bad = decode_images(
        str(path), names, lambda name: _image(records.read(wanted[name][0])), size, channels)
  label = np.array([wanted[names[row]][1] for row in rows], np.int32)
  lost = sorted({label for _, label in wanted.values()} - set(label.tolist()))
  skipped += bad + [(f"person {person}", "person with no readable image") for person in lost]
  report = settle(ReadReport(str(path), skipped=tuple(skipped)), on_bad)
  return FaceDataset(folder.resolve().name, images, label, label.copy()), report


class _BadRecordError(ValueError):
  """A record that can be left out: the records after it are not affected."""


class _Records:
  """Records of a file by number; may be read from several threads."""

  def __init__(self, path: pathlib.Path, offsets: dict[int, int]):
    if not path.is_file():
      raise FileNotFoundError(f"{path} does not exist; expected an InsightFace .rec")
    if not path.stat().st_size:
      raise ValueError(f"{path} is empty; expected an InsightFace .rec")
    self.path, self.offsets = path, offsets
    with path.open("rb") as file:
      self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._content.close()

  def read(self, key: int) -> bytes:
    """The content of a record, its parts put together again."""
    parts: list[bytes] = []
    position = self.offsets[key]
    while True:
      flag, part, position = self._part(key, position)
      if flag not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
        raise ValueError(f"{self.path}: record {key} has a part of flag {flag} in place "
                         f"{len(parts)}; the file is damaged or train.idx is of another file")
      parts.append(part)
      if flag in (_WHOLE, _LAST):
        return _MAGIC.join(parts)

  def _part(self, key: int, position: int) -> tuple[int, bytes, int]:
    """(flag, content, position of the part after it)."""
    start = position + _PART.size
    if start > len(self._content):
      raise self._cut_off(key, start)
    magic, word = _PART.unpack(self._content[position:start])
    if magic != _MAGIC:
      raise ValueError(f"{self.path}: record {key} at byte {position} starts with {magic.hex()}; "
                       f"expected {_MAGIC.hex()} (train.idx of another file, or damage)")
    end = start + (word & (1 << 29) - 1)
    following = (end + 3) // 4 * 4
    if following > len(self._content):
      raise self._cut_off(key, following)
    return word >> 29, self._content[start:end], following

  def _cut_off(self, key: int, end: int) -> ValueError:
    return ValueError(f"{self.path} is cut off: record {key} ends at byte {end} "
                      f"but the file has {len(self._content)}")


def _image_keys(records: _Records) -> tuple[list[int], list[tuple[str, str]]]:
  """Numbers of the image records, and what is missing of them."""
  records.read(max(records.offsets, key=records.offsets.__getitem__))  # is the file whole?
  try:
    labels, image = _unpack(records.read(0))
  except _BadRecordError as error:
    raise ValueError(f"{records.path}: record 0 has a {error}") from None
  if image:
    return sorted(records.offsets), []  # a plain image file, as MXNet's own tools write it
  first = labels[0]
  if not (2 <= first <= max(records.offsets) + 1 and first == int(first)):
    raise ValueError(f"{records.path}: record 0 says that identities start at record {first:g}; "
                     f"expected 2 to {max(records.offsets) + 1}")
  keys = sorted(key for key in records.offsets if 0 < key < first)
  missing = int(first) - 1 - len(keys)
  return keys, [(f"{missing} image record(s)", "not in train.idx")] if missing else []


def _label(record: bytes, num_classes: int | None) -> int:
  """The class of an image record."""
  label = _unpack(record)[0][0]
  limit = num_classes or 2 ** 31 - 1
  if not (0 <= label < limit and label == int(label)):
    raise _BadRecordError(f"label {label:g}; expected 0 to {limit - 1}")
  return int(label)


def _image(record: bytes) -> bytes:
  """The encoded image of a record."""
  return _unpack(record)[1]


def _unpack(record: bytes) -> tuple[tuple[float, ...], bytes]:
  """(labels, image) of a record."""
  if len(record) < _HEADER.size:
    raise _BadRecordError(f"header of {len(record)} bytes; expected {_HEADER.size}")
  count, label, _, _ = _HEADER.unpack_from(record)
  end = _HEADER.size + 4 * count
  if end > len(record):
    raise _BadRecordError(f"header that announces {count} labels in {len(record)} bytes")
  labels = struct.unpack_from(f"<{count}f", record, _HEADER.size) if count else (label,)
  return labels, record[end:]


def _read_index(path: pathlib.Path) -> dict[int, int]:
  """Byte at which each record starts, by number."""
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; expected the index of an InsightFace .rec")
  offsets: dict[int, int] = {}
  for number, line in enumerate(read_text(path).splitlines(), 1):
    fields = line.split()
    if len(fields) != 2 or not all(map(_is_number, fields)) or int(fields[0]) in offsets:
      raise ValueError(f"{path}: line {number} is '{printable(line[:40])}'; "
                       "expected a new record number and a byte")
    offsets[int(fields[0])] = int(fields[1])
  if 0 not in offsets:
    raise ValueError(f"{path}: record 0 is missing among {len(offsets)}; expected it")
  return offsets


def _num_classes(path: pathlib.Path) -> int | None:
  """The number of classes that a property file gives, None without the file."""
  if not path.exists():
    return None
  content = read_text(path).strip()
  fields = [field.strip() for field in content.split(",")]
  if len(fields) != 3 or not all(_is_number(f) and int(f) for f in fields):
    raise ValueError(f"{path} is '{printable(content[:40])}'; expected classes,height,width")
  return int(fields[0])


def _is_number(field: str) -> bool:
  """Whether a field is a count or a place in a file."""
  return field.isascii() and field.isdigit() and len(field) < 20
