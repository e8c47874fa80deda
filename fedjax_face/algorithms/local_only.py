"""What a single silo reaches alone: the lower bound of every federated method."""

from __future__ import annotations

import numpy as np

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.centralized import pooled_training
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.federated.algorithm import Algorithm


def local_only(given: Ingredients) -> Algorithm:
  """Trains on the images of the silo with the number `cohort.only_silo`; nothing is exchanged.

  Raises:
    ValueError: no `silos` section, no such silo, or one that holds nobody.
  """
  config = given.config
  if not config.get("silos"):
    raise ValueError("algorithm=local_only needs a silos section, which says who holds whom")
  silos, wanted = parts.silos(given), config.cohort.only_silo
  if not 0 <= wanted < silos.num_silos:
    raise ValueError(f"cohort.only_silo={wanted}: expected 0 to {silos.num_silos - 1}")
  rows = np.flatnonzero(silos.silo == wanted)
  if not len(rows):
    raise ValueError(f"cohort.only_silo={wanted}: that silo holds nobody; expected one with people")
  return pooled_training("local_only", given, rows)
