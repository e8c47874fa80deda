"""FedGC: federated face recognition with gradient correction (Niu and Deng, AAAI 2022)."""

from __future__ import annotations

from typing import Any

from fedjax_face.algorithms import parts
from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import corrected_silos
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.losses.class_pairs import Correction
from fedjax_face.losses.gradient_correction import gradient_correction


def fedgc(given: Ingredients) -> Algorithm:
  """Silos train on their own classes; the server supplies the push between silos.

  Each silo starts from the global backbone and its corrected class embeddings, trains both by
  softmax over its own classes, and sends both. The server averages the backbones by numbers of
  images and moves every class embedding by the gradient of a softmax in which the other silos'
  class embeddings stand in for the features of their classes (Algorithm 1).
  """
  return corrected_silos("fedgc", given, correction(given.config, axis_name="clients"))


def correction(config: Any, axis_name: str | None = None) -> Correction:
  """The correction of the config's `correction` section for its head.

  Args:
    config: with sections `correction` and `model`.
    axis_name: mesh axis over which the class embeddings are divided, or None.
  """
  options, normalised = config.correction, parts.head(config).normalised
  return gradient_correction(
      options.form, normalised, options.block, axis_name, self_term=not normalised)
