"""What reconstructions are worth, by hand."""

import numpy as np
import pytest

from fedjax_face.attacks import reconstruction
from fedjax_face.attacks.error_rates import clopper_pearson, gaussian_bound
from fedjax_face.data import pixels


def test_grey_values_invert_normalisation():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  np.testing.assert_array_equal(reconstruction.grey_values(pixels.normalise(images)), images)
  np.testing.assert_array_equal(reconstruction.grey_values(np.array([-1.5, 1.0, 2.0])),
                                [0, 255, 255])


def test_quality_by_hand():
  originals = np.full((2, 12, 12, 1), 100, np.uint8)
  other = originals.copy()
  other[0] += 10                                     # MSE 100, and the other picture is exact
  mse, psnr, ssim = reconstruction.quality(other, originals)
  assert mse.value == 50 and mse.low < 0 < mse.high
  exact = 10 * np.log10(255**2 * 12)
  assert exact == pytest.approx(58.9, abs=0.05)
  assert psnr.value == pytest.approx((exact + 10 * np.log10(255**2 / 100)) / 2)
  assert 0.99 < ssim.value < 1


def test_blind_quality_is_that_of_the_mean_public_picture():
  originals = np.full((3, 11, 11, 1), 100, np.uint8)
  public = np.stack([np.full((11, 11, 1), value, np.uint8) for value in (90, 113)])
  assert reconstruction.blind_quality(public, originals).mse.value == pytest.approx(1.5**2)


def corner(images):
  """Embeds a picture by its first two pixels."""
  return images[:, 0, :2, 0].astype(np.float32) + 1e-3


def picture(first, second):
  image = np.zeros((1, 2, 1), np.uint8)
  image[0, :, 0] = first, second
  return image


def identify(labels=(5, 7, 5, 7)):
  gallery = np.stack([picture(200, 0), picture(0, 200)])
  originals = np.stack([picture(90, 10), picture(10, 90)] * 2)
  rebuilt = np.stack([picture(90, 10), picture(90, 10)] * 2)
  return reconstruction.reidentification(
      corner, gallery, np.array([5, 7]), rebuilt, originals, np.array(labels),
      bound=gaussian_bound(0.5), batch_size=3)


def test_reidentification_by_hand():
  """All reconstructions look like the first person."""
  result = identify()
  assert result.reconstructions.accuracy == clopper_pearson(2, 4)
  assert result.originals.accuracy == clopper_pearson(4, 4)
  assert result.reconstructions.chance == result.originals.chance == 0.5
  assert result.reconstructions.largest == pytest.approx(gaussian_bound(0.5)(0.5))
  assert result.originals.largest == 1


def test_uneven_people_raise_the_bound():
  assert identify((5, 5, 5, 7)).reconstructions.largest == pytest.approx(gaussian_bound(0.5)(0.75))


def test_people_outside_the_gallery_are_refused():
  with pytest.raises(ValueError, match=r"labels \[6\] are not in the gallery"):
    identify((5, 6, 5, 7))
