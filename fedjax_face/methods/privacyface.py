"""PrivacyFace (Meng, Zhou, Ren, Feng, Liu, Lin, ICLR 2022), with mechanisms whose privacy holds."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, mean
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.exchanges import Exchange, clusters
from fedjax_face.federated.head_life import StartOfSilo, kept_by_silos
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, averaging
from fedjax_face.federated.silos import silos
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def privacyface(*, backbone: Backbone = lenet(), head: Head = cosface(),
                start_head: StartOfSilo = "public_prototypes", clients: Clients = silos(),
                local: Local = local_steps(), exchange: Exchange = clusters(),
                aggregate: Aggregate = mean(), server: Optimizer = averaging()) -> Method:
  """Silos learn from each other's people through a few differentially private clusters.

  Each silo trains backbone and own class embeddings with the clusters of the other silos as further
  negatives; the backbones are averaged by numbers of images. Clusters are published once, from a
  public backbone, or every few rounds. Until the first publication this is FedPE.

  Args:
    backbone: images -> embeddings.
    head: a classifier of a silo's own people.
    start_head: of a silo's class embeddings: `shared_frame`, random; `public_prototypes`, each
      person's prototype under the public start; `local_prototypes`, means of the silo's own images.
    clients: silos.
    local: steps on a silo's images.
    exchange: what silos publish of their people, and what that adds to the loss.
    aggregate: from the silos' backbones to a mean.
    server: optimiser of the global backbone.
  """
  return federated(clients, train_locally(backbone, head, local, beside=exchange.loss),
                   heads=kept_by_silos(start_head, exchange=exchange),
                   aggregate=aggregate, server=server)
