"""Networks of the five face tasks as parts, chosen before it is known how many landmarks there are.

A network of a user's own is registered in the same way, and is named `module:name` in a config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

import flax.linen as nn

from fedjax_face.models.hyperface import SMALL_LAYOUT, HyperFace
from fedjax_face.models.hyperface_resnet import HyperFaceResNet
from fedjax_face.options import register, within


class Network(NamedTuple):
  """A network of the five face tasks.

  Attributes:
    bind: number of landmarks L -> flax module, images float32 [B, H, W, C] -> `TaskOutputs`.
    frozen: layers that stay as in the network that a run starts from, such as 'conv1' or
      'tasks/fc_pose', with all that is beneath; see `models.frozen`.
  """

  bind: Callable[[int], nn.Module]
  frozen: tuple[str, ...] = ()


register.kind(Network)

Width = Annotated[float, within("(0, 100]")]
Size = Annotated[int, within("[1, 65536]")]
Blocks = Annotated[int, within("[1, 1000]")]


@register.network
def hyperface(*, width: Width = 1.0, frozen: tuple[str, ...] = ()) -> Network:
  """AlexNet whose early, middle and last features are joined; see `HyperFace`.

  Args:
    width: multiplies the channels and features of all hidden layers.
    frozen: layers that stay as in the network that a run starts from.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017; as used by Zhang et al., Front. Neurorobotics
    2020.
  """
  return Network(lambda landmarks: HyperFace(landmarks, width), frozen)


@register.network
def hyperface_small(*, width: Width = 1.0, frozen: tuple[str, ...] = ()) -> Network:
  """HyperFace for 64x64 images on a CPU: the same taps and branches, few channels, no LRN.

  306,806 parameters for 64x64x3 images and 21 landmarks; takes images of at least 15 pixels a side.

  Args:
    width, frozen: as of `hyperface`.
  """
  return Network(lambda landmarks: HyperFace(landmarks, width, SMALL_LAYOUT), frozen)


@register.network
def hyperface_resnet(*, blocks: tuple[Blocks, ...] = (3, 4, 23, 3), channels: Size = 64,
                     groups: Size = 32, task_features: Size = 512,
                     frozen: tuple[str, ...] = ()) -> Network:
  """HyperFace on ResNet-101 with GroupNorm; see `HyperFaceResNet`.

  Args:
    blocks: number of bottleneck blocks of every stage.
    channels: of the first stage's 3x3 convolutions; doubled from stage to stage.
    groups: of GroupNorm.
    task_features: size of each task's own dense layer.
    frozen: as of `hyperface`.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017, HyperFace-ResNet; He et al., CVPR 2016.
  """
  return Network(lambda landmarks: HyperFaceResNet(
      landmarks, blocks, channels, groups, task_features), frozen)
