"""Backbones as parts: each makes its module, and is its call in a config; a user's own are too."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.models import registry
from fedjax_face.models.backbones import Backbone
from fedjax_face.models.iresnet import IResNet
from fedjax_face.models.lenet import LeNet
from fedjax_face.models.mobilenet import MOBILENET_V2_BLOCKS, MobileNetV2
from fedjax_face.models.reddi_cnn import ReddiCNN
from fedjax_face.models.resnet import ResNet
from fedjax_face.models.vgg_face import SMALL_STAGES, VGGFace
from fedjax_face.options import register

BLOCKS = ((1, 8, 1), (2, 8, 2))
CASES = {
    "lenet": ({"width": 0.25}, LeNet(8, width=0.25)),
    "lenet_small": ({}, LeNet(8, width=0.5)),
    "reddi_cnn": ({}, ReddiCNN(8)),
    "mobilenet_v2": ({"width": 0.5, "blocks": BLOCKS, "last_channels": 16},
                     MobileNetV2(8, 0.5, BLOCKS, 16)),
    "mobile_small": ({"width": 2.0}, MobileNetV2(8, 2.0, MOBILENET_V2_BLOCKS[:6], 640)),
    "resnet50": ({"blocks": (1, 1), "channels": 8, "groups": 4}, ResNet(8, (1, 1), 8, 4)),
    "iresnet18": ({}, IResNet(8, (2, 2, 2, 2))),
    "iresnet50": ({}, IResNet(8, (3, 4, 14, 3))),
    "vgg_face": ({"hidden": 9, "stages": ((4,), (4, 8))}, VGGFace(8, 9, ((4,), (4, 8)))),
    "vgg_face_small": ({"hidden": 9}, VGGFace(8, 9, SMALL_STAGES)),
}


@register.backbone
def flattened(*, embedding_dim: Annotated[int, options.at_least(1)] = 4) -> Backbone:
  """One layer on the pixels: a backbone of a user's own.

  Args:
    embedding_dim: D.
  """
  return nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(embedding_dim)])


def part(name):
  return registry.BACKBONES[name](embedding_dim=8, **CASES[name][0])


def test_every_name_of_the_registry_is_a_factory_with_a_case():
  names = set(options.kind_of(Backbone).names()) - {"flattened"}
  assert names == set(registry.BACKBONES) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_part_is_its_module_and_its_call(name):
  given, module = CASES[name]
  made = part(name)
  assert options.made(made) == module == registry.backbone(name, 8, **given)
  assert type(registry.backbone(name, 8, **given)) is type(module)
  assert options.build(Backbone, options.call(made), "backbone") == made
  assert options.hparams(made) == {}


@pytest.mark.parametrize("name, module", [
    ("lenet", LeNet()), ("reddi_cnn", ReddiCNN()), ("mobilenet_v2", MobileNetV2()),
    ("resnet50", ResNet()), ("iresnet18", IResNet()), ("vgg_face", VGGFace())])
def test_the_defaults_are_those_of_the_published_network(name, module):
  assert options.made(registry.BACKBONES[name]()) == module


def test_a_users_own_is_registered_in_the_same_way():
  name = f"{__name__}:flattened"
  images, section = jnp.ones((2, 3, 3, 1)), {"name": name, "embedding_dim": 5}
  for chosen in (registry.backbone(name, 5), registry.backbone("flattened", 5),
                 options.made(options.build(Backbone, section, "backbone"))):
    output, _ = chosen.init_with_output(jax.random.key(0), images)
    assert output.shape == (2, 5) and np.ptp(output) > 0
  made = flattened(embedding_dim=5)
  assert options.call(made) == {"name": name, "embedding_dim": 5}
  assert options.build(Backbone, options.call(made), "backbone") == made


@pytest.mark.parametrize("name, given, words", [
    ("vit", {}, "unknown backbone 'vit'; choose one of lenet"),
    ("lenet", {"embedding_dim": 0}, r"embedding_dim=0: expected a whole number in \[1, 65536\]"),
    ("lenet", {"width": "wide"}, "width='wide': expected a number"),
    ("lenet", {"depth": 3}, "backbone 'lenet' has no option 'depth'"),
    ("no.such.module:net", {}, "no.such.module:net: no.such.module cannot be"),
])
def test_what_is_refused_names_the_option(name, given, words):
  with pytest.raises(ValueError, match=words):
    registry.backbone(name, **{"embedding_dim": 8} | given)
