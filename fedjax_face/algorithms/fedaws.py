"""FedAwS: the server spreads class embeddings out (Yu, Rawat, Menon, Kumar, ICML 2020)."""

from __future__ import annotations

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import corrected_silos
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.losses.spreadout import spreadout


def fedaws(given: Ingredients) -> Algorithm:
  """After every round the server pushes class embeddings of different silos apart, by distance."""
  options = given.config.correction
  return corrected_silos(
      "fedaws", given, spreadout(options.form, options.block, axis_name="clients"))
