"""Clusters that silos publish of their class embeddings, most of them differentially private.

One row is one person, and the unit of every guarantee here is one row added to or removed from one
silo. A mechanism sees rows of norm at most 1 (longer ones are scaled down to 1, rows with NaN or
infinity are left out), sums each row into at most one cell of a table and releases the noisy
table; everything else (directions, dropped clusters, concentrations) is computed from what was
released. Anchors and candidates come from outside and must be PUBLIC: chosen from private rows
they would leak what no noise covers.

Setting and the published mechanism: Meng et al., ICLR 2022, arXiv 2201.12467. The paper's
constants were not available, and its mechanism has no guarantee; the others are derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import dp_accounting
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.models.embedding import l2_normalise
from fedjax_face.privacy import cluster_tables
from fedjax_face.privacy.cluster_tables import Clusters, Transcript

_TOLERANCE = 1e-3           # of the norms of anchors and of the products of a basis


class ClusterMechanism(NamedTuple):
  """A way to publish clusters.

  Attributes:
    name: as in configs and figures.
    publish: (rows float32 [N, n, D], real bool [N, n], noise multiplier, key) ->
      (Clusters, Transcript). Pure; rows that are not real may hold anything.
    event: noise multiplier -> privacy event of ONE publication, one person added or removed;
      `NonPrivateDpEvent` where nothing is proved.
    sensitivity: L2 sensitivity of one table, sqrt(1 + count_weight^2); infinite without a bound.
    clusters: Q; None: as many as there are rows.
    numbers: D -> floats that a silo sends for each cluster in one publication.
    adds_noise: the noise follows the multiplier, so an epsilon can be asked for.
    pooled: the table is summed over silos first; cluster k is then what silo k ALONE can compute,
      the noisy total less its own exact sums, and must not leave it.
    words: the mechanism for the privacy statement, or why it promises nothing.
  """

  name: str
  publish: Callable[..., tuple[Clusters, Transcript]]
  event: Callable[[float], dp_accounting.DpEvent]
  sensitivity: float
  clusters: int | None
  numbers: Callable[[int], int]
  adds_noise: bool
  pooled: bool
  words: str


def client_mean(*, count_weight: float = 0.0, significance: float = 2.0,
                pooled: bool = False) -> ClusterMechanism:
  """One cluster per silo: the noisy sum of its rows.

  Args:
    count_weight: weight beta of the number of rows beside their sum; 0 releases no count.
    significance: a cluster is dropped unless |noisy sum|^2 exceeds D sigma^2, what noise alone
      has on average, by this many of noise's standard deviations, sqrt(2 D) sigma^2.
    pooled: one table for all silos, summed by secure aggregation.

  Guarantees:
    Adding or removing one row moves the table by at most sqrt(1 + beta^2) in L2 norm; each entry
    gets noise of standard deviation noise_multiplier times that.

  Raises:
    ValueError: count_weight or significance is negative or not finite.
  """
  return _noisy_tables("client_mean", "the sum of a silo's rows", None, 1, count_weight,
                       significance, pooled)


def anchor_table(anchors: np.ndarray, *, count_weight: float = 0.0, significance: float = 2.0,
                 pooled: bool = False) -> ClusterMechanism:
  """One cluster per public anchor: each row is summed into the cell of its nearest anchor.

  Args:
    anchors: [Q, D], PUBLIC unit vectors.
    count_weight, significance, pooled: as in `client_mean`; one count per cell.

  Guarantees:
    As `client_mean`, for the WHOLE table: a row enters one cell only.

  Raises:
    ValueError: anchors are not unit vectors [Q, D], or as in `client_mean`.
  """
  words = "the sums of a silo's rows by nearest public anchor"
  return _noisy_tables("anchor_table", words, _unit_vectors("anchors", anchors), 1, count_weight,
                       significance, pooled)


def dp_lloyd(anchors: np.ndarray, *, iterations: int, count_weight: float = 0.0,
             significance: float = 2.0, pooled: bool = False) -> ClusterMechanism:
  """Lloyd's algorithm from public anchors, where every iteration is a released `anchor_table`.

  The directions of one noisy table are the anchors of the next; a cell too weak to show keeps its
  anchor. Pooled silos share these anchors.

  Args:
    anchors: [Q, D], PUBLIC unit vectors.
    iterations: T >= 1.
    count_weight, significance, pooled: as in `anchor_table`.

  Guarantees:
    T Gaussian releases, each with sqrt(T) times the noise of `anchor_table`: together they cost
    what one `anchor_table` costs at the same noise multiplier.

  Raises:
    ValueError: iterations < 1, or as in `anchor_table`.
  """
  _check_at_least_one("iterations", iterations)
  words = f"{iterations} Lloyd iterations from public anchors, each a table of a silo's sums"
  return _noisy_tables("dp_lloyd", words, _unit_vectors("anchors", anchors), iterations,
                       count_weight, significance, pooled)


def exponential_caps(candidates: np.ndarray, *, clusters: int, angle: float,
                     selection_share: float, count_weight: float = 0.0,
                     significance: float = 2.0) -> ClusterMechanism:
  """The published mechanism made private: caps around PUBLIC candidates, privately chosen.

  Q times: choose candidate g with probability ~ exp(eps_sel * rows left within `angle` of g) among
  those not chosen yet; sum the rows left in its cap; take these rows away. The cap that is taken
  away is the CHOSEN candidate's, not the noisy centre's: the choice is released, and so each row
  is in at most one sum. With the noisy centre's cap a row could enter several sums.

  Args:
    candidates: [G, D], PUBLIC unit vectors.
    clusters: Q, at most G.
    angle: of a cap, in radians, in (0, pi/2].
    selection_share: share of the zCDP budget 1 / (2 z^2) spent on the Q choices, in (0, 1).
    count_weight, significance: as in `client_mean`.

  Guarantees:
    A choice is monotone in the rows, so eps_sel-bounded range gives eps_sel^2 / 8 zCDP (Cesar and
    Rogers 2021); eps_sel = (2 / z) sqrt(share / Q). The Q sums are one Gaussian release of
    multiplier z / sqrt(1 - share). A multiplier of 0 chooses greedily, sums exactly and promises
    nothing.

  Raises:
    ValueError: candidates are not unit vectors [G, D], clusters is not in 1..G, angle or
      selection_share out of range, or as in `client_mean`.
  """
  public = _unit_vectors("candidates", candidates)
  _check_at_least_one("clusters", clusters)
  _check_angle(angle)
  _check_not_negative(count_weight=count_weight, significance=significance)
  if clusters > len(public):
    raise ValueError(f"clusters must be at most the {len(public)} candidates, got {clusters}")
  if not 0 < selection_share < 1:
    raise ValueError(f"selection_share must be in (0, 1), got {selection_share}")
  sensitivity = math.sqrt(1 + count_weight**2)
  sum_multiplier = 1 / math.sqrt(1 - selection_share)
  inverse_epsilon = math.sqrt(clusters / selection_share) / 2

  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real, public.shape[1])
    rows, real = cluster_tables.bounded(rows, real)
    stddev = noise_multiplier * sum_multiplier * sensitivity

    def one_silo(silo):
      rows, real, key = silo
      inside = (public @ rows.T >= math.cos(angle)) & real
      chosen, members = cluster_tables.choose_caps(
          inside, clusters, noise_multiplier * inverse_epsilon, jax.random.fold_in(key, 0))
      table = cluster_tables.einsum("qn,nw->qw", members.astype(jnp.float32),
                                    cluster_tables.contributions(rows, real, count_weight))
      return chosen, table + stddev * jax.random.normal(jax.random.fold_in(key, 1), table.shape)

    chosen, tables = jax.lax.map(one_silo, (rows, real, cluster_tables.silo_keys(key, len(rows))))
    return (cluster_tables.read_clusters(tables, stddev, count_weight, significance),
            Transcript(tables[None], chosen))

  def event(noise_multiplier: float) -> dp_accounting.DpEvent:
    if noise_multiplier == 0:
      return dp_accounting.NonPrivateDpEvent()
    return dp_accounting.ComposedDpEvent([
        dp_accounting.GaussianDpEvent(noise_multiplier * sum_multiplier),
        dp_accounting.ZCDpEvent(selection_share / (2 * noise_multiplier**2))])

  words = (f"{clusters} caps of public candidates, chosen by the exponential mechanism, and the "
           f"sum of a silo's rows in each{_count_words(count_weight)}, with Gaussian noise")
  return ClusterMechanism(
      "exponential_caps", publish, event, sensitivity, clusters,
      _numbers(count_weight), True, False, words)


def dplc_published(*, clusters: int, angle: float, smallest: int, epsilon: float,
                   delta: float) -> ClusterMechanism:
  """DP local clustering as published (reconstructed); it does NOT keep its promise.

  Q times: of all caps around the silo's own rows take the one with most rows left; release the
  direction of their mean plus noise of deviation 2 sin(angle) / size * sqrt(2 ln(1.25 / delta)) /
  epsilon; take these rows away. Stop when fewer than `smallest` rows are in the largest cap.
  Which row is the centre depends on the data and is not noised, the noise is scaled by a private
  count, and so is the decision to stop. The noise multiplier of `publish` is ignored.

  Args:
    clusters: Q, at most the rows of a silo.
    angle: of a cap, in radians, in (0, pi/2].
    smallest: rows of a cap worth publishing, at least 1.
    epsilon, delta: what is claimed for one cluster.

  Raises:
    ValueError: any of these out of range, or (when publishing) fewer rows than clusters.
  """
  _check_at_least_one("clusters", clusters)
  _check_at_least_one("smallest", smallest)
  _check_angle(angle)
  if not (epsilon > 0 and math.isfinite(epsilon)):
    raise ValueError(f"epsilon must be positive and finite, got {epsilon}")
  if not 0 < delta < 1:
    raise ValueError(f"delta must be in (0, 1), got {delta}")
  scale = 2 * math.sin(angle) * math.sqrt(2 * math.log(1.25 / delta)) / epsilon

  def one_silo(silo):
    rows, real, key = silo
    inside = (rows @ rows.T >= math.cos(angle)) & real & real[:, None]
    _, members = cluster_tables.choose_caps(inside, clusters, 0.0, key)
    size = members.sum(1)
    mean = cluster_tables.einsum("qn,nd->qd", members.astype(jnp.float32), rows)
    mean /= jnp.maximum(size, 1)[:, None]
    noise = jax.random.normal(key, mean.shape) * (scale / jnp.maximum(size, 1))[:, None]
    present = size >= smallest
    return jnp.where(present[:, None], l2_normalise(mean + noise), 0), present

  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real, at_least=clusters)
    rows, real = cluster_tables.bounded(rows, real)
    centres, present = jax.lax.map(one_silo, (rows, real, cluster_tables.silo_keys(key, len(rows))))
    return (Clusters(centres, present.astype(jnp.float32), jnp.ones(present.shape)),
            Transcript(centres[None], cluster_tables.nothing_chosen(present)))

  words = ("no guarantee: the caps are chosen among the private rows by an un-noised count, and "
           "their sizes, which scale the noise, and the decision to stop are private too")
  return ClusterMechanism("dplc_published", publish, _non_private, math.inf, clusters,
                          lambda dims: dims, False,
                          False, words)


def kmeans(anchors: np.ndarray, *, iterations: int) -> ClusterMechanism:
  """`dp_lloyd` without noise and with exact counts: what clusters could do at best.

  Raises:
    ValueError: as `dp_lloyd`, or (when publishing) fewer rows than clusters.
  """
  exact = dp_lloyd(anchors, iterations=iterations, count_weight=1.0)

  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real, at_least=exact.clusters)
    return exact.publish(rows, real, 0.0, key)

  return exact._replace(name="kmeans", publish=publish, event=_non_private, adds_noise=False,
                        words="no guarantee: cluster sums and counts are released without noise")


def all_rows() -> ClusterMechanism:
  """Every row as a cluster of one person: what foreign class embeddings could do at best."""
  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real)
    rows, real = cluster_tables.bounded(rows, real)
    centres = l2_normalise(rows)
    people = (real & (centres != 0).any(-1)).astype(jnp.float32)
    return (Clusters(centres, people, jnp.ones_like(people)),
            Transcript(centres[None], cluster_tables.nothing_chosen(people)))

  return ClusterMechanism("all_rows", publish, _non_private, 1.0, None, lambda dims: dims, False,
                          False,
                          "no guarantee: every class embedding is released as it is")


def projected(mechanism: ClusterMechanism, basis: np.ndarray) -> ClusterMechanism:
  """Publishes in d' public dimensions: as many people drown in less noise.

  The norm of the noise shrinks by sqrt(D / d'); what rows have outside the basis is lost. Norms of
  rows do not grow, so sensitivity and event are those of `mechanism`.

  Args:
    mechanism: works on rows of d' dimensions: its anchors or candidates are [., d'].
    basis: [D, d'], PUBLIC orthonormal columns.

  Raises:
    ValueError: columns are not orthonormal, or the mechanism does not take d' dimensions.
  """
  columns = np.asarray(basis, np.float32)
  if columns.ndim != 2 or columns.size == 0 or not np.allclose(
      columns.T @ columns, np.eye(columns.shape[1]), rtol=0, atol=_TOLERANCE):
    raise ValueError(f"basis must be orthonormal columns [D, d'], got shape {columns.shape} whose "
                     "columns are not")
  dims, fewer = columns.shape
  silo = jnp.zeros((1, mechanism.clusters or 1, fewer))
  jax.eval_shape(  # refuses a mechanism of other dimensions
      mechanism.publish, silo, jnp.ones(silo.shape[:2], bool), 1.0, jax.random.key(0))

  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real, dims)
    coordinates = cluster_tables.einsum("knd,de->kne", rows, columns)
    clusters, transcript = mechanism.publish(coordinates, real, noise_multiplier, key)
    centres = l2_normalise(cluster_tables.einsum("kqe,de->kqd", clusters.centres, columns))
    return clusters._replace(centres=centres), transcript

  return mechanism._replace(
      name=f"{mechanism.name}_projected", publish=publish,
      numbers=lambda dims: mechanism.numbers(fewer),
      words=f"{mechanism.words}, of rows projected to {fewer} public dimensions")


def _noisy_tables(name: str, words: str, anchors: np.ndarray | None, iterations: int,
                  count_weight: float, significance: float, pooled: bool) -> ClusterMechanism:
  """Lloyd's algorithm; one iteration is a table, and without anchors there is one cell."""
  _check_not_negative(count_weight=count_weight, significance=significance)
  sensitivity, spread = math.sqrt(1 + count_weight**2), math.sqrt(iterations)

  def publish(rows, real, noise_multiplier, key):
    cluster_tables.check_rows(rows, real, None if anchors is None else anchors.shape[1])
    silos, _, dims = rows.shape
    rows, real = cluster_tables.bounded(rows, real)
    contributions = cluster_tables.contributions(rows, real, count_weight)
    stddev = noise_multiplier * spread * sensitivity
    public = jnp.zeros((1, dims)) if anchors is None else jnp.asarray(anchors)

    def iteration(centres, t):
      nearest = jnp.argmax(jnp.einsum("knd,kqd->knq", rows, centres), -1)
      exact = cluster_tables.einsum(
          "knq,knw->kqw", jax.nn.one_hot(nearest, len(public)), contributions)
      noise = stddev * cluster_tables.unit_noise(jax.random.fold_in(key, t), exact.shape, pooled)
      noisy = (exact.sum(0) if pooled else exact) + noise
      seen = cluster_tables.sums_of_others(exact) + noise if pooled else noisy
      read = cluster_tables.read_clusters(noisy, stddev, count_weight, significance)
      return jnp.where(read.people[..., None] > 0, read.centres, centres), (noisy, seen)

    start = jnp.broadcast_to(public, (silos, *public.shape))
    _, (noisy, seen) = jax.lax.scan(iteration, start, jnp.arange(iterations))
    clusters = cluster_tables.read_clusters(seen[-1], stddev, count_weight, significance)
    return clusters, Transcript(noisy, cluster_tables.nothing_chosen(clusters.people))

  def event(noise_multiplier: float) -> dp_accounting.DpEvent:
    one = dp_accounting.GaussianDpEvent(noise_multiplier * spread)
    return one if iterations == 1 else dp_accounting.SelfComposedDpEvent(one, iterations)

  words += f"{_count_words(count_weight)}, with Gaussian noise"
  if pooled:
    words += (" on the total over silos; this assumes secure aggregation, by which nobody sees a "
              "silo's own table, with the noise added before anybody sees the total")
  clusters = 1 if anchors is None else len(anchors)
  # Pooled silos add every table up; alone, a silo publishes the last one.
  numbers = _numbers(count_weight, iterations if pooled else 1)
  return ClusterMechanism(name, publish, event, sensitivity, clusters, numbers, True, pooled,
                          words)


def _non_private(noise_multiplier: float) -> dp_accounting.DpEvent:
  return dp_accounting.NonPrivateDpEvent()


def _numbers(count_weight: float, tables: int = 1) -> Callable[[int], int]:
  return lambda dims: tables * (dims + (1 if count_weight else 0))


def _count_words(count_weight: float) -> str:
  return f" and their number (weight {count_weight:g})" if count_weight else ""


def _unit_vectors(name: str, vectors: np.ndarray) -> np.ndarray:
  array = np.asarray(vectors, np.float32)
  if array.ndim != 2 or array.size == 0:
    raise ValueError(f"{name} must be unit vectors [Q, D], got shape {array.shape}")
  norms = np.linalg.norm(array, axis=1)
  if not (np.abs(norms - 1) <= _TOLERANCE).all():
    worst = int(np.argmax(~(np.abs(norms - 1) <= _TOLERANCE)))
    raise ValueError(f"{name} must be unit vectors: row {worst} has norm {norms[worst]:g}")
  return array


def _check_at_least_one(name: str, value: int) -> None:
  if value < 1:
    raise ValueError(f"{name} must be at least 1, got {value}")


def _check_angle(angle: float) -> None:
  if not 0 < angle <= math.pi / 2:
    raise ValueError(f"angle must be in (0, pi/2] radians, got {angle}")


def _check_not_negative(**values: float) -> None:
  for name, value in values.items():
    if not (value >= 0 and math.isfinite(value)):
      raise ValueError(f"{name} must be finite and at least 0, got {value}")
