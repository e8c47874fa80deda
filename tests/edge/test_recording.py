"""What crossed, on disk."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.recording import Recorder, read_transcript
from fedjax_face.edge.wire import Frame
from tests.edge.toys import gradients, message

SESSION = bytes(16)


def write(path, *entries):
  recorder = Recorder(path)
  for direction, frame in entries:
    recorder.write(direction, wire.encode(frame))
  recorder.close()


def test_there_and_back_and_on_after_a_kill(tmp_path):
  path = tmp_path / "deep/transcript"
  write(path, ("to_server", Frame("activations", SESSION, 4, message(0.5))),
        ("to_device", Frame("receipt", SESSION, 4, None, 1.0)))
  with open(path, "ab") as file:
    file.write(path.read_bytes()[:50])
  write(path, ("to_device", Frame("logits", SESSION, 5, gradients(2.0))))
  first, second = read_transcript(path).crossings
  assert (first.step, first.direction, first.channel) == (4, "to_server", "activations")
  assert (second.step, second.direction, second.channel) == (5, "to_device", "logits")
  np.testing.assert_array_equal(first.content.activations, message(0.5).activations)
  np.testing.assert_array_equal(second.content.values, gradients(2.0).values)


@pytest.mark.parametrize("content", [b"hello", b"a page of text that is no transcript" * 9,
                                     bytes([1, 3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3])])
def test_another_file_is_left_alone(tmp_path, content):
  path = tmp_path / "notes"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="is no transcript"):
    Recorder(path)
  assert path.read_bytes() == content


def test_a_folder_is_one_line(tmp_path):
  with pytest.raises(OSError, match="transcript .*: Is a directory"):
    Recorder(tmp_path)


def test_a_full_disk_is_one_line(tmp_path):
  recorder = Recorder(tmp_path / "transcript")
  recorder.close()
  recorder._file = open("/dev/full", "ab")  # noqa: SIM115
  with pytest.raises(OSError, match="transcript .* not written: No space left") as error:
    recorder.write("to_server", wire.encode(Frame("receipt", SESSION, 0)))
  recorder.close()
  assert "\n" not in str(error.value)
