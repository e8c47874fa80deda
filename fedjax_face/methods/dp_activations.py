"""DP-A: split learning with an untrusted edge server that sees noised activations."""

from __future__ import annotations

from fedjax_face.federated.optimizers import Optimizer, adam
from fedjax_face.method import Method
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.lenet import lenet
from fedjax_face.options import register
from fedjax_face.split.cuts import Split, cut
from fedjax_face.split.device import Device, frozen
from fedjax_face.split.holders import Devices, devices
from fedjax_face.split.labels import Labels, pseudonym
from fedjax_face.split.learning import split_learning
from fedjax_face.split.mechanism import Activations, clipped_noise


@register.method
def dp_activations(*, backbone: Backbone = lenet(), split: Split = cut(),
                   activations: Activations = clipped_noise(), labels: Labels = pseudonym(),
                   device: Device = frozen(), clients: Devices = devices(),
                   server: Optimizer = adam()) -> Method:
  """Split learning on clipped and noised activations.

  Every device runs the network up to a cut, and the server the rest; an activation is private by
  itself before it leaves, and nothing is amplified. Labels are in clear by default.

  Args:
    backbone: of the network, whose last layer is a linear classifier of the training people.
    split: where it is cut, and what is made smaller before the clip.
    activations: clip and noise.
    labels: what the server learns of labels.
    device: whether the device part is frozen or trained, and how often noise is drawn.
    clients: who holds whose images.
    server: optimiser of the server part.

  Source: Mao et al., HotEdge 2018, whose own sensitivity and noise are not published, so the
  mechanism is ours; see `split.mechanism`.
  """
  return split_learning(clients, split.of(backbone), activations, labels, device, server.transform)
