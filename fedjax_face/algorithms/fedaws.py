"""FedAwS: the server spreads class embeddings out (Yu, Rawat, Menon, Kumar, ICML 2020)."""

from __future__ import annotations

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import (
    CLIENTS_SEE_CORRECTIONS,
    SERVER_SEES_CLASSES,
    silo_algorithm,
)
from fedjax_face.federated import class_table
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.losses.spreadout import spreadout


def fedaws(given: Ingredients) -> Algorithm:
  """After every round the server pushes class embeddings of different silos apart, by distance."""
  options = given.config.correction
  correction = spreadout(options.form, options.block, axis_name="clients")
  return silo_algorithm(
      "fedaws", given,
      lambda table: class_table.corrected(table.init, table.places, class_table.gradient_steps(
          correction, table.places, given.mesh, options.steps)),
      releases=(SERVER_SEES_CLASSES, CLIENTS_SEE_CORRECTIONS))
