"""Bytes and the transcript, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.split.message import (
    Message,
    Reply,
    Transcript,
    message_bytes,
    reply_bytes,
    wire_bytes,
)


def message(batch=3, shape=(2, 5)):
  return Message(np.ones((batch, *shape), np.float32), np.zeros(batch, np.int32),
                 np.arange(batch, dtype=np.int32), np.int32(7))


def test_bytes_by_hand():
  # 3 examples of 10 floats, a label and a number, and the device: 3 * (40 + 8) + 4.
  assert wire_bytes(message()) == message_bytes((2, 5), 3) == 148
  reply = Reply(np.ones((3, 2, 5), np.float32), np.arange(3, dtype=np.int32), np.int32(7))
  assert wire_bytes(reply) == reply_bytes((2, 5), 3) == 136


def test_transcript_keeps_copies_in_order():
  transcript, sent = Transcript(), message()
  transcript.record(0, "to_server", "activations", sent)
  transcript.record(0, "to_device", "gradients", Reply(sent.activations, sent.example, sent.device))
  sent.activations[:] = 0
  assert [crossing.channel for crossing in transcript.crossings] == ["activations", "gradients"]
  assert (transcript.select("to_server")[0].content.activations == 1).all()
  assert transcript.select(channel="gradients") == transcript.select("to_device")
  assert (transcript.bytes("to_server"), transcript.bytes()) == (148, 148 + 136)


def test_search_is_for_rows():
  transcript = Transcript()
  transcript.record(0, "to_server", "activations", message())
  assert transcript.holds(np.ones((1, 10), np.float32))
  assert not transcript.holds(np.full((1, 10), 2, np.float32))


def test_unknown_direction():
  with pytest.raises(ValueError, match="direction 'up' is not one of to_server, to_device"):
    Transcript().record(0, "up", "activations", message())
