"""FedAvg with one global head (McMahan et al. 2017) and its private form (McMahan et al. 2018)."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, gaussian
from fedjax_face.federated.clients import Clients, virtual_clients
from fedjax_face.federated.head_life import shared_by_all
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, momentum
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def fedavg(*, backbone: Backbone = lenet(), head: Head = cosface(),
           clients: Clients = virtual_clients(), local: Local = local_steps(),
           aggregate: Aggregate = gaussian(), server: Optimizer = momentum()) -> Method:
  """Backbone and one head for all people are trained, clipped, noised and averaged.

  The baseline of DP-FedEmb; with silos, the oracle that shares every class embedding.

  Args:
    backbone: images -> embeddings.
    head: with a class for everybody; aggregated too.
    clients: who takes part.
    local: steps on a client's images.
    aggregate: how updates are clipped, summed and noised.
    server: optimiser of the global model.
  """
  return federated(clients, train_locally(backbone, head, local), heads=shared_by_all(),
                   aggregate=aggregate, server=server)
