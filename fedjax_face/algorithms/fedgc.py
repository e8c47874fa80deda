"""FedGC: federated face recognition with gradient correction (Niu and Deng, AAAI 2022)."""

from __future__ import annotations

from fedjax_face.algorithms.parts import Ingredients
from fedjax_face.algorithms.silos import corrected_silos
from fedjax_face.federated.algorithm import Algorithm
from fedjax_face.losses.gradient_correction import gradient_correction
from fedjax_face.models.margins import arcface_margin, cosface_margin


def fedgc(given: Ingredients) -> Algorithm:
  """Silos train on their own classes; the server supplies the push between silos.

  Each silo starts from the global backbone and its corrected class embeddings, trains both by
  softmax over its own classes, and sends both. The server averages the backbones by numbers of
  images and moves every class embedding by the gradient of a softmax in which the other silos'
  class embeddings stand in for the features of their classes (Algorithm 1).
  """
  options, head = given.config.correction, given.config.model.head
  return corrected_silos("fedgc", given, gradient_correction(
      options.form, normalised=head != "linear", block=options.block, axis_name="clients",
      self_term=head == "linear",
      with_margin=arcface_margin if head == "arcface" else cosface_margin))
