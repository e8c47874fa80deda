"""FedAwS: the server spreads class embeddings out (Yu, Rawat, Menon, Kumar, ICML 2020)."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, mean
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.head_life import StartOfSilo, at_server, kept_by_silos
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, averaging
from fedjax_face.federated.silos import silos
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.losses.corrections import Correction, spreadout
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def fedaws(*, backbone: Backbone = lenet(), head: Head = cosface(),
           start_head: StartOfSilo = "shared_frame", clients: Clients = silos(),
           local: Local = local_steps(), correction: Correction = spreadout(),
           aggregate: Aggregate = mean(), server: Optimizer = averaging()) -> Method:
  """After every round the server pushes class embeddings of different silos apart, by distance.

  Args:
    backbone: images -> embeddings.
    head: a classifier of a silo's own people.
    start_head: of a silo's class embeddings: `shared_frame`, random; `public_prototypes`, each
      person's prototype under the public start; `local_prototypes`, means of the silo's own images.
    clients: silos.
    local: steps on a silo's images.
    correction: the server's gradient of the class embeddings.
    aggregate: from the silos' backbones to a mean.
    server: optimiser of the global backbone.
  """
  return federated(clients, train_locally(backbone, head, local),
                   heads=kept_by_silos(start_head, corrected=at_server(correction)),
                   aggregate=aggregate, server=server)
