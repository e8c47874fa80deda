"""Frames: there and back, by hand, and everything that is no frame."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.wire import Frame, Join, Joined
from fedjax_face.split.message import Message, Reply, message_bytes, reply_bytes

RNG = np.random.default_rng(0)
SESSION = bytes(range(16))
DIGEST, PUBLIC, NOISE = "ab" * 32, "cd" * 32, "ef" * 32


def message(shape=(3, 2), batch=4, device=1):
  return Message(RNG.normal(size=(batch, *shape)).astype(np.float32),
                 RNG.integers(0, 5, batch).astype(np.int32), np.arange(batch, dtype=np.int32),
                 np.int32(device))


def reply(batch=4, classes=5):
  return Reply(RNG.normal(size=(batch, classes)).astype(np.float32),
               np.arange(batch, dtype=np.int32), np.int32(0))


FRAMES = [Frame("activations", SESSION, 7, message()),
          Frame("activations", SESSION, 7, message(shape=(5,), batch=1)),
          Frame("logits", SESSION, 2**40, reply()), Frame("logit_gradients", SESSION, 0, reply()),
          Frame("activation_gradients", SESSION, 1, reply(classes=9), 0.5),
          Frame("receipt", SESSION, 3, None, 1.25)]


def assert_same(a, b):
  assert (a.channel, a.session, a.step) == (b.channel, b.session, b.step)
  assert a.loss == b.loss or math.isnan(a.loss) and math.isnan(b.loss)
  assert type(a.content) is type(b.content)
  for x, y in zip(a.content or (), b.content or (), strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.channel)
def test_there_and_back(frame):
  assert_same(wire.decode(wire.encode(frame)), frame)


def test_the_bytes_of_a_frame_are_header_and_formula():
  assert len(wire.encode(FRAMES[0])) == 192 + message_bytes((3, 2), 4)
  assert len(wire.encode(FRAMES[2])) == 192 + reply_bytes((5,), 4)
  assert len(wire.encode(FRAMES[-1])) == 64


def test_arrays_lie_little_endian_after_the_header():
  frame = Frame("activations", SESSION, 7, Message(
      np.array([[1.5, -2.0]], np.float32), np.array([3], np.int32), np.array([9], np.int32),
      np.int32(4)))
  assert wire.encode(frame)[192:] == struct.pack("<ffiii", 1.5, -2.0, 3, 9, 4)


def test_decoding_copies_nothing_and_cannot_be_written_to():
  data = wire.encode(FRAMES[0])
  values = wire.decode(data).content.activations
  assert np.shares_memory(values, np.frombuffer(data, np.uint8))
  with pytest.raises(ValueError, match="read-only"):
    values[0] = 0


def test_large_frames_travel_in_pieces(monkeypatch):
  monkeypatch.setattr(wire, "CHUNK", 40)
  pieces = list(wire.chunks(FRAMES[0]))
  assert len(pieces) > 3 and max(map(len, pieces[1:])) == 40
  seen = []
  assert_same(wire.decode(wire.receive(iter(pieces), seen.append)), FRAMES[0])
  (header,) = seen
  assert header.shapes == ((4, 3, 2), (4,), (4,), ()) and header.frame.content is None


def test_a_frame_can_be_refused_before_memory_is_taken():
  def refuse(header):
    raise ValueError("no")

  def pieces():
    yield wire.encode(FRAMES[0])[:192]
    pytest.fail("the rest was asked for")

  with pytest.raises(ValueError, match="no"):
    wire.receive(pieces(), refuse)


@pytest.mark.parametrize("pieces, words", [
    ([], "ends after 0"), ([b""], "at least"),
    ([wire.encode(FRAMES[0])[:-1]], "ends after"),
    ([wire.encode(FRAMES[0]), b"x"], "goes on after"),
    ([wire.encode(FRAMES[-1]) + b"x"], "goes on after")])
def test_pieces_that_make_no_frame(pieces, words):
  with pytest.raises(ValueError, match=words):
    wire.receive(iter(pieces), lambda header: None)


def changed(place, layout, *values):
  data = bytearray(wire.encode(FRAMES[0]))
  struct.pack_into(layout, data, place, *values)
  return bytes(data)


@pytest.mark.parametrize("data, words", [
    (b"", "at least 40"), (b"GET / HTTP/1.1" + bytes(100), "begins with b'GET '"),
    (changed(4, "<B", 9), "version 9"), (changed(5, "<B", 77), "unknown channel 77"),
    (changed(5, "<B", 1), "'logits' with 4 arrays"), (changed(6, "<B", 200), "with 200 arrays"),
    (wire.encode(FRAMES[0])[:100], "its header alone has 192"),
    (wire.encode(FRAMES[0])[:-4], "its header announces"),
    (wire.encode(FRAMES[0]) + b"xx", "its header announces"),
    (changed(40, "<B", 5), "unknown dtype 5"), (changed(40, "<B", 1), "activations"),
    (changed(41, "<B", 9), "9 axes"), (changed(41, "<B", 2), "2 axes of sizes"),
    (changed(44, "<I", 0), "axes of sizes"),
    (changed(44, "<I", 2**32 - 1), "labels of channel 'activations'"),
    (changed(48, "<II", 2**32 - 1, 2**32 - 1), "its header announces"),
    (changed(76 + 4, "<I", 5), "labels of channel 'activations'")])
def test_what_is_no_frame_is_refused_in_one_line(data, words):
  with pytest.raises(ValueError, match=words) as error:
    wire.decode(data)
  assert "\n" not in str(error.value)


def test_random_damage_is_refused_or_decodes():
  whole = wire.encode(FRAMES[0])
  for _ in range(2000):
    data = bytearray(whole)
    data[RNG.integers(0, 192)] = RNG.integers(0, 256)
    try:
      content = wire.decode(bytes(data)).content
    except ValueError:
      continue
    assert content is not None and content.activations.nbytes <= len(whole)


@pytest.mark.parametrize("frame, words", [
    (Frame("images", SESSION, 0), "unknown channel 'images'"),
    (Frame("activations", SESSION, 0, reply()), "carries a Message, got Reply"),
    (Frame("receipt", SESSION, 0, reply()), "carries nothing, got Reply"),
    (Frame("logits", SESSION, 0, reply()._replace(values=np.zeros((4, 5)))), "float64"),
    (Frame("activations", SESSION, 0, message()._replace(labels=np.zeros(3, np.int32))), "labels"),
    (Frame("activations", SESSION, 0, message(shape=())), "2 to 8 axes")])
def test_only_what_a_channel_carries_is_encoded(frame, words):
  with pytest.raises(ValueError, match=words):
    wire.encode(frame)


def test_joining():
  data = wire.encode_join(Join(3, DIGEST, PUBLIC, NOISE, "secret", 2**40))
  token = wire.token_digest("secret")
  assert wire.decode_join(data) == (3, DIGEST, PUBLIC, NOISE, token, 2**40)
  assert token != wire.token_digest("") and b"secret" not in data
  assert wire.kept_digest(token) not in data and len(wire.kept_digest(token)) == 32
  joined = Joined(SESSION, 5, 9)
  assert wire.decode_joined(wire.encode_joined(joined)) == joined


@pytest.mark.parametrize("digests", [
    ("ab", PUBLIC, NOISE), (DIGEST, "", NOISE), (DIGEST, PUBLIC, NOISE + "00")])
def test_digests_are_32_bytes(digests):
  with pytest.raises(ValueError, match="device 4: config, public parts and noise are 32 bytes"):
    wire.encode_join(Join(4, *digests))


@pytest.mark.parametrize("data", [b"", b"x" * 148,
                                  wire.encode_join(Join(0, DIGEST, PUBLIC, NOISE)) + b"x"])
def test_what_is_no_request_to_join(data):
  with pytest.raises(ValueError, match="join request"):
    wire.decode_join(data)
  with pytest.raises(ValueError, match="answer to a join request"):
    wire.decode_joined(data)
