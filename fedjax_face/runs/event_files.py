"""TensorBoard event files: bytes of records, and what the files of a folder show.

A record is its length, a checksum, an `Event` of TensorBoard and another checksum.
"""

from __future__ import annotations

import pathlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PATTERN = "events.out.tfevents.*"
_VERSION = "brain.Event:2"
_LENGTH = struct.Struct("<QI")


def new_path(folder: pathlib.Path) -> pathlib.Path:
  """A file that TensorBoard reads after all that are in the folder, whatever the clock says."""
  stamps = [path.name.split(".")[3] for path in folder.glob(_PATTERN)]
  stamp = max([int(time.time()), *(int(each) + 1 for each in stamps if each.isdecimal())])
  return folder / f"{_PATTERN[:-1]}{stamp:010d}.{socket.gethostname()}"


def opening(hidden_from: int) -> bytes:
  """The first records of a file; TensorBoard hides what earlier files say from a step on."""
  from tensorboardX.proto.event_pb2 import Event, SessionLog
  now = time.time()
  return _record(Event(wall_time=now, file_version=_VERSION)) + _record(Event(
      wall_time=now, step=hidden_from, session_log=SessionLog(status=SessionLog.START)))


def scalars(step: int, values: Mapping[str, float]) -> bytes:
  """One record with finite values; TensorBoard has no axis for others."""
  from tensorboardX import summary
  from tensorboardX.proto.event_pb2 import Event
  from tensorboardX.proto.summary_pb2 import Summary
  shown = [summary.scalar(name, float(value)).value[0] for name, value in values.items()]
  return _record(Event(wall_time=time.time(), step=step, summary=Summary(value=shown)))


def first_missing(folder: pathlib.Path,
                  rows: Sequence[tuple[int, Mapping[str, float]]]) -> int | None:
  """The first step of which a folder's files lack a value; None if they lack none.

  Args:
    folder: of the files; what is damaged in one, and all after it, counts as missing.
    rows: (step, finite values), in order.
  """
  from tensorboardX import summary
  shown: dict[int, set[str]] = {}
  for path in sorted(folder.glob(_PATTERN)):
    for event in _events(path):
      if event.HasField("session_log"):
        shown = {step: tags for step, tags in shown.items() if step < event.step}
      shown.setdefault(event.step, set()).update(value.tag for value in event.summary.value)
  for step, values in rows:
    tags = {summary.scalar(name, 0.0).value[0].tag for name in values}
    if not tags <= shown.get(step, set()):
      return step
  return None


def _events(path: pathlib.Path) -> Iterator[Any]:
  from google.protobuf.message import DecodeError
  from tensorboardX.proto.event_pb2 import Event
  data, start = path.read_bytes(), 0
  while start + _LENGTH.size <= len(data):
    size, _ = _LENGTH.unpack_from(data, start)
    end = start + _LENGTH.size + size
    if end + 4 > len(data):
      return
    try:
      yield Event.FromString(data[start + _LENGTH.size:end])
    except DecodeError:
      return
    start = end + 4


def _record(event: Any) -> bytes:
  from tensorboardX.record_writer import masked_crc32c
  data = event.SerializeToString()
  length = struct.pack("<Q", len(data))
  return (length + struct.pack("<I", masked_crc32c(length)) + data
          + struct.pack("<I", masked_crc32c(data)))
