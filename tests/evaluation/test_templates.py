"""Template pooling, verification and identification on a made-up protocol."""

from __future__ import annotations

import numpy as np
import pytest

from fedjax_face.data.readers.template_lists import (
  TemplateLists,
  TemplatePairs,
  read_template_images,
  read_template_pairs,
)
from fedjax_face.evaluation.templates import (
  identify_templates,
  pool_templates,
  verify_templates,
)
from tests.data.readers.test_template_lists import CSV, IMAGES

EMBEDDINGS = np.array([[1, 0], [0, 1], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)


def test_pools_within_media_first():
  ids, pooled = pool_templates(EMBEDDINGS, [10, 10, 10, 20, 30], [1, 2, 2, 5, 6])
  assert ids.tolist() == [10, 20, 30]
  # The video's two frames are one medium, so template 10 points half-way, not at two thirds.
  np.testing.assert_allclose(pooled, [[0.5**0.5, 0.5**0.5], [0.6, 0.8], [-1, 0]], rtol=1e-6)


def test_media_ids_belong_to_their_template():
  _, pooled = pool_templates(EMBEDDINGS[[0, 4]], [1, 2], [7, 7])
  np.testing.assert_allclose(pooled, [[1, 0], [-1, 0]])


@pytest.mark.parametrize(
  "images, pairs", [(IMAGES, "10 20 1\n10 30 0\n20 30 0\n"), (CSV, "10,20\n10,30\n20,30\n")]
)
def test_protocol_from_files(tmp_path, images, pairs):
  (tmp_path / "images").write_text(images)
  (tmp_path / "pairs").write_text(pairs)
  listed = read_template_images(tmp_path / "images")
  matches = read_template_pairs(tmp_path / "pairs", listed)
  assert listed.name == ("a1.jpg", "a2.jpg", "a3.jpg", "b1.jpg", "c1.jpg")
  assert matches.same.tolist() == [True, False, False]
  result = verify_templates(EMBEDDINGS, listed, matches, [0.0])
  assert result.tar.tolist() == [1] and not result.reliable[0]


def test_unknown_template_is_refused(tmp_path):
  (tmp_path / "images").write_text(IMAGES)
  (tmp_path / "pairs").write_text("10 99 1\n")
  images = read_template_images(tmp_path / "images")
  with pytest.raises(ValueError, match="template 99"):
    verify_templates(EMBEDDINGS, images, read_template_pairs(tmp_path / "pairs", images), [0.1])


def test_probes_are_ranked_and_strangers_are_set_apart(tmp_path):
  """Gallery: 10 (subject 1) and 30 (subject 2); 20 is of subject 1, and 40 of nobody enrolled."""
  (tmp_path / "images").write_text(CSV + "40,3,d1.jpg,7\n")
  images = read_template_images(tmp_path / "images")
  lists = TemplateLists(images, np.arange(6), gallery=np.array([10, 30]), probes=np.array([20, 40]))
  found = identify_templates(np.concatenate([EMBEDDINGS, [[0, -1]]]), lists)
  assert found.known.rank.tolist() == [1] and found.subject.tolist() == [1]
  np.testing.assert_allclose(found.known.own, 0.5 + 0.5 * (0.6 + 0.8) * 0.5**0.5, rtol=1e-6)
  assert found.strangers.rank.tolist() == [0]
  np.testing.assert_allclose(found.strangers.best, 0.5, atol=1e-6)  # a right angle
  with pytest.raises(ValueError, match="there is no gallery"):
    identify_templates(EMBEDDINGS, TemplateLists(images, np.arange(6)))


def test_lists_without_an_image_lose_what_rested_on_it_alone(tmp_path):
  (tmp_path / "images").write_text("TEMPLATE_ID,SUBJECT_ID,MEDIA_ID,FILENAME\n10,1,1,a\n10,1,2,b\n"
                                   "20,1,3,c\n30,2,4,d\n40,3,5,e\n")
  images = read_template_images(tmp_path / "images")
  pairs = TemplatePairs(np.array([10, 10]), np.array([20, 30]), np.array([True, False]))
  lists = TemplateLists(images, np.arange(5), pairs, np.array([10, 30]), np.array([20, 40]))
  kept = lists.kept(np.array([False, True, False, True, True]))
  assert kept.images.name == ("b", "d", "e") and kept.row.tolist() == [0, 1, 2]
  assert kept.pairs.left.tolist() == [10] and kept.pairs.right.tolist() == [30]
  assert kept.gallery.tolist() == [10, 30] and kept.probes.tolist() == [40]
