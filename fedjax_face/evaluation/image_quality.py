"""How like its original a picture is: mean squared error, PSNR and SSIM."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PEAK = 255.0
# Wang et al. 2004: a Gaussian window of 11 x 11, and the constants of the two stabilisers.
WINDOW, WINDOW_STDDEV = 11, 1.5
K1, K2 = 0.01, 0.03


def mean_squared_error(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
  """Mean squared difference of grey values, float64 [B].

  Args:
    images: [B, H, W, C], grey values in [0, 255], of any type.
    originals: likewise.
  """
  first, second = _pair(images, originals)
  return np.mean((first - second) ** 2, axis=(1, 2, 3))


def psnr(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
  """Peak signal-to-noise ratio 10 log10(255^2 / MSE) in dB, float64 [B]; infinite for the same.

  Args: as `mean_squared_error`.
  """
  with np.errstate(divide="ignore"):
    return 10 * np.log10(PEAK**2 / mean_squared_error(images, originals))


def ssim(images: np.ndarray, originals: np.ndarray) -> np.ndarray:
  """Structural similarity, float64 [B] in [-1, 1], 1 for the same; mean over places and channels.

  Windows lie wholly inside the picture.

  Args: as `mean_squared_error`, with H and W at least 11.
  Source: Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Processing 2004, eq. 13.
  """
  first, second = _pair(images, originals)
  if min(first.shape[1:3]) < WINDOW:
    raise ValueError(f"ssim: pictures of {first.shape[1]}x{first.shape[2]} pixels; expected at "
                     f"least {WINDOW}x{WINDOW}")
  mean_a, mean_b = _windowed(first), _windowed(second)
  variance_a = _windowed(first * first) - mean_a**2
  variance_b = _windowed(second * second) - mean_b**2
  covariance = _windowed(first * second) - mean_a * mean_b
  c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
  similarity = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
  return similarity.mean(axis=(1, 2, 3))


def _windowed(values: np.ndarray) -> np.ndarray:
  """Gaussian-weighted mean around each place whose window lies inside: [B, H - 10, W - 10, C]."""
  half = WINDOW // 2
  weights = np.exp(-0.5 * (np.arange(-half, half + 1) / WINDOW_STDDEV) ** 2)
  weights /= weights.sum()
  for axis in (1, 2):
    values = ndimage.correlate1d(values, weights, axis=axis)
  return values[:, half:-half, half:-half]


def _pair(images: np.ndarray, originals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  first, second = np.asarray(images, np.float64), np.asarray(originals, np.float64)
  if first.shape != second.shape or first.ndim != 4:
    raise ValueError(f"pictures of shape {list(first.shape)} and originals of "
                     f"{list(second.shape)}; expected the same [B, H, W, C]")
  return first, second
