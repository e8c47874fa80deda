"""DP-FedEmb (Xu, Collins, Wang, Panait, Oh, Augenstein, Liu, Schroff, McMahan, CVPR 2023)."""

from __future__ import annotations

from fedjax_face.federated.aggregates import Aggregate, gaussian
from fedjax_face.federated.clients import Classes, Clients, virtual_clients
from fedjax_face.federated.head_life import StartOfThrowAway, thrown_away
from fedjax_face.federated.local import Local, local_steps
from fedjax_face.federated.optimizers import Optimizer, momentum
from fedjax_face.federated.training import federated, train_locally
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.heads import Head, cosface
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register


@register.method
def dp_fedemb(*, backbone: Backbone = lenet(), head: Head = cosface(),
              start_head: StartOfThrowAway = "local_prototypes", classes: Classes = "own",
              clients: Clients = virtual_clients(), local: Local = local_steps(),
              aggregate: Aggregate = gaussian(), server: Optimizer = momentum()) -> Method:
  """User-level DP for image embeddings: virtual clients, partial aggregation, local fine-tuning.

  Each virtual client of several users starts from the global backbone and a throw-away head, trains
  both on its users' images, and sends only the clipped change of the backbone; the noised mean of
  these changes is a gradient for the server's momentum SGD.

  Args:
    backbone: images -> embeddings; all that is aggregated.
    head: of a client, thrown away after the round.
    start_head: `local_prototypes`, the means of the client's own images; `per_client`, random, anew
      each time (the paper); `shared_frame`, one random head for all (the released code).
    classes: that a head numbers: those of the client, or of everybody.
    clients: who takes part.
    local: steps on a client's images.
    aggregate: how updates are clipped, summed and noised.
    server: optimiser of the global backbone.
  """
  return federated(clients, train_locally(backbone, head, local),
                   heads=thrown_away(start_head, classes), aggregate=aggregate, server=server)
