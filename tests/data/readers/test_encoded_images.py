"""Images that are decoded when asked for: the same pixels, a bounded number kept."""

import gc
import shutil
import threading

import numpy as np
import pytest

from fedjax_face.data.readers import encoded_images
from fedjax_face.data.readers.decode import decode_images
from fedjax_face.data.readers.encoded_images import EncodedImages, decode_later, is_on_demand
from fedjax_face.data.readers.folders import read_folder
from fedjax_face.data.readers.insightface_rec import read_rec
from tests.data.conftest import encoded
from tests.data.readers.test_insightface_rec import write_rec

FILES = {f"{kind}{level}": encoded(level, kind=kind)
         for kind in ("JPEG", "PNG") for level in range(0, 250, 50)}
DAMAGED = FILES["PNG0"][:41] + bytes(9) + FILES["PNG0"][50:]


def test_decoded_later_or_at_once_images_are_the_same():
  files = {**FILES, "cut": FILES["PNG50"][:-30], "empty": b"", "damaged": DAMAGED}
  def read(name):
    if name == "away":
      raise FileNotFoundError
    return files[name]
  names = [*files, "away"]
  late, rows, bad = decode_later("here", names, read, 6)
  whole, at_once, refused = decode_images("here", names, read, 6)
  np.testing.assert_array_equal(rows, at_once)
  np.testing.assert_array_equal(late[:], whole)
  assert [name for name, _ in bad] == [name for name, _ in refused] == [
      "cut", "empty", "damaged", "away"]


@pytest.mark.parametrize("kept", [0, 2, 5, 100])
def test_a_bounded_number_of_images_is_kept_and_the_pixels_are_right(kept):
  decoded = []
  def decode(row):
    decoded.append(row)
    return np.full((2, 2, 1), row, np.uint8)
  images = EncodedImages((20, 2, 2, 1), decode, str, kept_bytes=4 * kept)
  draws = np.random.default_rng(0)
  for _ in range(30):
    index = draws.integers(0, 20, 7)
    np.testing.assert_array_equal(images[index][:, 0, 0, 0], index)
  assert len(decoded) == 20 if kept == 100 else len(decoded) > 60
  del decoded[:]
  images[[3, 4]], images[[4, 3]]
  assert len(decoded) <= (4 if kept == 0 else 2)


def test_those_that_nobody_asked_for_longest_are_let_go():
  decoded = []
  def decode(row):
    decoded.append(row)
    return np.zeros((1, 1, 1), np.uint8)
  images = EncodedImages((9, 1, 1, 1), decode, str, kept_bytes=2)
  images[0], images[1], images[0], images[2], images[0], images[1]
  assert decoded == [0, 1, 2, 1]


def test_threads_may_ask_at_once():
  images, _, _ = decode_later("here", list(FILES), FILES.__getitem__, 6)
  images = EncodedImages(images.shape, images._decode, str, kept_bytes=3 * 108)
  expected, wrong = images[:].copy(), []
  def ask(seed):
    for index in np.random.default_rng(seed).integers(0, len(FILES), (40, 4)):
      if not np.array_equal(images[index], expected[index]):
        wrong.append(index)
  threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not wrong


def test_what_turns_out_broken_later_is_named():
  content = dict(FILES)
  images, _, bad = decode_later("here", list(content), content.__getitem__, 6)
  assert not bad
  content["PNG0"] = DAMAGED
  with pytest.raises(ValueError, match="here: PNG0: .*looked whole.*repair or remove it"):
    images[:]


def test_what_is_surely_not_whole():
  with pytest.raises(ValueError, match="no readable image among 1"):
    decode_later("here", ["a"], lambda name: b"", 6)
  with pytest.raises(ValueError, match="need a size"):
    decode_later("here", ["a"], FILES.__getitem__, None)


def test_records_on_demand_are_those_of_the_whole_file(tmp_path):
  write_rec(tmp_path, [(person, file) for person, file in enumerate(FILES.values())])
  late, report = read_rec(tmp_path, size=6, on_demand=True)
  whole, _ = read_rec(tmp_path, size=6)
  assert isinstance(late.images, EncodedImages) and report.skipped == ()
  np.testing.assert_array_equal(late.images[:], whole.images)
  np.testing.assert_array_equal(late.label, whole.label)


@pytest.fixture(params=["folder", "zip"])
def place(request, tmp_path):
  """The files as a person's folder each, or as an archive of them."""
  for name, content in FILES.items():
    (tmp_path / "people" / name).mkdir(parents=True)
    (tmp_path / "people" / name / "1").write_bytes(content)
  if request.param == "folder":
    return tmp_path / "people"
  return shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "people")


def test_a_folder_on_demand_is_what_it_is_in_memory(place):
  late, report = read_folder(place, size=6, on_demand=True)
  whole, at_once = read_folder(place, size=6)
  assert isinstance(late.images, EncodedImages) and report == at_once
  del report
  gc.collect()  # an archive stays open for as long as its images are used
  np.testing.assert_array_equal(late.images[::-1], whole.images[::-1])
  np.testing.assert_array_equal(late.identities, whole.identities)


def test_the_bytes_decide_where_nothing_is_asked_for():
  assert is_on_demand(True, 1, 1, 1) and not is_on_demand(False, 10**9, 112, 3)
  count = encoded_images.IN_MEMORY_BYTES // (112 * 112 * 3)
  assert not is_on_demand(None, count, 112, 3) and is_on_demand(None, count + 1, 112, 3)
  assert not is_on_demand(None, 10**9, None, 3)  # how large they are is known when they are decoded
