"""PrivacyFace (Meng, Zhou, Ren, Feng, Liu, Lin, ICLR 2022), with mechanisms whose privacy holds."""

from __future__ import annotations

from fedjax_face.algorithms.clusters import NOT_COVERED, cluster_exchange
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import Table, silo_algorithm
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.federated.heads import HeadStrategy


def privacyface(given: Ingredients) -> Algorithm:
  """Silos learn from each other's people through a few differentially private clusters.

  Each silo trains backbone and own class embeddings with the clusters of the other silos as further
  negatives; the backbones are averaged by numbers of images. Clusters are published once, from a
  public backbone, or every few rounds. Until the first publication this is FedPE.
  """

  def heads(table: Table) -> HeadStrategy:
    return class_table.private(table.init, table.places, cluster_exchange(given, table),
                               table.prototypes)

  return silo_algorithm("privacyface", given, heads, not_covered=NOT_COVERED)
