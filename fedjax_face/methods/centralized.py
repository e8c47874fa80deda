"""Centralised training on all images at once: the upper bound, and the pre-training stage."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.pooled import pooled
from fedjax_face.federated.training import train_locally
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, linear
from fedjax_face.models.lenet import lenet
from fedjax_face.options import at_least, register


@register.method
def centralized(*, backbone: Backbone = lenet(), head: Head = linear(),
                local: Local = local_steps(learning_rate=0.02, optimizer="momentum", batch_size=32),
                steps: Annotated[int, at_least(1)] = 64) -> Method:
  """Minibatch softmax training with one head over all identities; not private.

  Args:
    backbone: images -> embeddings.
    head: with a class for everybody.
    local: the steps; their epochs do not count, and the optimiser's state lives on.
    steps: optimiser steps of a round.
  """
  return pooled(train_locally(backbone, head, local), steps,
                lambda train, setting: np.arange(len(train)))
