import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from fedjax_face.data.readers import npz
from fedjax_face.data.readers.npz import read_npz

ARRAYS = {"x": np.arange(6).reshape(2, 3), "names": np.array(["a", "b"]),
          "columns": np.asfortranarray(np.eye(3)), "empty": np.zeros((0, 4), np.float32)}


def header(shape, dtype="|u1"):
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(
      stream, {"descr": dtype, "fortran_order": False, "shape": shape})
  return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_as_numpy_reads_them(tmp_path, save):
  save(tmp_path / "a.npz", **ARRAYS)
  found = read_npz(tmp_path / "a.npz", tuple(ARRAYS))
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array)
    assert found[name].dtype == array.dtype


@pytest.mark.parametrize("content, message", [
    (header((10**12,)), r"x.npy says \[1000000000000\] of uint8 but has another number of bytes"),
    (header((2**62, 2**62)), "but has another number"), (header((4,)) + b"12345", "another number"),
    (header((1,), "|O") + b"12345678", "allow_pickle"), (b"junk", ".+"), (b"", ".+")])
def test_an_array_takes_no_more_room_than_it_has_bytes(tmp_path, content, message):
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    archive.writestr("x.npy", content)
  with pytest.raises(ValueError, match=message) as error:
    read_npz(tmp_path / "a.npz", ["x"])
  assert "\n" not in str(error.value)


def test_an_array_that_unpacks_to_more_than_the_cap_is_refused(tmp_path, monkeypatch):
  np.savez_compressed(tmp_path / "a.npz", x=np.zeros(2**16, np.uint8))
  monkeypatch.setattr(npz, "MOST_ARRAY_BYTES", 2**16)
  with pytest.raises(ValueError, match="x.npy has more than 65,536 bytes when unpacked"):
    read_npz(tmp_path / "a.npz", ["x"])
  with pytest.raises(ValueError, match="y.npy"):
    read_npz(tmp_path / "a.npz", ["y"])


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / "a.npz")
  with pytest.raises(ValueError, match="no regular file"):
    read_npz(tmp_path / "a.npz", ["x"])


def test_an_array_that_unpacks_to_more_than_it_says_takes_no_room(tmp_path):
  said, real = 60, 32 << 20
  with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("x.npy", header((said,)) + bytes(real))
  size = lambda count: (len(header((said,))) + count).to_bytes(4, "little")
  place = tmp_path / "a.npz"
  place.write_bytes(place.read_bytes().replace(size(real), size(said)))
  tracemalloc.start()
  with pytest.raises(ValueError, match="Bad CRC-32"):
    read_npz(place, ["x"])
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


def test_an_array_of_any_number_of_nothings_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    archive.writestr("x.npy", header((10**12,), "<U0"))
  with pytest.raises(ValueError, match="another number of bytes"):
    read_npz(tmp_path / "a.npz", ["x"])
