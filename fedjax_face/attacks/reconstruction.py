"""What reconstructed pictures are worth: likeness to the originals, and whether they are
recognised.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from fedjax_face.attacks.error_rates import (
    LEVEL,
    Bound,
    Guess,
    guesses,
    largest_identification,
    unbounded,
)
from fedjax_face.evaluation import image_quality
from fedjax_face.evaluation.confidence import Estimate, mean_interval
from fedjax_face.evaluation.embedding import EmbedFn, embed_dataset
from fedjax_face.evaluation.identification import score_probes

# Mean squared error of rounding to whole grey values; what is nearer counts as this near.
ROUNDING = 1 / 12


class Quality(NamedTuple):
  """Likeness to the originals: means over pictures with t-intervals.

  Attributes:
    mse: of grey values in [0, 255].
    psnr: in dB, at most 58.9, where the difference is that of rounding.
    ssim: structural similarity.
  """

  mse: Estimate
  psnr: Estimate
  ssim: Estimate


class Reidentification(NamedTuple):
  """Rank-1 identification of people by pictures of them, among the same gallery.

  Attributes:
    reconstructions: with the bound of one release a picture.
    originals: how well the embedder does on the pictures themselves.
  """

  reconstructions: Guess
  originals: Guess


def grey_values(pixels: np.ndarray | jax.Array) -> np.ndarray:
  """Pixels as models see them, x / 128 - 1, to the nearest uint8 x, of the same shape."""
  return np.clip(np.rint((np.asarray(pixels, np.float32) + 1) * 128), 0, 255).astype(np.uint8)


def quality(reconstructions: np.ndarray, originals: np.ndarray, level: float = LEVEL) -> Quality:
  """MSE, PSNR and SSIM of reconstructions.

  Args:
    reconstructions: grey values [B, H, W, C].
    originals: uint8 [B, H, W, C]; one a person, or the intervals are too narrow.
    level: of the intervals.
  """
  mse = image_quality.mean_squared_error(reconstructions, originals)
  psnr = 10 * np.log10(image_quality.PEAK**2 / np.maximum(mse, ROUNDING))
  ssim = image_quality.ssim(reconstructions, originals)
  return Quality(*(mean_interval(values, level) for values in (mse, psnr, ssim)))


def blind_quality(public: np.ndarray, originals: np.ndarray, level: float = LEVEL) -> Quality:
  """Quality of the mean public picture, which an attacker has without any activations.

  Args:
    public: uint8 [N, H, W, C].
    originals: uint8 [B, H, W, C].
    level: of the intervals.
  """
  mean = np.mean(public, axis=0, dtype=np.float64)
  return quality(np.broadcast_to(mean, originals.shape), originals, level)


def reidentification(embed: EmbedFn, gallery: np.ndarray, gallery_labels: np.ndarray,
                     reconstructions: np.ndarray, originals: np.ndarray, labels: np.ndarray, *,
                     bound: Bound = unbounded, batch_size: int = 64, level: float = LEVEL
                     ) -> Reidentification:
  """Are people recognised on their reconstructions?

  Args:
    embed: uint8 [B, H, W, C] -> embeddings float [B, D].
    gallery: uint8 [G, H, W, C], other pictures of the people.
    gallery_labels: integer [G].
    reconstructions: uint8 [Q, H, W, C].
    originals: uint8 [Q, H, W, C], of the reconstructions.
    labels: integer [Q], all of them in the gallery.
    bound: of the mechanism between any two pictures, for all that was sent of one.
    batch_size: of the embedder.
    level: of the intervals.

  Raises:
    ValueError: a label that the gallery lacks.
  """
  missing = np.setdiff1d(labels, gallery_labels)
  if len(missing):
    raise ValueError(f"labels {missing.tolist()} are not in the gallery")
  known = embed_dataset(embed, gallery, batch_size)
  recognised = lambda images: score_probes(
      known, gallery_labels, embed_dataset(embed, images, batch_size), labels).rank == 1
  chance = 1 / len(np.unique(gallery_labels))
  shares = np.unique(labels, return_counts=True)[1] / len(labels)
  return Reidentification(
      guesses(recognised(reconstructions), chance, largest_identification(shares, bound), level),
      guesses(recognised(originals), chance, level=level))
