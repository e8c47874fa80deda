"""Bytes of what crosses the cut: a checked header, then the arrays as they lie in memory.

A frame is little-endian and has no compression:

    40 bytes       magic, version, channel, number of arrays, session, step, loss
    36 per array   dtype, number of axes, 8 sizes (0 past the last axis)
    padding        to a multiple of 64, so that arrays are aligned
    arrays         one after the other

Everything is checked against the length of the frame before an array is made, and arrays are views
of the frame: decoding copies nothing.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.split.message import Message, Reply

Bytes = bytes | memoryview

CHUNK = 1 << 20
"""Most bytes in one piece of a frame."""

_MAGIC, _VERSION, _AXES = b"FJSL", 3, 8
_HEADER = struct.Struct("<4sBBBx16sQd")
_ARRAY = struct.Struct("<BB2x8I")
_DTYPES = (np.dtype("<f4"), np.dtype("<i4"))
_JOIN = struct.Struct("<4sBxxxi32s32s32s32sQ")
_JOINED = struct.Struct("<4sBxxx16sQQ")

# Channel -> type of its content; the place in this table is its number on the wire.
CHANNELS: dict[str, type[Any] | None] = {
    "activations": Message, "logits": Reply, "logit_gradients": Reply,
    "activation_gradients": Reply, "receipt": None}
# Type of content -> dtype of every array; the first is [B, ...], the last a scalar, others [B].
_LAYOUT: dict[type[Any] | None, tuple[np.dtype, ...]] = {
    Message: (_DTYPES[0], _DTYPES[1], _DTYPES[1], _DTYPES[1]),
    Reply: (_DTYPES[0], _DTYPES[1], _DTYPES[1]), None: ()}


class Frame(NamedTuple):
  """One thing on the wire.

  Attributes:
    channel: one of `CHANNELS`.
    session: 16 bytes, of the device.
    step: of training, its place in the sequence.
    content: a `Message` or `Reply` of numpy arrays; None in a receipt.
    loss: of the step, on the way to the device; nan elsewhere and where it is not known.
  """

  channel: str
  session: bytes
  step: int
  content: Message | Reply | None = None
  loss: float = math.nan


class Join(NamedTuple):
  """What a device asks for.

  Attributes:
    device: its number.
    config: hex digest of its config, see `training.config.digest`.
    public: hex digest of the public parts that it built, see `EdgeParts.public_digest`.
    noise: 32 bytes in hex that stand for the root of its noise and do not reveal it: the same after
      every restart.
    token: the device's secret; empty: none. Only its SHA-256 is sent.
    begun: steps, from 0, of which it may have sent anything before, and may now send padding.
  """

  device: int
  config: str
  public: str
  noise: str
  token: str = ""
  begun: int = 0


class JoinRequest(NamedTuple):
  """A `Join` as the server sees it: of the token its `token_digest`."""

  device: int
  config: str
  public: str
  noise: str
  token: bytes
  begun: int


class Joined(NamedTuple):
  """What it gets: its session, the step that is next and the number of steps."""

  session: bytes
  step: int
  steps: int


class Header(NamedTuple):
  """What the first bytes of a frame announce.

  Attributes:
    frame: without its content.
    shapes: of its arrays, the first [B, ...].
    begin: where the arrays begin.
    end: bytes of the whole frame.
  """

  frame: Frame
  shapes: tuple[tuple[int, ...], ...]
  begin: int
  end: int


def encode(frame: Frame) -> bytes:
  """The frame as bytes; see `chunks`."""
  return b"".join(chunks(frame))


def chunks(frame: Frame) -> Iterator[bytes]:
  """The frame as bytes in pieces of at most `CHUNK`, the header first; one copy is made.

  Raises:
    ValueError: unknown channel, or a content that the channel does not carry.
  """
  content_type = _content_type(frame.channel)
  if type(frame.content) is not (content_type or type(None)):
    raise ValueError(f"channel {frame.channel!r} carries {_name(content_type)}, got "
                     f"{type(frame.content).__name__}")
  arrays = [np.asarray(leaf) for leaf in frame.content or ()]
  _require_layout(frame.channel, [(array.dtype, array.shape) for array in arrays])
  number = list(CHANNELS).index(frame.channel)
  header = _HEADER.pack(_MAGIC, _VERSION, number, len(arrays), frame.session, frame.step,
                        frame.loss)
  for array in arrays:
    sizes = (*array.shape, *[0] * (_AXES - array.ndim))
    header += _ARRAY.pack(_DTYPES.index(array.dtype), array.ndim, *sizes)
  return _pieces(header.ljust(_header_bytes(len(arrays)), b"\0"), arrays)


def read_header(data: Bytes) -> Header:
  """The header of a frame, checked; nothing is allocated.

  Raises:
    ValueError: no header, or one whose sizes do not fit each other, in one line.
  """
  magic, version, number, count, session, step, loss = _unpack(_HEADER, data, "frame")
  _require_known(magic, version, "frame")
  if number >= len(CHANNELS):
    raise ValueError(f"frame of unknown channel {number}")
  channel = list(CHANNELS)[number]
  if count != len(_LAYOUT[CHANNELS[channel]]):
    raise ValueError(f"frame of channel {channel!r} with {count} arrays")
  begin = _header_bytes(count)
  if len(data) < begin:
    raise ValueError(f"frame of {len(data)} bytes: its header alone has {begin}")
  specs = [_spec(data, place) for place in range(count)]
  _require_layout(channel, specs)
  shapes = tuple(shape for _, shape in specs)
  return Header(Frame(channel, session, step, None, loss), shapes, begin,
                begin + 4 * sum(map(math.prod, shapes)))


def decode(data: Bytes) -> Frame:
  """The frame in `data`; its arrays are read-only views of it.

  Raises:
    ValueError: anything else than a whole frame, in one line.
  """
  header = read_header(data)
  if len(data) != header.end:
    raise ValueError(f"frame of {len(data)} bytes: its header announces {header.end}")
  content_type: Any = CHANNELS[header.frame.channel]
  if content_type is None:
    return header.frame
  arrays, begin, view = [], header.begin, memoryview(data).toreadonly()
  for dtype, shape in zip(_LAYOUT[content_type], header.shapes, strict=True):
    size = math.prod(shape)
    arrays.append(np.frombuffer(view, dtype, size, begin).reshape(shape))
    begin += 4 * size
  return header.frame._replace(content=content_type(*arrays))


def receive(pieces: Iterable[bytes], accept: Callable[[Header], None]) -> memoryview:
  """Puts the pieces of one frame together; `decode` reads it.

  Args:
    pieces: as they arrive; the first holds the whole header.
    accept: called with the header before memory is taken for the rest; raises to refuse it.

  Returns:
    The bytes of the frame.

  Raises:
    ValueError: no frame, or more or fewer bytes than its header announces.
  """
  whole, filled = memoryview(b""), 0
  for piece in pieces:
    if not filled:
      header = read_header(piece)
      accept(header)
      whole = np.empty(header.end, np.uint8).data
    if filled + len(piece) > len(whole):
      raise ValueError(f"frame goes on after the {len(whole)} bytes that its header announces")
    whole[filled:filled + len(piece)] = piece
    filled += len(piece)
  if not filled or filled < len(whole):
    raise ValueError(f"frame ends after {filled} of {len(whole)} bytes")
  return whole


def encode_join(join: Join) -> bytes:
  """A `Join` as bytes.

  Raises:
    ValueError: config, public parts or noise are not 32 bytes in hex, the device no int32, or the
      steps begun no uint64.
  """
  digests = [bytes.fromhex(digest) for digest in (join.config, join.public, join.noise)]
  if {len(digest) for digest in digests} != {32}:
    raise ValueError(f"device {join.device}: config, public parts and noise are 32 bytes each in "
                     "a request to join")
  try:
    return _JOIN.pack(_MAGIC, _VERSION, join.device, *digests, token_digest(join.token),
                      join.begun)
  except struct.error as error:
    raise ValueError(f"device {join.device}: {error}") from None


def decode_join(data: bytes) -> JoinRequest:
  """The request in `data`.

  Raises:
    ValueError: anything else than an encoded `Join`.
  """
  magic, version, device, *digests, token, begun = _unpack_all(_JOIN, data, "join request")
  _require_known(magic, version, "join request")
  config, public, noise = (digest.hex() for digest in digests)
  return JoinRequest(device, config, public, noise, token, begun)


def encode_joined(joined: Joined) -> bytes:
  """A `Joined` as bytes."""
  return _JOINED.pack(_MAGIC, _VERSION, *joined)


def decode_joined(data: bytes) -> Joined:
  """The `Joined` in `data`.

  Raises:
    ValueError: anything else.
  """
  magic, version, *fields = _unpack_all(_JOINED, data, "answer to a join request")
  _require_known(magic, version, "answer to a join request")
  return Joined(*fields)


def token_digest(token: str) -> bytes:
  """What is sent of a token: 32 bytes."""
  return hashlib.sha256(token.encode()).digest()


def kept_digest(sent: bytes) -> bytes:
  """What a server keeps of `token_digest`: 32 bytes, from which nobody can join."""
  return hashlib.sha256(sent).digest()


def _content_type(channel: str) -> type[Any] | None:
  if channel not in CHANNELS:
    raise ValueError(f"unknown channel {channel!r}; choose one of {', '.join(CHANNELS)}")
  return CHANNELS[channel]


def _header_bytes(arrays: int) -> int:
  return -(-(_HEADER.size + arrays * _ARRAY.size) // 64) * 64


def _pieces(header: bytes, arrays: Sequence[np.ndarray]) -> Iterator[bytes]:
  yield header
  for array in arrays:
    raw = np.ascontiguousarray(array).reshape(-1).data.cast("B")
    for begin in range(0, len(raw), CHUNK):
      yield bytes(raw[begin:begin + CHUNK])


def _unpack(layout: struct.Struct, data: Bytes, what: str) -> tuple[Any, ...]:
  if len(data) < layout.size:
    raise ValueError(f"{what} of {len(data)} bytes: at least {layout.size} expected")
  return layout.unpack_from(data)


def _unpack_all(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
  if len(data) != layout.size:
    raise ValueError(f"{what} of {len(data)} bytes: {layout.size} expected")
  return layout.unpack(data)


def _require_known(magic: bytes, version: int, what: str) -> None:
  if magic != _MAGIC:
    raise ValueError(f"{what} begins with {magic!r}, not {_MAGIC!r}")
  if version != _VERSION:
    raise ValueError(f"{what} of version {version}; this program speaks {_VERSION}")


def _spec(data: Bytes, place: int) -> tuple[np.dtype, tuple[int, ...]]:
  dtype, axes, *sizes = _ARRAY.unpack_from(data, _HEADER.size + place * _ARRAY.size)
  if dtype >= len(_DTYPES):
    raise ValueError(f"array {place} of the frame has the unknown dtype {dtype}")
  if axes > len(sizes) or not all(sizes[:axes]) or any(sizes[axes:]):
    raise ValueError(f"array {place} of the frame has {axes} axes of sizes {sizes}")
  return _DTYPES[dtype], tuple(sizes[:axes])


def _require_layout(channel: str, specs: Sequence[tuple[np.dtype, tuple[int, ...]]]) -> None:
  """Dtypes and shapes that fit each other: [B, ...], [B] for the next ones, then a scalar."""
  content_type = CHANNELS[channel]
  if content_type is None:
    return
  shape = specs[0][1]
  wanted = [shape, *[shape[:1]] * (len(specs) - 2), ()]
  fields = zip(content_type._fields, specs, _LAYOUT[content_type], wanted, strict=True)
  for name, (dtype, found), wanted_dtype, wanted_shape in fields:
    if dtype != wanted_dtype or found != wanted_shape:
      raise ValueError(f"{name} of channel {channel!r} is {dtype}{list(found)}, expected "
                       f"{wanted_dtype}{list(wanted_shape)}")
  if not 2 <= len(shape) <= _AXES or not all(shape):
    raise ValueError(f"{content_type._fields[0]} of channel {channel!r} has the shape "
                     f"{list(shape)}: expected 2 to {_AXES} axes, none empty")


def _name(content_type: type[Any] | None) -> str:
  return "nothing" if content_type is None else f"a {content_type.__name__}"
