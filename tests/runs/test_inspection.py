"""What an inspection finds: the same picture twice, on both sides, under two names."""

import dataclasses
import types

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data import duplicates
from fedjax_face.runs import inspection
from fedjax_face.runs.inspection import inspect


def noise(count, seed=0, size=12):
  return np.random.default_rng(seed).integers(0, 256, (count, size, size, 1), np.uint8)


def sources(**changed):
  sets = {"train": noise(6), "evaluation": noise(4, 1), "public": noise(4, 2), **changed}
  return ff.Sources(**{role: ff.faces(images, [f"{role} {row // 2}" for row in range(len(images))],
                                      name=role) for role, images in sets.items()})


def test_sets_without_a_picture_twice_are_counted_and_nothing_is_warned_of():
  found = inspect(sources())
  assert found.twice == [] and not any("WARNING" in line for line in found.lines)
  assert found.counts["train"][1:5] == (6, 3, 3, (12, 12, 1))
  assert found.counts["train"].per_person == (2, 2, 2, 2, 2)
  assert found.lines[0].startswith("train: train: 6 images 12x12x1 of 3 people; images a person: 2")


@pytest.mark.parametrize("role,words", [("public", "is public too"), ("evaluation", "judged by"),
                                        ("validation", "judged by")])
def test_a_private_picture_in_another_set_is_warned_of_first(role, words):
  other = noise(4, 5)
  other[3] = np.clip(noise(6)[1].astype(int) + 3, 0, 255)  # brighter, so that no digest is the same
  found = inspect(sources(**{role: other}))
  (pair,) = found.across
  assert {pair.first, pair.second} == {("train", 1), (role, 3)} and pair.correlation > .99
  assert found.lines[0].startswith("WARNING: 1 picture(s) of the private") and words in found.lines[
      0] and "train 0" in found.lines[0]


@pytest.mark.parametrize("role", ["evaluation", "validation"])
def test_a_public_picture_that_judges_is_warned_of(role):
  found = inspect(sources(**{role: noise(4, 2)}))
  assert len(found.across) == 4 and found.lines[0].startswith(
      "WARNING: 4 picture(s) are public and in what is judged by")


@pytest.mark.parametrize("size", [28, 32, 50, 64, 100])
def test_the_size_of_images_makes_them_no_more_alike(size):
  """Cells of the thumbnail are of one or two pixels at 32: neither counts more."""
  bright = np.random.default_rng(0).integers(200, 256, (8, size, size, 1), np.uint8)
  small = duplicates.thumbnails(bright)
  assert np.triu(small @ small.T, 1).max() < .3
  assert not duplicates.thumbnails(np.full((2, size, size, 3), 77, np.uint8)).any()


def test_a_picture_under_two_people_is_not_one_that_is_twice_under_one():
  images = noise(6)
  images[3], images[5] = images[0], images[4]
  found = inspect(sources(train=images))
  (two,) = found.two_names
  assert two.people == ("train 0", "train 1") and not found.across and len(found.twice) == 2
  assert "under two people" in found.lines[0] and "twice under one person" in found.lines[1]


def test_flat_pictures_are_counted_and_like_no_other():
  images = noise(6)
  images[[1, 2]] = [[[[9]]], [[[70]]]]
  found = inspect(sources(train=images))
  assert found.twice == [] and found.counts["train"].flat == 2
  assert "train: 2 picture(s) of a single shade" in found.lines


def test_a_model_names_people_who_may_be_one():
  class Model:
    def embed(self, images):
      return np.stack([np.cos(images[:, 0, 0, 0] / 9.), np.sin(images[:, 0, 0, 0] / 9.)], 1)
  images = noise(6)
  images[:, 0, 0, 0] = [0, 0, 20, 20, 1, 1]
  found = inspect(sources(train=images), model=Model())
  nearest = max((pair for pair in found.alike if pair.role == "train"),
                key=lambda pair: pair.similarity)
  assert nearest.people == ("train 0", "train 2")


def test_people_are_paired_block_by_block_nearest_first(monkeypatch):
  monkeypatch.setattr(inspection, "_AT_ONCE", 3)
  rows = np.random.default_rng(0).standard_normal((11, 4)).astype(np.float32)
  near = rows @ rows.T
  every = sorted(((near[i, j], i, j) for i in range(11) for j in range(i + 1, 11)), reverse=True)
  found = inspection._nearest(rows)
  assert [pair[1:] for pair in found] == [pair[1:] for pair in every[:10]]
  assert inspection._nearest(rows[:1]) == [] and len(inspection._nearest(-rows[:2])) == 1


def test_names_of_sets_are_on_one_line_of_any_encoding(tmp_path):
  named = dataclasses.replace(ff.faces(noise(2), ["a", "b"]), name="a\nb\udce9")
  found = inspect(ff.Sources(named, ff.faces(noise(2, 3), ["c", "d"])), out=tmp_path / "p.html")
  assert all(line.isprintable() for line in found.lines)


def test_a_set_that_is_not_split_is_refused():
  with pytest.raises(ValueError, match=r"data is FaceDataset; expected .* has `split`"):
    inspect(ff.faces(noise(2), ["a", "b"]))


def test_the_page_holds_the_findings_and_escapes_names(tmp_path):
  images = noise(2)
  images[1] = images[0]
  hostile = ff.faces(images, ["<script>", "a\nb"], name="mine")
  found = inspect(ff.Sources(hostile, ff.faces(noise(2, 3), ["c", "d"])), out=tmp_path / "x/p.html")
  page = (tmp_path / "x/p.html").read_text()
  assert (tmp_path / "x/p.html").stat().st_mode & 0o077 == 0  # photographs are on it
  assert found.page == found._repr_html_() == page and "<script>" not in page
  assert page.count("<img") == 3 and "&lt;script&gt;" in page and "a\\nb" in page
  assert all("\n" not in line for line in found.lines)


def test_photographs_of_face_tasks_are_refused():
  with pytest.raises(ValueError, match="looks at sets of faces"):
    inspect(types.SimpleNamespace(sources=types.SimpleNamespace(train=object())))


@pytest.mark.parametrize("copies", [2, 40])
def test_all_copies_are_paired_with_the_first(copies):
  images = np.concatenate([noise(3), np.repeat(noise(1, 9), copies, 0)])
  pairs, near = duplicates.same_pictures(duplicates.thumbnails(images))
  assert pairs.tolist() == [[3, row] for row in range(4, 3 + copies)] and (near > .999).all()


def test_near_pairs_are_found_among_many():
  rows = np.random.default_rng(0).standard_normal((3000, 144)).astype(np.float32)
  rows[1500:] = rows[:1500] + .2 * rows[1500:]  # correlation about .98
  rows -= rows.mean(1, keepdims=True)
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  pairs, _ = duplicates.same_pictures(rows)
  wanted = np.flatnonzero((rows[:1500] * rows[1500:]).sum(1) > .97)
  found = {tuple(pair) for pair in pairs.tolist()}
  assert len(wanted) > 1000
  assert sum((row, row + 1500) in found for row in wanted) >= .99 * len(wanted)
  assert all(second - first == 1500 for first, second in found)
