"""Cuts: which are offered, that both sides together are the network, projections."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.data import pixels
from fedjax_face.models.hyperface import SMALL_LAYOUT, HyperFace
from fedjax_face.models.iresnet import IResNet
from fedjax_face.models.lenet import LeNet
from fedjax_face.models.mobilenet import MobileNetV2
from fedjax_face.models.resnet import ResNet
from fedjax_face.models.vgg_face import VGGFace
from fedjax_face.split.network import (
    Classifier,
    block_name,
    cut_names,
    divided,
    merged,
    pooled,
    projected,
    split_network,
)
from tests.split import tiny

# network, image shape, {cut: (shape of one activation, non-negative)}
NETWORKS = {
    "lenet": (LeNet(6), (8, 8, 1), {
        "conv0": ((4, 4, 32), True), "conv1": ((2, 2, 64), True), "embedding": ((6,), False)}),
    "mobilenet": (MobileNetV2(6, 0.25, blocks=((1, 8, 1), (2, 8, 1)), last_channels=16),
                  (8, 8, 3), {
        "stem": ((4, 4, 8), True), "block0": ((4, 4, 8), False), "block1": ((4, 4, 8), False),
        "last": ((4, 4, 16), True), "embedding": ((6,), False)}),
    "resnet": (ResNet(6, blocks=(1, 1), channels=4, groups=2), (16, 16, 3), {
        "stem": ((8, 8, 4), True), "stage0_block0": ((4, 4, 16), True),
        "stage1_block0": ((2, 2, 32), True), "embedding": ((6,), False)}),
    "iresnet": (IResNet(6, blocks=(1,), channels=4, groups=2), (8, 8, 3), {
        "stem_conv": ((8, 8, 4), False), "stem_norm": ((8, 8, 4), False),
        "stem_prelu": ((8, 8, 4), False), "stage0_block0": ((4, 4, 4), False),
        "norm": ((4, 4, 4), False), "embedding": ((6,), False)}),
    "vgg_face": (VGGFace(6, 8, ((4,), (4, 4))), (8, 8, 3), {
        "conv1_1": ((4, 4, 4), True), "conv2_1": ((4, 4, 4), True), "conv2_2": ((2, 2, 4), True),
        "fc6": ((8,), True), "fc7": ((6,), True)}),
}


def images(shape, size=2):
  return np.random.default_rng(0).integers(0, 256, (size, *shape)).astype(np.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_cuts_their_shapes_and_signs(name):
  backbone, shape, expected = NETWORKS[name]
  network = Classifier(backbone, 3)
  assert cut_names(network, shape) == tuple(expected)
  for cut, (activation, non_negative) in expected.items():
    split = split_network(network, cut, shape)
    assert (split.shape, split.non_negative) == (activation, non_negative), cut


@pytest.mark.parametrize(("name", "cut"), [
    ("lenet", "conv1"), ("mobilenet", "block0"), ("resnet", "stem"), ("iresnet", "stage0_block0"),
    ("vgg_face", "conv2_1"), ("vgg_face", "fc7")])
def test_both_sides_together_are_the_network(name, cut):
  backbone, shape, _ = NETWORKS[name]
  network = Classifier(backbone, 3)
  split = split_network(network, cut, shape)
  params = tiny.drawn(split)
  x = images(shape)
  activations = jax.jit(split.device)(params["device"], x)
  whole = jax.jit(network.apply)(merged(params), pixels.normalise(x))
  assert activations.shape == (2, *split.shape)
  assert not set(params["device"]) & set(params["server"])
  assert not split.non_negative or (activations >= 0).all()
  np.testing.assert_allclose(jax.jit(split.server)(params["server"], activations), whole,
                             rtol=1e-4, atol=1e-5)


def test_classifier_keeps_the_backbones_parameters():
  network = Classifier(LeNet(6), 3)
  x = jnp.zeros((1, 8, 8, 1))
  backbone = jax.eval_shape(LeNet(6).init, jax.random.key(0), x)
  variables = jax.jit(network.init)(jax.random.key(0), x)
  assert set(variables["params"]) == {*backbone["params"], "classifier"}
  params = divided(network, "conv0", (8, 8, 1), variables)
  assert set(params["device"]) == {"conv0"}
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, merged(params), variables)))
  own = jax.jit(split_network(network, "conv0", (8, 8, 1)).init)(jax.random.key(0))
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, own, params)))


def test_server_does_not_repeat_the_relu_of_the_cut():
  # A ReLU follows conv0 outside the block; noised activations below 0 must count.
  split, params, _ = tiny.network("conv0")
  negative = -jnp.ones((1, *split.shape))
  server = jax.jit(split.server)
  below, at = (server(params["server"], x) for x in (negative, 0 * negative))
  assert jnp.abs(below - at).max() > 1e-2


def test_gradients_of_both_sides_are_those_of_the_network():
  split, params, _ = tiny.network("conv0")
  x = tiny.batch()[0]
  parts = lambda p: jnp.sum(split.server(p["server"], split.device(p["device"], x))**2)
  whole = lambda p: jnp.sum(tiny.NETWORK.apply(merged(p), pixels.normalise(x))**2)
  for one, other in zip(jax.tree.leaves(jax.jit(jax.grad(parts))(params)),
                        jax.tree.leaves(jax.jit(jax.grad(whole))(params)), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_server_part_runs_under_vmap_and_any_batch():
  split, params, _ = tiny.network("conv0")
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, *split.shape)), jnp.float32)
  mapped = jax.jit(jax.vmap(split.server, in_axes=(None, 0)))(params["server"], x)
  alone = jax.jit(split.server)(params["server"], x[1])
  np.testing.assert_allclose(mapped[1], alone, rtol=1e-4, atol=1e-5)


def test_cuts_crossed_by_taps_are_refused():
  network, shape = HyperFace(landmarks=4, layout=SMALL_LAYOUT), (64, 64, 3)
  assert cut_names(network, shape) == ("conv1", "conv_all", "fc_full")
  with pytest.raises(ValueError, match="cut 'conv3' is crossed by another connection; choose one "
                                       "of conv1, conv_all, fc_full, first, middle, bottleneck"):
    split_network(network, "conv3", shape)


def test_unknown_cut_lists_the_names():
  with pytest.raises(ValueError, match="^unknown cut 'conv9'; choose one of conv0, conv1, "
                                       "embedding, first, middle, bottleneck$"):
    split_network(tiny.NETWORK, "conv9", tiny.SHAPE)


def test_places_name_blocks():
  names = [block_name(tiny.NETWORK, place, tiny.SHAPE) for place in ("first", "middle",
                                                                     "bottleneck", "conv1")]
  assert names == ["conv0", "conv1", "embedding", "conv1"]


def test_parameters_outside_blocks_are_refused():

  class Loose(nn.Module):

    @nn.compact
    def __call__(self, x):
      return nn.Dense(2, name="one")(x.reshape(x.shape[0], -1)) + self.param(
          "shift", nn.initializers.zeros, (2,))

  with pytest.raises(ValueError, match="parameter 'shift' belongs to no block"):
    cut_names(Loose(), (2, 2, 1))


def test_other_parameters_are_refused():
  with pytest.raises(ValueError, match="parameters of blocks conv0 given; the network has classi"):
    divided(tiny.NETWORK, "conv0", tiny.SHAPE, {"params": {"conv0": {}}})


def test_projection_by_hand():
  split, params, _ = tiny.network("embedding")
  matrix = np.eye(6, 2, dtype=np.float32)
  small = projected(split, matrix)
  whole = jax.jit(split.device)(params["device"], tiny.batch()[0])
  assert small.shape == (2,) and small.non_negative
  sent = jax.jit(small.device)(params["device"], tiny.batch()[0])
  np.testing.assert_allclose(sent, whole[:, :2], rtol=1e-6)
  np.testing.assert_allclose(jax.jit(small.server)(params["server"], whole[:, :2]),
                             jax.jit(split.server)(params["server"], whole.at[:, 2:].set(0)),
                             rtol=1e-5)
  assert not projected(split, -matrix).non_negative
  with pytest.raises(ValueError, match=r"shape \(6, p\) for activations of shape \(6,\)"):
    projected(split, matrix[:5])


def test_pooling_by_hand():
  split, params, _ = tiny.network("conv1")
  x = tiny.batch()[0]
  small = pooled(split, 2)
  means = jax.jit(split.device)(params["device"], x).mean((1, 2), keepdims=True)
  assert small.shape == (1, 1, 8) and small.non_negative
  np.testing.assert_allclose(jax.jit(small.device)(params["device"], x), means, rtol=1e-5,
                             atol=1e-6)
  everywhere = jnp.broadcast_to(means, (4, 2, 2, 8))
  np.testing.assert_allclose(jax.jit(small.server)(params["server"], means),
                             jax.jit(split.server)(params["server"], everywhere), rtol=1e-5)
  with pytest.raises(ValueError, match="window of 3 does not divide"):
    pooled(split, 3)
