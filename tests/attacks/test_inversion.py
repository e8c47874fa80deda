"""Inversion of a first convolution: near exact without noise, nothing but the prior under much."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import reconstruction
from fedjax_face.attacks.inversion import grey_starts, inversion, residual, variation
from fedjax_face.data import pixels
from fedjax_face.models.convolution import conv2d

SIDE = 16


@functools.cache
def first_layer(channels=16):
  of_kernel, of_bias = jax.random.split(jax.random.key(0))
  kernel = jax.random.normal(of_kernel, (5, 5, 1, channels)) / 5
  bias = 0.1 * jax.random.normal(of_bias, (channels,))
  return lambda x: jax.nn.relu(conv2d(x, kernel) + bias)


def pictures(count=3):
  """Smooth blobs of different size and place, with an edge."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:SIDE, :SIDE]
  images = []
  for _ in range(count):
    y, x, width = *rng.uniform(4, 12, 2), rng.uniform(2, 5)
    blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    images.append(40 + 150 * blob + 40 * (columns > x))
  return np.stack(images).astype(np.uint8)[..., None]


@functools.cache
def attack():
  return inversion(first_layer(), steps=300, learning_rate=0.1, total_variation=1e-4)


def rebuilt(received):
  return attack()(received, grey_starts(jax.random.key(2), 1, (SIDE, SIDE, 1)))


def test_without_noise_the_picture_is_found():
  images = pictures()
  found = rebuilt(first_layer()(pixels.normalise(images)))
  quality = reconstruction.quality(reconstruction.grey_values(found.pixels), images)
  assert quality.psnr.low > 30 and quality.ssim.low > 0.95
  assert jnp.max(found.residual) < 1e-3
  assert found.pixels.dtype == jnp.float32 and jnp.max(jnp.abs(found.pixels)) <= 1


def test_noise_hides_the_picture_and_more_noise_hides_more():
  images = pictures()
  clean = first_layer()(pixels.normalise(images))
  noise = jax.random.normal(jax.random.key(1), clean.shape)
  ssim = [reconstruction.quality(reconstruction.grey_values(rebuilt(clean + sigma * noise).pixels),
                                 images).ssim.value for sigma in (0.0, 1.0, 30.0)]
  assert ssim[0] > ssim[1] + 0.1 > ssim[2] + 0.2


def test_pictures_of_a_batch_do_not_change_each_other():
  received = first_layer()(pixels.normalise(pictures()))
  other = received.at[1].set(0)
  np.testing.assert_array_equal(rebuilt(received).pixels[0], rebuilt(other).pixels[0])


def test_of_several_starts_the_best_counts_for_each_picture():
  """A start that is the picture itself wins for that picture."""
  received = first_layer()(pixels.normalise(pictures()))
  short = inversion(first_layer(), steps=1, learning_rate=1e-6, total_variation=0.0)
  starts = jnp.asarray(pixels.normalise(pictures()))[1:]
  found = short(received, starts)
  np.testing.assert_allclose(found.pixels[1:], starts, atol=1e-5)
  np.testing.assert_allclose(found.residual[1:], 0, atol=1e-6)
  assert found.residual[0] > 1e-3


def test_a_clipped_layer_without_biases_gives_the_picture_up_to_its_contrast():
  """Flat grey is stuck there; the mean of other pictures is not."""
  images = pictures()
  kernel = jax.random.normal(jax.random.key(0), (5, 5, 1, 16)) / 5

  def clipped(x):
    a = jax.nn.relu(conv2d(x, kernel))
    norm = jnp.sqrt(jnp.sum(a**2, axis=(1, 2, 3), keepdims=True) + 1e-12)
    return a * jnp.minimum(1, 1 / norm)

  received = clipped(pixels.normalise(images))
  invert = inversion(clipped, steps=300, learning_rate=0.1, total_variation=1e-3)
  stuck = invert(received, jnp.zeros((1, SIDE, SIDE, 1)))
  np.testing.assert_array_equal(stuck.pixels, 0)
  found = invert(received, jnp.asarray(pixels.normalise(pictures(8)))[3:].mean(0, keepdims=True))
  truth = pixels.normalise(images).reshape(3, -1)
  pairs = zip(found.pixels.reshape(3, -1), truth, strict=True)
  cosines = [np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
  assert min(cosines) > 0.97


def test_residual_by_hand():
  received = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(residual(jnp.array([[3.0, 2.0], [1.0, 1.0]]), received), [4 / 25, 2])


def test_variation_by_hand():
  flat, step = jnp.ones((1, 3, 3, 1)), jnp.ones((1, 3, 3, 1)).at[:, :, 2].set(3.0)
  np.testing.assert_allclose(variation(jnp.concatenate([flat, step])), [0, 1], atol=1e-3)
  assert jnp.isfinite(jax.jit(jax.grad(lambda x: variation(x).sum()))(flat)).all()


def test_no_steps_are_refused():
  with pytest.raises(ValueError, match="steps 0: expected at least 1"):
    inversion(first_layer(), steps=0, learning_rate=0.1, total_variation=0.0)
