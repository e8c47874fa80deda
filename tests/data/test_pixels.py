import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.data import pixels


@pytest.mark.parametrize("library", [np, jnp])
def test_normalise(library):
  result = pixels.normalise(library.array([0, 128, 255], dtype=np.uint8))
  assert result.dtype == np.float32 and isinstance(result, np.ndarray) == (library is np)
  np.testing.assert_array_equal(result, [-1, 0, 127 / 128])


def test_normalise_refuses_floats():
  with pytest.raises(ValueError, match="float32; expected uint8"):
    pixels.normalise(np.zeros(2, np.float32))


@pytest.mark.parametrize("flip", [pixels.random_flip, jax.jit(pixels.random_flip)])
def test_random_flip_mirrors_about_half_the_images_whole(flip):
  images = np.arange(400 * 6, dtype=np.int32).reshape(400, 2, 3, 1)
  flipped = np.asarray(flip(jnp.asarray(images), jax.random.key(0)))
  same = (flipped == images).all((1, 2, 3))
  mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert 150 < mirrored.sum() < 250
