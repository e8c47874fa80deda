"""Raw pixels as an embedding, by hand."""

import numpy as np
import pytest

from fedjax_face.evaluation.pixels import pixel_embedding


def image(*rows):
  return np.array(rows, np.uint8)[None, ..., None]


def test_centred_and_summed_with_its_mirror_image_by_hand():
  """Mean 4; (-4, 2, -2, 4) with its mirror image (2, -4, 4, -2) is (-2, -2, 2, 2)."""
  found = np.asarray(pixel_embedding(image([0, 6], [2, 8])))
  np.testing.assert_allclose(found, [[-0.5, -0.5, 0.5, 0.5]], atol=1e-6)
  assert found.dtype == np.float32


def test_a_mirror_image_and_more_light_change_nothing():
  pixels = np.random.default_rng(0).integers(0, 200, (4, 6, 5, 3)).astype(np.uint8)
  np.testing.assert_allclose(
    pixel_embedding(pixels[:, :, ::-1] + np.uint8(50)), pixel_embedding(pixels), atol=1e-5)


@pytest.mark.parametrize("empty", [image([7, 7], [7, 7]), image([0, 9], [0, 9])],
                         ids=["constant", "antisymmetric"])
def test_an_image_of_which_nothing_is_left_is_orthogonal_to_others(empty):
  found = np.asarray(pixel_embedding(np.concatenate([empty, image([0, 6], [2, 8])])))
  np.testing.assert_allclose(found[0], [0.5] * 4)
  assert found[0] @ found[1] == pytest.approx(0, abs=1e-6)


def test_large_images_are_averaged_over_blocks():
  small = np.random.default_rng(1).integers(0, 256, (2, 20, 24, 1)).astype(np.uint8)
  large = np.repeat(np.repeat(small, 2, 1), 2, 2)
  np.testing.assert_allclose(pixel_embedding(large), pixel_embedding(small), atol=1e-6)
  assert pixel_embedding(np.zeros((1, 65, 33, 1), np.uint8)).shape == (1, 21 * 11)
