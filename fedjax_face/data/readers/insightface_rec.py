"""InsightFace training sets (`train.rec`, `train.idx`, `property`): CASIA-WebFace and others.

A .rec is a file of records of dmlc's RecordIO. A record is one part or several; a part is the
magic number, a word with a flag (3 bits) and a length (29 bits), that many bytes, and zeros up to a
multiple of 4. Several parts (flags 1, 2..., 3) stand for a record that contains the magic number
itself, which the writer left out where it cut. A record starts with MXNet's image header: the
number of labels that follow the header (0: the header's own label is it), a label, two numbers.
Record 0 holds [first identity record, last + 1]; the records before the first are images.
"""

from __future__ import annotations

import os
import pathlib
import struct

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.numbering import Numbered
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.encoded_images import decode_later, is_on_demand
from fedjax_face.data.readers.file_bytes import printable, require_given
from fedjax_face.data.readers.text_file import read_text

_MAGIC = struct.pack("<I", 0xced7230a)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")


def read_rec(folder: str | pathlib.Path, *, size: int | None = None, channels: int = 3,
             limit: int | None = None, on_bad: OnBad = "skip", on_demand: bool | None = False,
             ) -> tuple[FaceDataset, ReadReport]:
  """Reads a folder with `train.rec`, `train.idx` and, perhaps, `property` (`classes,height,width`).

  Args:
    folder: where the files are; its name becomes the name of the data set.
    size: height and width to scale to; None = as stored, all of one shape.
    channels: 1 (grey) or 3 (RGB).
    limit: only the first so many images, in the order of their record numbers.
    on_bad: 'skip' leaves out and warns, 'refuse' raises: images that are broken, labels that are no
      class, records that the index lacks, persons with no readable image.
    on_demand: decodes an image when it is asked for, and needs `size`; None: where all would take
      much memory.

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
  records = _Records(path, _read_index(index))  # closed with the last that reads it
  num_classes = _num_classes(folder / "property")
  keys, skipped = _image_keys(records)
  wanted, labels = [], []
  for key in keys[:limit].tolist():
    try:
      labels.append(_label(records.read(key), num_classes))
      wanted.append(key)
    except _BadRecordError as error:
      skipped.append((f"record {key}", str(error)))
  names = Numbered("record ", np.array(wanted, np.int64))
  read = lambda name: _image(records.read(int(name.split()[1])))
  later = is_on_demand(on_demand, len(wanted), size, channels)
  decode = decode_later if later else decode_images
  images, rows, bad = decode(str(path), names, read, size, channels)
  label = np.array(labels, np.int32)[rows]
  lost = sorted({*labels} - set(label.tolist()))
  skipped += bad + [(f"person {person}", "person with no readable image") for person in lost]
  report = settle(ReadReport(str(path), skipped=tuple(skipped)), on_bad)
  return FaceDataset(folder.resolve().name, images, label, label.copy()), report


class _BadRecordError(ValueError):
  """A record that can be left out: the records after it are not affected."""


class _Records:
  """Records of a file by number; may be read from several threads.

  They are read where they lie, not mapped: a file may be larger than the memory that a process is
  given.

  Args:
    path: of the .rec.
    index: int64 [n, 2], number of each record, ascending, and the byte at which it starts.
  """

  def __init__(self, path: pathlib.Path, index: np.ndarray):
    if not path.is_file():
      raise FileNotFoundError(f"{path} does not exist; expected an InsightFace .rec")
    if not path.stat().st_size:
      raise ValueError(f"{path} is empty; expected an InsightFace .rec")
    self.path, self.numbers, self._offsets = path, index[:, 0], index[:, 1]
    self._file, self._size = path.open("rb"), path.stat().st_size

  @property
  def last(self) -> int:
    """Number of the record that lies last in the file."""
    return int(self.numbers[self._offsets.argmax()])

  def read(self, key: int) -> bytes:
    """The content of a record, its parts put together again."""
    parts: list[bytes] = []
    position = int(self._offsets[np.searchsorted(self.numbers, key)])
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
    if start > self._size:
      raise self._cut_off(key, start)
    magic, word = _PART.unpack(self._bytes(position, start))
    if magic != _MAGIC:
      raise ValueError(f"{self.path}: record {key} at byte {position} starts with {magic.hex()}; "
                       f"expected {_MAGIC.hex()} (train.idx of another file, or damage)")
    end = start + (word & (1 << 29) - 1)
    following = (end + 3) // 4 * 4
    if following > self._size:
      raise self._cut_off(key, following)
    return word >> 29, self._bytes(start, end), following

  def _bytes(self, start: int, end: int) -> bytes:
    return os.pread(self._file.fileno(), end - start, start)

  def _cut_off(self, key: int, end: int) -> ValueError:
    return ValueError(f"{self.path} is cut off: record {key} ends at byte {end} "
                      f"but the file has {self._size}")


def _image_keys(records: _Records) -> tuple[np.ndarray, list[tuple[str, str]]]:
  """Numbers of the image records, ascending, and what is missing of them."""
  records.read(records.last)  # is the file whole?
  try:
    labels, image = _unpack(records.read(0))
  except _BadRecordError as error:
    raise ValueError(f"{records.path}: record 0 has a {error}") from None
  if image:
    return records.numbers, []  # a plain image file, as MXNet's own tools write it
  first = labels[0]
  end = int(records.numbers[-1]) + 1
  if not (2 <= first <= end and first == int(first)):
    raise ValueError(f"{records.path}: record 0 says that identities start at record {first:g}; "
                     f"expected 2 to {end}")
  keys = records.numbers[(records.numbers > 0) & (records.numbers < first)]
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


def _read_index(path: pathlib.Path) -> np.ndarray:
  """int64 [n, 2]: number of each record, ascending, and the byte at which it starts."""
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist; expected the index of an InsightFace .rec")
  nothing = np.empty((0, 2), np.int64)
  try:
    index = np.loadtxt(path, np.int64, comments=None, ndmin=2) if path.stat().st_size else nothing
    fits = index.shape[1] == 2 and index.min(initial=0) >= 0
  except (ValueError, OverflowError):
    fits = False
  if not fits or len(np.unique(index[:, 0])) < len(index):
    index = _index_by_line(path)
  index = index[np.argsort(index[:, 0])]
  if not len(index) or index[0, 0] != 0:
    raise ValueError(f"{path}: record 0 is missing among {len(index)}; expected it")
  return index


def _index_by_line(path: pathlib.Path) -> np.ndarray:
  """The same for a file of another encoding; raises ValueError with a line that is no new record.
  """
  offsets: dict[int, int] = {}
  for number, line in enumerate(read_text(path).splitlines(), 1):
    fields = line.split()
    if len(fields) != 2 or not all(map(_is_number, fields)) or int(fields[0]) in offsets:
      raise ValueError(f"{path}: line {number} is '{printable(line[:40])}'; "
                       "expected a new record number and a byte")
    offsets[int(fields[0])] = int(fields[1])
  return np.array([*offsets.items()], np.int64).reshape(-1, 2)


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
  return field.isascii() and field.isdigit() and len(field) < 19
