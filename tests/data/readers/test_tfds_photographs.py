import subprocess
import sys

import numpy as np
import pytest

from fedjax_face.data.photographs import DETECTION, GENDER, LANDMARKS, POSE, VISIBILITY
from fedjax_face.data.readers.tfds_photographs import (
  POINTS_OF_68,
  EncodedPhotographs,
  aflw_photographs,
  celeb_a_photographs,
  read_tfds_photographs,
  the300w_lp_photographs,
)
from fedjax_face.data.readers.tfds_source import prepare_command
from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES
from tests.data.conftest import encoded

FIVE = {"lefteye": (69, 109), "righteye": (106, 113), "nose": (77, 142), "leftmouth": (73, 152),
        "rightmouth": (108, 154)}


class Source:
  """Random access to records, as a TFDS data source."""

  def __init__(self, *records):
    self.records = records

  def __len__(self):
    return len(self.records)

  def __getitem__(self, row):
    return self.records[row]


def celebrity(value, male, number, image=None, **points):
  places = FIVE | points
  return {"image": encoded(value) if image is None else image,
          "landmarks": {f"{name}_{axis}": np.int64(at) for name, place in places.items()
                        for axis, at in zip("xy", place, strict=True)},
          "attributes": {"Male": np.bool_(male), "Young": np.bool_(True)},
          "identity": {"Identity_No": np.int64(number)}}


def test_celeb_a_by_hand():
  source = Source(celebrity(10, True, 900), celebrity(20, False, 7), celebrity(30, True, 900))
  faces, report = celeb_a_photographs(source)
  assert report.skipped == () and faces.num_faces == 3 and faces.num_landmarks == 21
  assert [faces.images[i][0, 0, 0] for i in range(3)] == [10, 20, 30]
  np.testing.assert_array_equal(faces.gender, [0, 1, 0])
  np.testing.assert_array_equal(faces.person, [1, 0, 1])
  assert faces.persons_known and faces.original is None
  for column, name in ((7, "lefteye"), (10, "righteye"), (14, "nose"), (17, "leftmouth"),
                       (19, "rightmouth")):
    np.testing.assert_array_equal(faces.landmarks[0, column], FIVE[name])
  assert np.flatnonzero(faces.visible[0]).tolist() == [7, 10, 14, 17, 19]
  # eyes 37 to the right and 4 down: side 2.56 sqrt(1385), centre (87.5, 111) + (-4, 37) / 2
  side = 2.56 * 1385**.5
  np.testing.assert_allclose(faces.box[0], [85.5 - side / 2, 129.5 - side / 2, side, side],
                             rtol=1e-5)
  np.testing.assert_array_equal(faces.known, [[True, True, False, False, True]] * 3)


class Damaged(Source):
  """A set of which the file is damaged at some records."""

  def __getitem__(self, row):
    if row in (1, 2):
      raise RuntimeError("hash mismatch\nin chunk")
    return super().__getitem__(row)


def test_records_that_are_cut_off_or_damaged_are_found_when_the_set_is_opened():
  whole = encoded(10, 64, "JPEG")
  source = Damaged(*(celebrity(0, True, i, image=whole) for i in range(3)),
                   celebrity(0, True, 3, image=whole[:-20]),
                   celebrity(0, True, 4, image=encoded(9, 64)[:-40]))
  with pytest.warns(UserWarning, match=r"skipped 4: record 1: record cannot be read \(hash "
                    r"mismatch in chunk\); .*record 3: broken image"):
    faces, report = celeb_a_photographs(source)
  assert faces.num_faces == 1 and dict(report.skipped)["record 4"].startswith("broken image")


def test_celeb_a_skips_what_cannot_be_used():
  source = Source(celebrity(10, True, 1), celebrity(0, True, 2, image=b"junk"),
                  celebrity(0, True, 3, righteye=FIVE["lefteye"]), celebrity(40, False, 4))
  with pytest.warns(UserWarning, match="record 1: not an image; record 2: both eyes in one place"):
    faces, report = celeb_a_photographs(source)
  assert [faces.images[i][0, 0, 0] for i in range(2)] == [10, 40] and len(report.skipped) == 2
  with pytest.raises(ValueError, match=r"2 bad file\(s\), first record 1"):
    celeb_a_photographs(source, on_bad="refuse")
  assert len(celeb_a_photographs(source, limit=1)[0]) == 1
  with pytest.warns(UserWarning), pytest.raises(ValueError, match="no usable record among 1"):
    celeb_a_photographs(Source(source[1]))


def view(value, shape, pose=(.1, -.4, .2), shift=0., image=None):
  """A record of 300W-LP whose point i is at (100 + i + shift, 200 + 2 i)."""
  points = np.stack([100 + np.arange(68.) + shift, 200 + 2 * np.arange(68.)], -1)
  return {"image": encoded(value, 450, "JPEG") if image is None else image,
          "landmarks_3d": (points / 450).astype(np.float32),
          "pose_params": np.array([*pose, 1, 2, 3, .001], np.float32),
          "shape_params": np.full(199, shape, np.float32)}


def test_300w_lp_by_hand():
  source = Source(view(10, .5), view(20, -1.), view(30, .5, pose=(.1, 1.8, .2)))
  faces, _ = the300w_lp_photographs(source)
  np.testing.assert_allclose(faces.pose[0], [.2, .1, -.4], rtol=1e-6)      # roll, pitch, yaw
  np.testing.assert_array_equal(faces.known[:, POSE], [True, True, False])
  np.testing.assert_array_equal(faces.person, [1, 0, 1])
  np.testing.assert_array_equal(faces.original, faces.person)
  assert not faces.persons_known
  assert faces.known[:, [DETECTION, LANDMARKS]].all()
  assert not faces.known[:, [VISIBILITY, GENDER]].any()
  places = {"left_brow_left_corner": 17, "right_eye_centre": 44.5, "mouth_centre": 64,
            "chin_centre": 8, "nose_centre": 30}
  for name, point in places.items():
    np.testing.assert_allclose(faces.landmarks[0, LANDMARK_NAMES.index(name)],
                               [100 + point, 200 + 2 * point], rtol=1e-5)
  hidden = [LANDMARK_NAMES[i] for i in np.flatnonzero(~faces.visible[0])]
  assert hidden == ["left_ear", "nose_left", "nose_right", "right_ear"]
  # points from (100, 200) to (167, 334): side 1.15 * 134, middle 133.5, lower edge 334
  np.testing.assert_allclose(faces.box[0], [133.5 - 77.05, 334 - 154.1, 154.1, 154.1], rtol=1e-5)


def test_300w_lp_skips_what_cannot_be_used():
  bad = view(0, 0.)
  bad["landmarks_3d"][3, 0] = np.nan
  point = view(0, 0.)
  point["landmarks_3d"][:] = .5
  source = Source(view(10, 1.), bad, point, view(0, 0., shift=500.), view(50, 2.))
  with pytest.warns(UserWarning) as said:
    faces, report = the300w_lp_photographs(source)
  assert len(said) == 1
  assert [reason for _, reason in report.skipped] == [
      "a landmark or an angle is not a finite number", "all landmarks are on one line",
      "the face is outside the image"]
  assert len(faces) == 2


def test_the_points_of_68_agree_with_the_annotated_21(real_data):
  table = np.load(real_data("aflw2000_3d", "annotations.npz"))
  of_68, of_21 = table["pt3d_68"][:, :2].transpose(0, 2, 1), table["pt2d_21"].transpose(0, 2, 1)
  side = (table["bbox_from_pt68"][:, 2:] - table["bbox_from_pt68"][:, :2]).max(1)
  assert set(POINTS_OF_68) == set(range(21)) - {12, 13, 15, 16}
  for column, points in POINTS_OF_68.items():
    seen = of_21[:, column, 0] >= 0
    error = np.linalg.norm(of_68[:, points].mean(1) - of_21[:, column], axis=-1) / side
    assert np.median(error[seen]) < .03, LANDMARK_NAMES[column]


def test_images_stay_encoded_until_asked_for():
  asked = []

  def read(number):
    asked.append(number)
    return b"junk" if number == 1 else encoded(10 * number)

  images = EncodedPhotographs(["a", "b", "c"], read)
  assert len(images) == 3 and asked == []
  height, width = images[2].shape[:2]
  assert images.size_of(2) == (width, height)
  asked.clear()
  assert images[2][0, 0, 0] == 20 and images[-1][0, 0, 0] == 20 and asked == [2, 2]
  with pytest.raises(ValueError, match="b: not an image"):
    images[1]
  with pytest.raises(IndexError):
    images[3]
  some = images.select(np.array([2, 0]))
  assert [image[0, 0, 0] for image in some] == [20, 0]


def test_aflw_as_built():
  def record(count):
    return {"image": encoded(5), "faces": {
        "person": np.arange(count, dtype=np.int32), "box": np.ones((count, 4), np.float32),
        "landmarks": np.zeros((count, 21, 2), np.float32), "visible": np.ones((count, 21), bool),
        "pose": np.zeros((count, 3), np.float32), "gender": np.ones(count, np.int32),
        "known": np.ones((count, 5), bool)}}

  faces, _ = aflw_photographs(Source(record(2), record(1), record(3)))
  np.testing.assert_array_equal(faces.image, [0, 0, 1, 2, 2, 2])
  assert faces.num_landmarks == 21 and not faces.persons_known


@pytest.mark.parametrize("name", ["celeb_a", "the300w_lp", "aflw"])
def test_a_set_that_is_not_prepared_is_named(tmp_path, name):
  pytest.importorskip("tensorflow_datasets")
  with pytest.raises(FileNotFoundError, match=f"{name} is not prepared") as error:
    read_tfds_photographs(name, data_dir=tmp_path)
  how = "aflw_builder.prepare(" if name == "aflw" else prepare_command(name, tmp_path)
  assert how in str(error.value) and "\n" not in str(error.value)


def test_another_set_is_refused(tmp_path):
  with pytest.raises(ValueError, match="lfw is no TFDS data set of photographs.*celeb_a"):
    read_tfds_photographs("lfw", data_dir=tmp_path)


def test_nothing_heavy_is_imported():
  code = ("import sys, fedjax_face.data.readers.tfds_photographs; "
          "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)")
  subprocess.run([sys.executable, "-c", code], check=True)
