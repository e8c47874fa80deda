"""Embedding a set in padded batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.evaluation.embedding import embed_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, size=(7, 2, 3, 1), dtype=np.uint8)


def flat(images):
  return images.reshape(len(images), -1).astype(jnp.float32)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_padding_does_not_change_the_result(batch_size):
  result = embed_dataset(flat, IMAGES, batch_size)
  np.testing.assert_allclose(result, unit(np.float32(IMAGES.reshape(7, 6))), rtol=1e-6)
  assert result.dtype == np.float32


def test_flip_modes_by_hand():
  plain = np.float32(IMAGES.reshape(7, 6))
  mirrored = np.float32(IMAGES[:, :, ::-1].reshape(7, 6))
  np.testing.assert_allclose(
    embed_dataset(flat, IMAGES, 4, "sum"), unit(plain + mirrored), rtol=1e-6
  )
  both = unit(np.concatenate([plain, mirrored], axis=1))
  np.testing.assert_allclose(embed_dataset(flat, IMAGES, 4, "concat"), both, rtol=1e-6)


def test_compiles_once_over_batches_and_calls():
  traces = []

  @jax.jit
  def embed(images):
    traces.append(images.shape)
    return flat(images)

  for _ in range(2):
    embed_dataset(embed, IMAGES, 4, "sum")
  assert traces == [(4, 2, 3, 1)]


@pytest.mark.parametrize(
  "arguments, message",
  [
    ((IMAGES, 0), "batch_size"),
    ((IMAGES, 2, True), "flip must be"),
    ((IMAGES, 2, "add"), "flip must be"),
    ((IMAGES.astype(np.float32), 2), "uint8"),
    ((IMAGES[:0], 2), "N > 0"),
  ],
)
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    embed_dataset(flat, *arguments)
