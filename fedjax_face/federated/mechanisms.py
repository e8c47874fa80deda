"""Mechanisms by which a silo publishes clusters, as parts; see `privacy.clustering`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np

from fedjax_face.options import at_least, register, within
from fedjax_face.privacy import clustering
from fedjax_face.privacy.clustering import ClusterMechanism

Clusters = Annotated[int, at_least(1)]
Iterations = Annotated[int, within("[1, 1000]")]
Angle = Annotated[float, within("(0, pi/2]")]
Weight = Annotated[float, at_least(0)]


class Surroundings(NamedTuple):
  """What a mechanism is given when it is bound.

  Attributes:
    public_centres: number -> unit vectors [number, D], centres of public people.
    epsilon: what the exchange asks for over the whole run, or None.
    delta: of the run.
    publications: of the run.
  """

  public_centres: Callable[[int], np.ndarray]
  epsilon: float | None
  delta: float
  publications: int


class Mechanism(NamedTuple):
  """A way to publish clusters, before public people are known.

  Attributes:
    bind: Surroundings -> ClusterMechanism.
    clusters: of a silo; None: as many as it has people, or one.
    publishes_counts: whether numbers of people are published beside the centres.
    noise: options of the exchange of which one sets the noise: both where `adds_noise` of what it
      binds, an epsilon that is only claimed, or none.
  """

  bind: Callable[[Surroundings], ClusterMechanism]
  clusters: int | None
  publishes_counts: bool
  noise: tuple[str, ...] = ("epsilon", "noise_multiplier")


register.kind(Mechanism)


@register.mechanism
def client_mean(*, count_weight: Weight = 0.5, significance: Weight = 2.0,
                pooled: bool = False) -> Mechanism:
  """One cluster a silo: the noisy sum of its rows.

  Args:
    count_weight: beta, weight of the number of rows beside their sum; 0 releases no count.
    significance: clusters within so many standard deviations of noise alone are dropped.
    pooled: the sums of all silos are added up by secure aggregation.

  Source: ours; see `privacy.clustering.client_mean`.
  """
  return Mechanism(lambda given: clustering.client_mean(
      count_weight=count_weight, significance=significance, pooled=pooled), None, count_weight > 0)


@register.mechanism
def anchor_table(*, clusters: Clusters = 8, count_weight: Weight = 0.5, significance: Weight = 2.0,
                 pooled: bool = False) -> Mechanism:
  """Noisy sums of a silo's rows by nearest public anchor.

  Args:
    clusters: Q, of a silo: number of anchors.
    count_weight, significance, pooled: as of `client_mean`.

  Source: ours; see `privacy.clustering.anchor_table`.
  """
  return Mechanism(lambda given: clustering.anchor_table(
      given.public_centres(clusters), count_weight=count_weight, significance=significance,
      pooled=pooled), clusters, count_weight > 0)


@register.mechanism
def dp_lloyd(*, clusters: Clusters = 8, iterations: Iterations = 3, count_weight: Weight = 0.5,
             significance: Weight = 2.0, pooled: bool = False) -> Mechanism:
  """Lloyd's algorithm from public anchors, every iteration a released table.

  Args:
    clusters: Q, of a silo.
    iterations: T.
    count_weight, significance, pooled: as of `client_mean`.

  Source: Su et al., CODASPY 2016 (DPLloyd); see `privacy.clustering.dp_lloyd`.
  """
  return Mechanism(lambda given: clustering.dp_lloyd(
      given.public_centres(clusters), iterations=iterations, count_weight=count_weight,
      significance=significance, pooled=pooled), clusters, count_weight > 0)


@register.mechanism
def exponential_caps(*, clusters: Clusters = 8, candidates: Clusters = 64, angle: Angle = 0.8,
                     selection_share: Annotated[float, within("(0, 1)")] = 0.2,
                     count_weight: Weight = 0.5, significance: Weight = 2.0) -> Mechanism:
  """Caps around public candidates, chosen by an exponential mechanism, then noisy sums.

  Args:
    clusters: Q, of a silo.
    candidates: public centres to choose from.
    angle: of a cap, radians.
    selection_share: of the budget, that the choice takes.
    count_weight, significance: as of `client_mean`.

  Source: ours, after the published clustering; see `privacy.clustering.exponential_caps`.
  """
  return Mechanism(lambda given: clustering.exponential_caps(
      given.public_centres(candidates), clusters=clusters, angle=angle,
      selection_share=selection_share, count_weight=count_weight, significance=significance),
                   clusters, count_weight > 0)


@register.mechanism
def dplc_published(*, clusters: Clusters = 8, angle: Angle = 0.8,
                   smallest: Clusters = 5) -> Mechanism:
  """The published clustering, which does not keep its promise: no guarantee.

  Its noise is set by the epsilon of the exchange, claimed for one cluster of one publication; basic
  composition adds them up.

  Args:
    clusters: Q, of a silo.
    angle: of a cap, radians.
    smallest: rows of a cap worth publishing.

  Source: Meng et al., ICLR 2022 (PrivacyFace), reconstructed.
  """

  def bind(given: Surroundings) -> ClusterMechanism:
    assert given.epsilon is not None, "the exchange requires it"
    times = clusters * given.publications
    return clustering.dplc_published(
        clusters=clusters, angle=angle, smallest=smallest, epsilon=given.epsilon / times,
        delta=given.delta / times)

  return Mechanism(bind, clusters, publishes_counts=False, noise=("epsilon",))


@register.mechanism
def kmeans(*, clusters: Clusters = 8, iterations: Iterations = 3) -> Mechanism:
  """`dp_lloyd` without noise and with exact counts: no guarantee.

  Args:
    clusters: Q, of a silo.
    iterations: T.
  """
  return Mechanism(lambda given: clustering.kmeans(
      given.public_centres(clusters), iterations=iterations), clusters, publishes_counts=True,
                   noise=())


@register.mechanism
def all_rows() -> Mechanism:
  """Every person's row as a cluster of one: no guarantee; what clusters could do at best."""
  return Mechanism(lambda given: clustering.all_rows(), None, publishes_counts=True,
                   noise=())
