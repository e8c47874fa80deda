import os
import pickle
import tracemalloc

import numpy as np
import pytest

from fedjax_face.data.readers.insightface_bin import read_insightface_bin, write_insightface_bin
from tests.data.conftest import encoded

IMAGES = [encoded(i, kind="JPEG") for i in range(0, 240, 10)]
SAME = [bool(i % 3) for i in range(12)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("truth", [list, np.array, lambda s: [np.bool_(x) for x in s]])
def test_reads_what_others_write(tmp_path, protocol, truth):
  path = tmp_path / "x.bin"
  same = truth(SAME)
  path.write_bytes(pickle.dumps((IMAGES, list(same)), protocol=protocol))
  images, pairs, report = read_insightface_bin(path)
  assert images.shape == (24, 8, 8, 3) and report.skipped == ()
  np.testing.assert_array_equal(pairs.same, SAME)
  np.testing.assert_array_equal(pairs.first, np.arange(0, 24, 2))
  np.testing.assert_array_equal(pairs.second, np.arange(1, 24, 2))


def test_round_trip_in_ten_folds_of_file_order(tmp_path):
  path = tmp_path / "x.bin"
  write_insightface_bin(path, [encoded(7)] * 40, [True, False] * 10)
  images, pairs, _ = read_insightface_bin(path, size=4, channels=1)
  assert images.shape == (40, 4, 4, 1) and (images == 7).all()
  np.testing.assert_array_equal(pairs.fold, np.repeat(np.arange(1, 11), 2))
  with pytest.raises(ValueError, match="3 images for 2 pairs"):
    write_insightface_bin(path, IMAGES[:3], [True, False])


class Hostile:

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.system, (f"touch {self.marker}",)


def test_hostile_pickle_runs_nothing(tmp_path):
  path, marker = tmp_path / "x.bin", tmp_path / "marker"
  path.write_bytes(pickle.dumps((IMAGES[:2], [Hostile(marker)])))
  with pytest.raises(ValueError, match="system is not allowed in a .bin"):
    read_insightface_bin(path)
  assert not marker.exists()


@pytest.mark.parametrize("content", [
    b"junk", pickle.dumps((IMAGES, SAME))[:-50], pickle.dumps([1, 2, 3]), pickle.dumps(7),
    pickle.dumps((["text", "text"], [True])), pickle.dumps((IMAGES[:2], ["yes"])),
    pickle.dumps((IMAGES[:2], [2])), pickle.dumps((IMAGES[:3], [True])), pickle.dumps(([], [])),
    pickle.dumps((IMAGES[:2], [np.float64(1)])), pickle.dumps((IMAGES[:2], [np.bool_])),
    pickle.dumps((IMAGES[:2], np.array([True])))])
def test_other_content_is_refused(tmp_path, content):
  (tmp_path / "x.bin").write_bytes(content)
  with pytest.raises(ValueError, match="x.bin: "):
    read_insightface_bin(tmp_path / "x.bin")


@pytest.mark.parametrize("content, message", [
    (b"\x80\x02N" + b"r" + (2**28).to_bytes(4, "little") + b".", "a memo of 268,435,456 after"),
    (b"Np268435456\n.", "a memo of 268,435,456 after"),
    (b"\x80\x04\x8e" + (2**31).to_bytes(8, "little") + b".", "expected 2147483648 bytes"),
    (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "bytes in a bytearray8"),
    (b"\x80\x04\x95" + (2**60).to_bytes(8, "little") + b"N.", "")])
def test_a_short_file_has_no_room_made_for_what_it_does_not_hold(tmp_path, content, message):
  path = tmp_path / "x.bin"
  path.write_bytes(content)
  tracemalloc.start()
  with pytest.raises(ValueError, match=f"x.bin: not an InsightFace .bin .*{message}") as error:
    read_insightface_bin(path)
  assert tracemalloc.get_traced_memory()[1] < 2**22 and "\n" not in str(error.value)
  tracemalloc.stop()


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "x.bin")
  with pytest.raises(ValueError, match="no regular file"):
    read_insightface_bin(tmp_path / "x.bin")
  with pytest.raises(ValueError, match="path is empty"):
    read_insightface_bin("")


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="expected an InsightFace .bin"):
    read_insightface_bin(tmp_path / "x.bin")


def test_a_pair_with_a_broken_image_is_refused_or_left_out(tmp_path):
  path = tmp_path / "x.bin"
  write_insightface_bin(path, [encoded(1), encoded(2), encoded(3), b"junk", encoded(5), encoded(6)],
                        [True, True, False])
  with pytest.raises(ValueError, match=r"first image 3 \(pair 1\): not an image"):
    read_insightface_bin(path)
  with pytest.warns(UserWarning, match="skipped 1"):
    images, pairs, report = read_insightface_bin(path, on_bad="skip")
  np.testing.assert_array_equal(images[pairs.first, 0, 0, 0], [1, 5])
  np.testing.assert_array_equal(images[pairs.second, 0, 0, 0], [2, 6])
  np.testing.assert_array_equal(pairs.same, [True, False])
  np.testing.assert_array_equal(pairs.fold, [1, 7])
  assert len(report.skipped) == 1
