"""FedGC: federated face recognition with gradient correction (Niu and Deng, AAAI 2022)."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, mean
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.head_life import StartOfSilo, at_server, kept_by_silos
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, averaging
from fedjax_face.federated.silos import silos
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.losses.corrections import Correction, gradient_correction
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def fedgc(*, backbone: Backbone = lenet(), head: Head = cosface(),
          start_head: StartOfSilo = "shared_frame", clients: Clients = silos(),
          local: Local = local_steps(), correction: Correction = gradient_correction(),
          aggregate: Aggregate = mean(), server: Optimizer = averaging()) -> Method:
  """Silos train on their own classes; the server supplies the push between silos.

  Each silo starts from the global backbone and its corrected class embeddings, trains both by
  softmax over its own classes, and sends both. The server averages the backbones by numbers of
  images and moves every class embedding by the gradient of a softmax in which the other silos'
  class embeddings stand in for the features of their classes (Algorithm 1).

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
