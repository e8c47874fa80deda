"""DP-FedEmb's aggregation, PrivacyFace's clusters and FedGC's correction in one run."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, gaussian
from fedjax_face.federated.clients import Clients
from fedjax_face.federated.exchanges import Exchange, clusters
from fedjax_face.federated.head_life import StartOfSilo, at_home, kept_by_silos
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
def composed(*, backbone: Backbone = lenet(), head: Head = cosface(),
             start_head: StartOfSilo = "public_prototypes", clients: Clients = silos(),
             local: Local = local_steps(), exchange: Exchange = clusters(),
             correction: Correction = gradient_correction(), aggregate: Aggregate = gaussian(),
             server: Optimizer = averaging()) -> Method:
  """Every channel private: noised backbone updates and DP clusters, nothing else leaves a silo.

  Clusters of other silos are negatives of the consensus-aware loss, and the anchors from which each
  silo pushes its own class embeddings away after a round, at home. The budget's epsilon is the
  total of a person over both channels; the exchange's is what the clusters may take of it.

  Args:
    backbone: images -> embeddings.
    head: a classifier of a silo's own people.
    start_head: of a silo's class embeddings: `shared_frame`, random; `public_prototypes`, each
      person's prototype under the public start; `local_prototypes`, means of the silo's own images.
    clients: silos.
    local: steps on a silo's images.
    exchange: what silos publish of their people, and what that adds to the loss.
    correction: the gradient by which a silo moves its class embeddings away from the clusters.
    aggregate: from the silos' backbones to a mean.
    server: optimiser of the global backbone.
  """
  return federated(clients, train_locally(backbone, head, local, beside=exchange.loss),
                   heads=kept_by_silos(start_head, corrected=at_home(correction),
                                       exchange=exchange),
                   aggregate=aggregate, server=server)
