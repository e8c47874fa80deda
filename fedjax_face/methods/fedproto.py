"""FedProto: silos that share classes learn from each other's prototypes (Tan et al., AAAI 2022)."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, mean
from fedjax_face.federated.class_prototypes import told_by_all
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, averaging
from fedjax_face.federated.silos import silos
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.losses.beside import Beside
from fedjax_face.losses.prototypes import to_prototypes
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, linear
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def fedproto(*, backbone: Backbone = lenet(), head: Head = linear(), clients: Clients = silos(),
             local: Local = local_steps(), prototypes: Beside = to_prototypes(),
             aggregate: Aggregate = mean(), server: Optimizer = averaging()) -> Method:
  """Each silo keeps its head; class prototypes pull embeddings of one class together everywhere.

  Unlike the paper, whose silos share prototypes alone, the backbone is averaged too, so that there
  is one model to judge. Classes are shared by the silos, as characters are by writers; the server
  and every silo see sums of embeddings by class, which have no guarantee.

  Args:
    backbone: images -> embeddings.
    head: of a silo, for all classes; never leaves it.
    clients: silos.
    local: steps on a silo's images.
    prototypes: what the loss adds for the prototypes.
    aggregate: from the silos' backbones to a mean.
    server: optimiser of the global backbone.
  """
  return federated(clients,
                   train_locally(backbone, head, local, beside=prototypes,
                                 beside_at=("prototypes",)),
                   heads=told_by_all(), aggregate=aggregate, server=server)
