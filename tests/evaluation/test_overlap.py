"""Overlap of classes of different clients, by hand."""

import numpy as np
import pytest

from fedjax_face.evaluation.overlap import cross_client_overlap

# Directions at 0, 60, 90 and 180 degrees, of any length; the second and third belong together.
ANGLES = np.radians([0, 60, 90, 180])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1) * np.array([[1], [5], [0.1], [3]])
OWNER = np.array([0, 1, 1, 2])


def bins_of(cosines, edges):
  return np.histogram(cosines, edges)[0]


@pytest.mark.parametrize("block", [1, 3, 100])
def test_pairs_and_nearest_by_hand(block):
  found = cross_client_overlap(VECTORS, OWNER, bins=7, block=block)
  expected = np.cos(np.radians([60, 90, 180, 120, 90]))
  np.testing.assert_array_equal(found.pairs, bins_of(expected, found.edges))
  np.testing.assert_array_equal(found.nearest, bins_of([0.5, 0.5, 0.0, 0.0], found.edges))


def test_padding_counts_for_nothing():
  found = cross_client_overlap(VECTORS, OWNER, bins=7)
  padded = cross_client_overlap(np.concatenate([VECTORS, np.full((2, 2), np.nan)]),
                                np.append(OWNER, [-1, -1]), bins=7)
  np.testing.assert_array_equal(padded.pairs, found.pairs)
  np.testing.assert_array_equal(padded.nearest, found.nearest)


def test_one_client_has_no_overlap():
  with pytest.raises(ValueError, match="at least two clients"):
    cross_client_overlap(VECTORS, np.zeros(4, int))
