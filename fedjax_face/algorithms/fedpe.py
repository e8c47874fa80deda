"""FedPE: federated training with private class embeddings (Niu and Deng, AAAI 2022, baseline)."""

from __future__ import annotations

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import silo_algorithm
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm


def fedpe(given: Ingredients) -> Algorithm:
  """Only the backbone is averaged; class embeddings never leave their silo.

  Classes of different silos are never pushed apart: what FedAwS and FedGC mend.
  """
  return silo_algorithm("fedpe", given, lambda table: class_table.private(
      table.init, table.places, prototypes=table.prototypes))
