"""HyperFace on ResNet-101 with GroupNorm."""

from __future__ import annotations

import flax.linen as nn
import jax

from fedjax_face.models.embedding import require_images
from fedjax_face.models.hyperface import TaskBranches, TaskOutputs
from fedjax_face.models.pooling import global_avg_pool, max_pool
from fedjax_face.models.resnet import Bottleneck, ConvNorm


class HyperFaceResNet(nn.Module):
  """ResNet whose stages are added up, from the geometric to the semantic, for five tasks.

  The end of every stage (res2c, res3b3, res4b22, res5c) is halved by a 3x3 convolution with
  stride 2, GroupNorm and ReLU, and added to the end of the next; the sum goes on in the same way.
  The mean of the last sum, 32 times `channels` numbers (2048), is what the tasks share.

  Published: the stages, the hierarchical addition by strided convolutions, the shared vector.
  Chosen here: GroupNorm (no batch statistics), the 3x3 kernel, ReLU before the addition.

  Attributes:
    landmarks: L.
    blocks: number of bottleneck blocks of every stage; the default is ResNet-101.
    channels: channels of the first stage's 3x3 convolutions; doubled from stage to stage.
    groups: GroupNorm groups.
    task_features: size of each task's own dense layer.

  Source: Ranjan, Patel and Chellappa, TPAMI 2017, HyperFace-ResNet; He et al., CVPR 2016.
  """

  landmarks: int = 21
  blocks: tuple[int, ...] = (3, 4, 23, 3)
  channels: int = 64
  groups: int = 32
  task_features: int = 512

  @nn.compact
  def __call__(self, x: jax.Array) -> TaskOutputs:
    """Maps regions float32 [B, H, W, C], of any size, to the outputs of the five tasks."""
    require_images(x, "HyperFaceResNet")
    x = nn.relu(ConvNorm(self.channels, 7, 2, self.groups, name="stem")(x))
    x = joined = max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, count in enumerate(self.blocks):
      for index in range(count):
        x = Bottleneck(self.channels * 2**stage, 2 if stage and not index else 1, self.groups,
                        name=f"stage{stage}_block{index}")(x)
      joined = self._added(joined, x, stage) if stage else x
    return TaskBranches(self.landmarks, self.task_features, name="tasks")(global_avg_pool(joined))

  def _added(self, lower: jax.Array, higher: jax.Array, stage: int) -> jax.Array:
    halved = ConvNorm(higher.shape[-1], 3, 2, self.groups, name=f"join{stage}")(lower)
    return nn.relu(halved) + higher
