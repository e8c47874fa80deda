"""Fresh noise averages out as 1 / sqrt(k); cached noise stays."""

import numpy as np
import pytest

from fedjax_face.attacks.averaging import averaging

SIGMA = 0.5


def releases(count, *, cached, sigma=SIGMA, shape=(4, 5, 5, 8)):
  rng = np.random.default_rng(0)
  clean = rng.normal(size=shape)
  noise = rng.normal(size=(1 if cached else count, *shape))
  return np.broadcast_to(clean + sigma * noise, (count, *shape)), clean


def test_by_hand():
  """Errors 1, then (1 - 3) / 2 = -1, in one coordinate; 2, then 3 in the other."""
  curve = averaging(np.array([[[1.0, 2.0]], [[-3.0, 4.0]]]), np.zeros((1, 2)), 2.0)
  assert [point.releases for point in curve] == [1, 2]
  np.testing.assert_allclose([point.error.value for point in curve], np.sqrt([2.5, 5.0]))
  np.testing.assert_allclose([point.fresh for point in curve], [2, np.sqrt(2)])
  assert [point.cached for point in curve] == [2, 2]


def test_fresh_noise_falls_with_the_root_of_the_releases():
  curve = averaging(*releases(16, cached=False), SIGMA, level=0.999)
  for point in curve:
    assert point.error.low < point.fresh < point.error.high
    assert not point.below_fresh
    assert point.below_cached == (point.releases > 1)


def test_cached_noise_does_not_fall():
  curve = averaging(*releases(16, cached=True), SIGMA, level=0.999)
  assert len({point.error for point in curve[:2]}) == 1
  np.testing.assert_allclose([point.error.value for point in curve], curve[0].error.value)
  assert not any(point.below_cached or point.below_fresh for point in curve)
  assert curve[-1].fresh == SIGMA / 4


def test_half_the_noise_is_caught_in_the_first_release():
  assert averaging(*releases(1, cached=False, sigma=SIGMA / 2), SIGMA)[0].below_fresh


@pytest.mark.parametrize("received, sigma, message", [
    (np.zeros((2, 3)), 1.0, r"received \[2, 3\] and clean \[1, 3\]"),
    (np.zeros((2, 1, 3)), 0.0, "sigma 0.0: expected a positive number"),
])
def test_what_makes_no_sense_is_refused(received, sigma, message):
  with pytest.raises(ValueError, match=message):
    averaging(received, np.zeros((1, 3)), sigma)
