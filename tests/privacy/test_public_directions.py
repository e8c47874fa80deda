"""Directions found in public points."""

import math

import numpy as np
import pytest

from fedjax_face.privacy import public_directions


def rng():
  return np.random.default_rng(0)


def test_kmeans_finds_separated_directions_whatever_the_lengths():
  points = np.repeat(np.eye(5)[:4], 30, axis=0) + 0.02 * rng().normal(size=(120, 5))
  points *= rng().uniform(0.1, 50, size=(120, 1))
  centres = public_directions.spherical_kmeans(points, 4, rng(), 5)
  assert centres.shape == (4, 5) and centres.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-6)
  closest = (centres @ np.eye(5)[:4].T).max(0)
  assert (closest > 0.999).all()


def test_kmeans_iterations_bring_points_nearer_and_the_seed_decides():
  points = rng().normal(size=(200, 6))
  unit = points / np.linalg.norm(points, axis=1, keepdims=True)
  fit = lambda n: (unit @ public_directions.spherical_kmeans(points, 8, rng(), n).T).max(1).mean()
  assert fit(10) > fit(1) > fit(0)
  np.testing.assert_array_equal(public_directions.spherical_kmeans(points, 8, rng(), 3),
                                public_directions.spherical_kmeans(points, 8, rng(), 3))


def test_kmeans_with_as_many_clusters_as_points_returns_them_and_survives_equal_ones():
  points = rng().normal(size=(7, 3))
  centres = public_directions.spherical_kmeans(points, 7, rng(), 4)
  unit = points / np.linalg.norm(points, axis=1, keepdims=True)
  np.testing.assert_allclose((unit @ centres.T).max(1), 1, rtol=1e-6)
  same = public_directions.spherical_kmeans(np.tile([[3.0, 4.0]], (5, 1)), 3, rng(), 2)
  np.testing.assert_allclose(same, np.tile([[0.6, 0.8]], (3, 1)), rtol=1e-6)


def test_principal_directions_are_orthonormal_uncentred_and_ordered_by_energy():
  scales = np.array([3.0, 2.0, 1.0, 0.1])
  points = rng().normal(size=(500, 4)) * scales
  basis = public_directions.principal_directions(points, 3)
  np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
  np.testing.assert_allclose(basis, np.eye(4)[:, :3], atol=0.1)
  far = np.array([[10.0, 1.0], [10.0, -1.0]])
  np.testing.assert_allclose(public_directions.principal_directions(far, 1), [[1], [0]], atol=1e-6)
  assert np.linalg.norm(points @ basis, axis=1).max() <= np.linalg.norm(points, axis=1).max()


def test_principal_directions_of_fewer_points_than_dimensions():
  """From products of points instead of dimensions: the directions of the singular vectors."""
  points = rng().normal(size=(6, 40))
  basis = public_directions.principal_directions(points, 4)
  assert basis.shape == (40, 4)
  _, _, directions = np.linalg.svd(points, full_matrices=False)
  np.testing.assert_allclose(np.abs((basis * directions[:4].T).sum(0)), 1, atol=1e-6)
  np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-6)
  assert (np.take_along_axis(basis, np.abs(basis).argmax(0, keepdims=True), 0) > 0).all()


@pytest.mark.parametrize("points, clusters, iterations, message", [
    (np.eye(3), 4, 1, r"clusters must be in 1\.\.3, the number of points, got 4"),
    (np.eye(3), 0, 1, "clusters must be"),
    (np.eye(3), 2, -1, "iterations must not be negative, got -1"),
    (np.diag([1.0, 0.0]), 1, 1, "points must not be zero, but point 1 is"),
    (np.full((2, 2), math.nan), 1, 1, "points must be finite"),
    (np.ones(3), 1, 1, r"points must be finite vectors \[P, D\], got shape \(3,\)"),
])
def test_kmeans_refuses(points, clusters, iterations, message):
  with pytest.raises(ValueError, match=message):
    public_directions.spherical_kmeans(points, clusters, rng(), iterations)


@pytest.mark.parametrize("dims", [0, 3])
def test_principal_directions_refuse_dimensions_that_do_not_exist(dims):
  with pytest.raises(ValueError, match=rf"dims must be in 1\.\.2, .* got {dims}"):
    public_directions.principal_directions(np.eye(4)[:2], dims)
