"""What a single silo reaches alone: the lower bound of every federated method."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.pooled import pooled
from fedjax_face.federated.silos import silos
from fedjax_face.federated.training import train_locally
from fedjax_face.method import Method, Setting
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import at_least, register


@register.method
def local_only(*, backbone: Backbone = lenet(), head: Head = cosface(),
               clients: Clients = silos(),
               local: Local = local_steps(learning_rate=0.02, optimizer="momentum"),
               steps: Annotated[int, at_least(1)] = 4,
               only_silo: Annotated[int, at_least(0)] = 0) -> Method:
  """Trains on the images of one silo; nothing is exchanged, nothing is private.

  Args:
    backbone: images -> embeddings.
    head: with a class for each person of the silo.
    clients: silos.
    local: the steps; their epochs do not count, and the optimiser's state lives on.
    steps: optimiser steps of a round.
    only_silo: number of the silo.
  """
  return pooled(train_locally(backbone, head, local), steps,
                lambda train, setting: _held(clients, only_silo, train, setting))


def _held(clients: Clients, only_silo: int, train: FaceDataset, setting: Setting) -> np.ndarray:
  """Rows of the training set that the silo holds."""
  if clients.silos is None:
    raise ValueError("method.clients: local_only needs silos, which say who holds whom")
  dealt = clients.silos(train, setting.seed)
  if only_silo >= dealt.num_silos:
    raise ValueError(f"method.only_silo={only_silo}: expected 0 to {dealt.num_silos - 1}")
  rows = np.flatnonzero(dealt.silo == only_silo)
  if not len(rows):
    raise ValueError(f"method.only_silo={only_silo}: that silo holds nobody; expected one with "
                     "people")
  return rows
