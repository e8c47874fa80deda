import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from fedjax_face.data.photographs import GENDER, POSE
from fedjax_face.data.readers.face_tasks import (
  read_aflw2000,
  read_lfw_aligned,
  read_lfw_originals,
  read_utkface,
)
from fedjax_face.data.regions.cutting import RegionOptions, extract_regions, mixture
from fedjax_face.data.regions.proposals import random_proposer
from fedjax_face.draws import Draws
from tests.data.conftest import encoded

HEADER = "file,person,gender,left_eye_x,left_eye_y,right_eye_x,right_eye_y,nose_x,nose_y," \
         "mouth_left_x,mouth_left_y,mouth_right_x,mouth_right_y\n"


def write_zip(path, files):
  with zipfile.ZipFile(path, "w") as archive:
    for name, content in files.items():
      archive.writestr(name, content)


def write_lfw(root, rows):
  (root / "images.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
  write_zip(root / "lfw-250x250-originals-600.zip",
            {f"lfw/{p}/{p}_0001.jpg": encoded(10, 100) for p in ("Ann", "Bo")})


def test_lfw_by_hand(tmp_path):
  write_lfw(tmp_path, ["Bo_0001.jpg,Bo,,40,50,60,50,50,60,42,70,58,71",
                       "Ann_0001.jpg,Ann,F,30,30,70,30,50,50,35,65,66,65"])
  faces, report = read_lfw_originals(tmp_path)
  assert [name[-12:] for name in report.files] == ["Ann_0001.jpg", "/Bo_0001.jpg"]
  np.testing.assert_array_equal(faces.person, [0, 1])
  assert faces.persons_known
  np.testing.assert_allclose(faces.box[1], [24.4, 34.4, 51.2, 51.2], rtol=1e-5)
  assert np.flatnonzero(faces.visible[1]).tolist() == [7, 10, 14, 17, 19]
  np.testing.assert_array_equal(faces.landmarks[1, 19], [58, 71])
  np.testing.assert_array_equal(faces.known, [[True, True, False, False, True],
                                              [True, True, False, False, False]])
  assert faces.gender[0] == 1


def test_lfw_bad_tables(tmp_path):
  with pytest.raises(FileNotFoundError, match="images.csv"):
    read_lfw_originals(tmp_path)
  write_lfw(tmp_path, ["Ann_0001.jpg,Ann,F,30,30,70,30,50,50,35,65,66,65"])
  with pytest.warns(UserWarning, match="Bo_0001.jpg: no annotation"):
    assert len(read_lfw_originals(tmp_path)[0]) == 1
  with pytest.raises(ValueError, match="no annotation"):
    read_lfw_originals(tmp_path, on_bad="refuse")
  write_lfw(tmp_path, [f"{p}_0001.jpg,{p},F,x,30,70,30,50,50,35,65,66,65" for p in ("Ann", "Bo")])
  with pytest.raises(ValueError, match="left_eye_x or left_eye_y has no number"):
    read_lfw_originals(tmp_path)
  (tmp_path / "images.csv").write_text("file,person\n")
  with pytest.raises(ValueError, match="no column gender"):
    read_lfw_originals(tmp_path)


def write_aligned(root, names=("Ann_0003", "Cy_0001", "Di_0002"), like=()):
  """Aligned pictures of their own noise, those of `like` all the same."""
  with zipfile.ZipFile(root / "lfw-112x112.zip", "w") as archive:
    for number, name in enumerate(names):
      rng = np.random.default_rng(99 if name in like else number)
      picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8))
      stream = io.BytesIO()
      picture.save(stream, "png")
      archive.writestr(f"lfw-112x112/{name[:-5]}/{name}.jpg", stream.getvalue())


def aligned_table(*rows):
  return [f"{row},,,,,,,,,," for row in rows]


ALIGNED = aligned_table("Cy_0001.jpg,Cy,F", "Di_0002.jpg,Di,", "Ann_0003.jpg,Ann,M",
                        "Bo_0001.jpg,Bo,M", "Ann_0001.jpg,Ann,M")
ORIGINALS = "lfw-250x250-originals-600.zip"


def test_aligned_lfw_by_hand(tmp_path):
  with pytest.raises(FileNotFoundError, match="images.csv"):
    read_lfw_aligned(tmp_path)
  write_lfw(tmp_path, ALIGNED)
  write_aligned(tmp_path, ("Ann_0003", "Bo_0001", "Cy_0001", "Di_0002"))
  everybody, _ = read_lfw_aligned(tmp_path)
  np.testing.assert_array_equal(everybody.gender[:3], [0, 0, 1])
  others, report = read_lfw_aligned(tmp_path, not_in=ORIGINALS)
  assert [name[-11:] for name in report.files] == ["Cy_0001.jpg", "Di_0002.jpg"]
  np.testing.assert_array_equal(others.box, [[0, 0, 30, 40]] * 2)
  np.testing.assert_array_equal(others.person, [0, 1])
  np.testing.assert_array_equal(others.known, [[True, False, False, False, True],
                                               [True, False, False, False, False]])
  assert others.persons_known and others.gender[0] == 1 and not report.skipped
  assert len(read_lfw_aligned(tmp_path, limit=1)[0]) == 1
  with pytest.raises(ValueError, match="everybody in it is in lfw-112x112.zip"):
    read_lfw_aligned(tmp_path, not_in="lfw-112x112.zip")


def test_aligned_lfw_with_a_bad_picture_is_refused_where_asked(tmp_path):
  write_lfw(tmp_path, ALIGNED)
  write_aligned(tmp_path)
  with zipfile.ZipFile(tmp_path / "lfw-112x112.zip", "a") as archive:
    archive.writestr("lfw-112x112/Bo/Bo_0001.jpg", b"no picture")
  with pytest.raises(ValueError, match="Bo_0001.jpg"):
    read_lfw_aligned(tmp_path, on_bad="refuse")


def test_a_person_under_two_names_is_not_among_the_others(tmp_path):
  write_lfw(tmp_path, ALIGNED)
  write_aligned(tmp_path, ("Ann_0003", "Bo_0001", "Cy_0001", "Di_0002"),
                like=("Bo_0001", "Cy_0001"))
  others, report = read_lfw_aligned(tmp_path, not_in=ORIGINALS)
  assert [name[-11:] for name in report.files] == ["Di_0002.jpg"] and len(others) == 1
  assert report.skipped == (("Cy", f"a picture like one of {ORIGINALS}"),)


@pytest.mark.parametrize("originals, message", [
    ("lfw/Eve_0001.jpg", "Eve_0001.jpg is nobody in images.csv"),
    ("lfw/Eve/Eve_0002.jpg", "Eve is not in lfw-112x112.zip"),
])
def test_people_who_cannot_be_told_apart_are_refused(tmp_path, originals, message):
  write_lfw(tmp_path, [*ALIGNED, *aligned_table("Eve_0002.jpg,Eve,F")])
  write_aligned(tmp_path)
  write_zip(tmp_path / ORIGINALS, {originals: encoded(10, 100)})
  with pytest.raises(ValueError, match=message):
    read_lfw_aligned(tmp_path, not_in=ORIGINALS)


def test_layouts_and_folders_of_the_originals_do_not_matter(tmp_path):
  write_lfw(tmp_path, ALIGNED)
  write_aligned(tmp_path)
  for file in ("lfw/Ann_0001.jpg", "lfw/Ann/jpg/Ann_0001.jpg", "lfw/ann/Ann_0001.jpg"):
    write_zip(tmp_path / ORIGINALS, {file: encoded(10, 100), "lfw/Cy/.DS_Store": b"x"})
    _, report = read_lfw_aligned(tmp_path, not_in=ORIGINALS)
    assert [name[-11:] for name in report.files] == ["Cy_0001.jpg", "Di_0002.jpg"], file


def test_an_aligned_picture_in_anothers_folder_is_refused(tmp_path):
  write_lfw(tmp_path, aligned_table("Ann_0003.jpg,Ann,M", "Cy_0001.jpg,Ann,M", "Di_0002.jpg,Di,M"))
  write_aligned(tmp_path)
  with pytest.raises(ValueError, match="Cy_0001.jpg is Ann in images.csv; expected Cy"):
    read_lfw_aligned(tmp_path)


def test_aflw2000_by_hand(tmp_path):
  points = np.full((2, 2, 21), 40., np.float32)
  points[1, :, 12] = (-1, 452)
  tight = np.array([[20, 30, 60, 50], [20, 30, 40, 70]], np.float32)
  np.savez(tmp_path / "annotations.npz", name=np.array(["a", "b"]), pt2d_21=points,
           pitch_yaw_roll_deg=np.array([[10, 20, 30], [10, 120, 30]], np.float32),
           bbox_from_pt68=tight)
  write_zip(tmp_path / "AFLW2000_subset.zip",
            {"AFLW2000/a.jpg": encoded(10, 100), "AFLW2000/b.jpg": encoded(20, 100),
             "AFLW2000/a.mat": b"not read"})
  faces, _ = read_aflw2000(tmp_path)
  np.testing.assert_allclose(np.rad2deg(faces.pose[0]), [30, 10, 20], rtol=1e-5)
  np.testing.assert_array_equal(faces.known[:, POSE], [True, False])
  assert not faces.known[:, GENDER].any()
  np.testing.assert_allclose(faces.box, [[17, 4, 46, 46], [7, 24, 46, 46]], rtol=1e-6)
  np.testing.assert_array_equal(faces.visible[1], np.arange(21) != 12)
  assert (faces.landmarks[1, 12] == [30, 47]).all()
  assert not faces.persons_known
  (tmp_path / "annotations.npz").write_bytes(b"PK\x03\x04 cut off")
  with pytest.raises(ValueError, match="damaged annotations"):
    read_aflw2000(tmp_path)


def test_utkface_by_hand(tmp_path):
  write_zip(tmp_path / "utk.zip", {"UTKFace/30_1_2_2017.jpg.chip.jpg": encoded(1, 20),
                                   "UTKFace/31_0_2_2017.jpg.chip.jpg": encoded(2, 20),
                                   "UTKFace/32_3.jpg": encoded(3, 20)})
  with pytest.warns(UserWarning, match="does not tell a gender"):
    faces, report = read_utkface(tmp_path / "utk.zip")
  np.testing.assert_array_equal(faces.gender, [1, 0])
  np.testing.assert_array_equal(faces.box, [[0, 0, 20, 20]] * 2)
  np.testing.assert_array_equal(faces.known, [[True, False, False, False, True]] * 2)
  assert len(report.files) == 2 and len(report.skipped) == 1
  assert not faces.persons_known


def test_real_sets_mix(real_data):
  aflw, _ = read_aflw2000(real_data("aflw2000_3d"), limit=6)
  lfw, _ = read_lfw_originals(real_data("lfw", "images.csv").parent, limit=6)
  utkface, _ = read_utkface(real_data("utkface", "UTKFace-1000.zip"), limit=6)
  assert [source.images.shape[1] for source in (aflw, lfw, utkface)] == [450, 250, 200]
  options = RegionOptions(size=32, positives_per_face=2, negatives_per_image=2,
                          jittered_per_face=2)
  regions = mixture([extract_regions(source, random_proposer(40), options,
                                     Draws.of(0)) for source in (aflw, lfw, utkface)])
  assert regions.images.shape[1:] == (32, 32, 3) and regions.face.sum() == 36
  assert len(set(regions.image)) == 18
  assert (regions.known[regions.face == 1].mean(0) > [.99, .6, .3, .1, .3]).all()
  np.testing.assert_array_equal(regions.known[regions.face == 0].mean(0), [1, 0, 0, 0, 0])


def test_other_people_of_lfw_are_others(real_data):
  root = real_data("lfw", "images.csv").parent
  others, report = read_lfw_aligned(root, not_in=ORIGINALS, limit=2000)
  _, originals = read_lfw_originals(root)
  people = [{name.split("/")[-2] for name in read.files} for read in (report, originals)]
  assert len(others) == 2000 and len(people[1]) == 331 and not people[0] & people[1]
  assert [name for name, _ in report.skipped] == ["Andrew_Gilligan"]  # Andrew_Caldecott's picture


def test_aflw2000_landmarks_are_in_their_boxes(real_data):
  faces, _ = read_aflw2000(real_data("aflw2000_3d"))
  assert len(faces) == 78 and faces.known[:, POSE].sum() >= 70
  relative = (faces.landmarks - faces.box[:, None, :2]) / faces.box[:, None, 2:]
  inside = ((relative > -.1) & (relative < 1.1)).all(-1)
  assert inside[faces.visible].mean() > .95
