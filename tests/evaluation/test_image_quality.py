"""Picture quality by hand and against scipy's Gaussian filter."""

import numpy as np
import pytest
from scipy import ndimage

from fedjax_face.evaluation import image_quality


def pictures(seed=0, shape=(2, 16, 14, 3)):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_mse_and_psnr_by_hand():
  original = np.zeros((2, 12, 12, 1), np.uint8)
  other = original.copy()
  other[0] = 255
  other[1, 0, 0] = 12                                # one of 144 pixels: MSE 1
  np.testing.assert_allclose(image_quality.mean_squared_error(other, original), [255**2, 1])
  np.testing.assert_allclose(image_quality.psnr(other, original), [0, 20 * np.log10(255)])
  assert np.isinf(image_quality.psnr(original, original)).all()


def test_ssim_of_the_same_and_of_flat_pictures():
  original = pictures()
  np.testing.assert_allclose(image_quality.ssim(original, original), 1)
  dark, bright = np.full((1, 11, 11, 1), 100), np.full((1, 11, 11, 1), 150)
  c1 = 2.55**2
  expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)  # no variance: luminance alone
  np.testing.assert_allclose(image_quality.ssim(dark, bright), expected)


def test_ssim_of_the_negative_is_negative():
  original = pictures()
  assert (image_quality.ssim(255 - original, original) < -0.5).all()


def test_ssim_agrees_with_a_gaussian_filter_one_channel_at_a_time():
  a, b = pictures(0).astype(np.float64), pictures(1).astype(np.float64)
  b = 0.5 * a + 0.5 * b
  blur = lambda x: ndimage.gaussian_filter(x, 1.5, truncate=3.5)[5:-5, 5:-5]
  values = []
  for channel in range(3):
    x, y = a[0, ..., channel], b[0, ..., channel]
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    values.append(((2 * mx * my + 2.55**2) * (2 * vxy + 7.65**2)
                   / ((mx**2 + my**2 + 2.55**2) * (vx + vy + 7.65**2))).mean())
  assert image_quality.ssim(a, b)[0] == pytest.approx(np.mean(values), rel=1e-9)


@pytest.mark.parametrize("name", ["mean_squared_error", "psnr", "ssim"])
def test_other_shapes_are_refused(name):
  with pytest.raises(ValueError, match=r"expected the same \[B, H, W, C\]"):
    getattr(image_quality, name)(pictures(), pictures()[:1])


def test_pictures_smaller_than_the_window_are_refused():
  with pytest.raises(ValueError, match="10x14 pixels; expected at least 11x11"):
    image_quality.ssim(pictures()[:, :10], pictures()[:, :10])
