"""DP-FedEmb's aggregation, PrivacyFace's clusters and FedGC's correction in one run."""

from __future__ import annotations

from fedjax_face.algorithms.clusters import NOT_COVERED, cluster_exchange
from fedjax_face.algorithms.fedgc import correction
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import Table, silo_algorithm
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.federated.heads import HeadStrategy


def composed(given: Ingredients) -> Algorithm:
  """Every channel private: noised backbone updates and DP clusters, nothing else leaves a silo.

  Clusters of other silos are negatives of the consensus-aware loss, and the anchors from which each
  silo pushes its own class embeddings away after a round, at home. `privacy.epsilon` is the total
  of a person over both channels; `exchange.epsilon` is what the clusters may take of it.
  """

  def heads(table: Table) -> HeadStrategy:
    clusters = cluster_exchange(given, table)
    if clusters.anchors is None:
      raise ValueError("exchange.pooled: pooled clusters belong to no silo, so they cannot be "
                       "anchors of the correction; set exchange.pooled=False")
    correct = class_table.steps_at_home(correction(given.config), table.places,
                                        given.config.correction.steps, clusters.anchors,
                                        table.geometry)
    return class_table.corrected_at_home(
        table.init, table.places, correct, clusters, table.prototypes)

  return silo_algorithm("composed", given, heads, not_covered=NOT_COVERED)
