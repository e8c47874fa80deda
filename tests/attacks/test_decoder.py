"""A decoder learns to rebuild pictures, and falls back on the mean picture under noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.attacks import decoder, reconstruction
from fedjax_face.attacks.decoder import DecoderNetwork, train_decoder

OPTIONS = {"width": 8, "code": 16, "epochs": 40, "batch_size": 16, "learning_rate": 1e-2}
COUNT = 64


@functools.cache
def faces():
  """Pictures [64, 12, 12, 1] with three degrees of freedom, and their coordinates [64, 3]."""
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:12, :12] / 12
  basis = np.stack([np.sin(4 * rows), np.cos(5 * columns), rows * columns])
  coordinates = rng.uniform(-1, 1, (COUNT, 3)).astype(np.float32)
  grey = 128 + 30 * np.einsum("nk,kij->nij", coordinates, basis)
  return grey.astype(np.uint8)[..., None], coordinates


def trained(features, sigma=0.0, **options):
  return train_decoder(features, faces()[0][:48], sigma, jax.random.key(0),
                       **{**OPTIONS, **options})


@pytest.mark.parametrize("spatial", [False, True])
def test_pictures_are_rebuilt_from_activations(spatial):
  images, coordinates = faces()
  features = images[:, ::2, ::2].astype(np.float32) / 128 - 1 if spatial else coordinates
  fitted = trained(features[:48])
  found = fitted.reconstruct(jnp.asarray(features[48:]))
  assert found.shape == (16, 12, 12, 1) and found.dtype == np.uint8
  assert fitted.loss.shape == (40,) and fitted.loss[-1] < fitted.loss[0] / 5
  blind = reconstruction.blind_quality(images[:48], images[48:])
  assert reconstruction.quality(found, images[48:]).mse.value < blind.mse.value / 3


def test_under_much_noise_the_mean_picture_is_left():
  images, coordinates = faces()
  received = coordinates[48:] + 100 * np.random.default_rng(1).normal(size=(16, 3))
  found = trained(coordinates[:48], 100.0, learning_rate=1e-3).reconstruct(jnp.asarray(received))
  blind = reconstruction.blind_quality(images[:48], images[48:])
  quality = reconstruction.quality(found, images[48:])
  assert quality.mse.value == pytest.approx(blind.mse.value, rel=0.2)


def test_a_key_gives_one_decoder_and_one_compilation_serves_every_noise():
  coordinates = faces()[1]
  first = trained(coordinates[:48], 0.1).loss
  compiled = decoder._train._cache_size()
  np.testing.assert_array_equal(trained(coordinates[:48], 0.1).loss, first)
  assert trained(coordinates[:48], 0.2).loss[-1] > first[-1]
  assert decoder._train._cache_size() == compiled


def test_network_rebuilds_any_size():
  network = DecoderNetwork((7, 10, 3), width=4, code=6)
  picture = lambda x: network.init_with_output(jax.random.key(0), x)[0]
  for activations in ((5,), (3, 4, 2), (9, 9, 2)):
    assert jax.eval_shape(picture, jnp.zeros((2, *activations))).shape == (2, 7, 10, 3)


@pytest.mark.parametrize("features, options, message", [
    (np.zeros((48, 2, 2)), {}, r"features of shape \[48, 2, 2\]; expected \[N, d\] or"),
    (np.zeros((47, 2)), {}, "47 features of 48 images"),
    (np.zeros((48, 2)), {"batch_size": 49}, "batch_size 49: expected 1 to the 48 public images"),
    (np.zeros((48, 2)), {"epochs": 0}, "epochs 0: expected at least 1"),
])
def test_what_makes_no_sense_is_refused(features, options, message):
  with pytest.raises(ValueError, match=message):
    trained(features, **options)
