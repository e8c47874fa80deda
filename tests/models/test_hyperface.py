"""HyperFace: the published table by shapes alone, and tiny forward and backward passes."""

from __future__ import annotations

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.models import hyperface_resnet
from fedjax_face.models.hyperface import (
    ALEXNET_LAYOUT,
    SMALL_LAYOUT,
    HyperFace,
    TaskOutputs,
    local_response_norm,
)
from fedjax_face.models.hyperface_resnet import HyperFaceResNet
from fedjax_face.models.registry import TASK_NETWORKS, count_parameters, task_network
from fedjax_face.models.resnet import ResNet

# layer: (kernel, output of one image, parameters)
PUBLISHED = {
    "conv1": ((11, 11, 3, 96), (55, 55, 96), 34_944),
    "conv1a": ((4, 4, 96, 256), (6, 6, 256), 393_472),
    "conv2": ((5, 5, 96, 256), (27, 27, 256), 614_656),
    "conv3": ((3, 3, 256, 384), (13, 13, 384), 885_120),
    "conv3a": ((2, 2, 384, 256), (6, 6, 256), 393_472),
    "conv4": ((3, 3, 384, 384), (13, 13, 384), 1_327_488),
    "conv5": ((3, 3, 384, 256), (13, 13, 256), 884_992),
    "conv_all": ((1, 1, 768, 192), (6, 6, 192), 147_648),
    "fc_full": ((6912, 3072), (3072,), 21_236_736),
}
OUTPUTS = {"detection": 2, "landmarks": 42, "visibility": 21, "pose": 3, "gender": 2}

# Compiling is nearly all of the time here, and half of that is optimisation.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def shapes(module, image_shape, batch=1):
  """Variables, outputs and outputs of every layer as shapes, without computing anything."""
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), images)
  run = functools.partial(module.apply, capture_intermediates=True, mutable="intermediates")
  outputs, state = jax.eval_shape(run, variables, images)
  return variables, outputs, state["intermediates"]


@functools.cache
def published():
  return shapes(HyperFace(), (227, 227, 3))


def test_published_parameter_count():
  variables, _, _ = published()
  assert set(variables) == {"params"}
  assert count_parameters(variables) == 33_821_318


@pytest.mark.parametrize("layer", PUBLISHED)
def test_published_layers(layer):
  variables, _, intermediates = published()
  kernel, output, parameters = PUBLISHED[layer]
  assert variables["params"][layer]["kernel"].shape == kernel
  assert intermediates[layer]["__call__"][0].shape == (1, *output)
  assert count_parameters(variables["params"][layer]) == parameters


def test_published_branches():
  variables, _, _ = published()
  branches = variables["params"]["tasks"]
  assert set(variables["params"]) == {*PUBLISHED, "tasks"}
  assert set(branches) == {*OUTPUTS, *(f"fc_{task}" for task in OUTPUTS)}
  for task, size in OUTPUTS.items():
    assert branches[f"fc_{task}"]["kernel"].shape == (3072, 512)
    assert branches[task]["kernel"].shape == (512, size)
  assert sum(count_parameters(branches[task]) for task in OUTPUTS) == 35_910


@pytest.mark.parametrize(("name", "size", "landmarks"), [
    ("hyperface", 67, 5), ("hyperface_small", 64, 21), ("hyperface_small", 15, 5),
    ("hyperface_resnet", 64, 5)])
def test_outputs(name, size, landmarks):
  _, outputs, _ = shapes(task_network(name, landmarks), (size, size, 3), batch=2)
  assert isinstance(outputs, TaskOutputs)
  assert [o.shape for o in outputs] == [(2, 2), (2, landmarks, 2), (2, landmarks), (2, 3), (2, 2)]
  assert {o.dtype for o in outputs} == {jnp.dtype("float32")}


def test_small_parameter_count_and_taps():
  variables, _, intermediates = shapes(HyperFace(layout=SMALL_LAYOUT), (64, 64, 3))
  assert count_parameters(variables) == 306_806
  for layer in ("conv1a", "conv3a", "conv5", "conv_all"):
    assert intermediates[layer]["__call__"][0].shape[1:3] == (4, 4)


@pytest.mark.parametrize(("layout", "first", "last", "refused"), [
    (ALEXNET_LAYOUT, 67, 74, (66, 75)), (ALEXNET_LAYOUT, 99, 106, (98, 107)),
    (SMALL_LAYOUT, 15, 17, (14,))])
def test_accepted_sizes_are_those_whose_taps_can_be_joined(layout, first, last, refused):
  network = HyperFace(5, 0.1, layout)
  for size in (first, last):
    assert layout.accepts(size)
    shapes(network, (size, size, 1))
  for size in refused:
    nearest = first if size < first else last
    with pytest.raises(ValueError, match=f"the nearest accepted size is {nearest} pixels"):
      shapes(network, (size, first, 1))


def test_published_sizes_recur_every_32_pixels():
  accepted = [size for size in range(1, 240) if ALEXNET_LAYOUT.accepts(size)]
  assert accepted == [first + i for first in range(67, 240, 32) for i in range(8)
                      if first + i < 240]


def test_width_scales_hidden_layers_and_never_the_outputs():
  variables, _, _ = shapes(HyperFace(width=0.5), (227, 227, 3))
  params = variables["params"]
  assert params["conv1"]["kernel"].shape == (11, 11, 3, 48)
  assert params["fc_full"]["kernel"].shape == (6 * 6 * 96, 1536)
  assert params["tasks"]["landmarks"]["kernel"].shape == (256, 42)


@pytest.mark.parametrize(("make", "image_shape", "message"), [
    (lambda: HyperFace(), (64, 64, 3),
     "HyperFace: taps of 64 pixels have 1, 1, 0 places and cannot be joined; the nearest accepted "
     "size is 67 pixels"),
    (lambda: HyperFace(), (227, 210, 3), "HyperFace: taps of 210 pixels"),
    (lambda: HyperFace(), (3, 3, 3), "HyperFace: taps of 3 pixels"),
    (lambda: HyperFace(width=0.0, layout=SMALL_LAYOUT), (64, 64, 3),
     "HyperFace: width is 0.0; expected more"),
    (lambda: HyperFace(), (227, 227), r"HyperFace: images must be [B, H, W, C]"),
    (lambda: task_network("alexnet", 21), (64, 64, 3),
     f"unknown task network 'alexnet'; choose one of {', '.join(TASK_NETWORKS)}"),
    (lambda: task_network("hyperface_small", 21, layout=None), (64, 64, 3),
     "task network 'hyperface_small' has no option 'layout'"),
])
def test_errors_name_what_is_wrong_on_one_line(make, image_shape, message):
  with pytest.raises(ValueError) as error:
    shapes(make(), image_shape)
  assert str(error.value).startswith(message)
  assert "\n" not in str(error.value)


def test_resnet_is_resnet101_with_joins_and_branches():
  variables, _, intermediates = shapes(HyperFaceResNet(), (224, 224, 3))
  params = variables["params"]
  joins = {stage: count_parameters(params[f"join{stage}"]) for stage in (1, 2, 3)}
  assert joins == {i: 9 * c * 2 * c + 2 * 2 * c for i, c in ((1, 256), (2, 512), (3, 1024))}
  branches = 5 * (2048 * 512 + 512) + 35_910
  resnet101 = 42_500_160  # without its classifier
  assert count_parameters(params) == resnet101 + sum(joins.values()) + branches
  assert params["tasks"]["fc_pose"]["kernel"].shape == (2048, 512)
  for stage, (last, size) in enumerate(((2, 56), (3, 28), (22, 14), (2, 7))):
    block = intermediates[f"stage{stage}_block{last}"]["__call__"][0]
    assert block.shape == (1, size, size, 256 * 2**stage)


def test_resnet_has_the_stages_of_the_backbone():
  ours, _, _ = shapes(HyperFaceResNet(blocks=(2, 1), channels=8, groups=4), (32, 32, 3))
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  theirs = jax.eval_shape(ResNet(4, (2, 1), 8, 4).init, jax.random.key(0), images)
  shared = set(ours["params"]) & set(theirs["params"])
  assert shared == set(theirs["params"]) - {"embedding"}
  assert ({name: ours["params"][name] for name in shared}
          == {name: theirs["params"][name] for name in shared})


def test_local_response_norm_by_hand():
  x = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
  sums = np.array([1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16], np.float32)
  expected = x / (2 + 0.3 / 3 * sums)**0.5
  np.testing.assert_allclose(local_response_norm(x, 3, alpha=0.3, beta=0.5, bias=2.0), expected,
                             rtol=1e-6)


def test_local_response_norm_defaults_are_caffes():
  parameters = inspect.signature(local_response_norm).parameters.values()
  defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
  assert defaults == {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}


NETWORKS = {
    "alexnet": (HyperFace(3, 0.05), (2, 67, 67, 1)),
    "small": (HyperFace(3, 0.1, SMALL_LAYOUT), (2, 16, 32, 3)),
    "resnet": (HyperFaceResNet(3, (1, 1), 4, 2, 8), (2, 16, 12, 3)),
}


@functools.cache
def tiny(name):
  """Images, parameters, and the compiled network."""
  module, shape = NETWORKS[name]
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=shape), jnp.float32)
  draw = lambda s: jnp.asarray(rng.normal(0.1, 0.3, s.shape), s.dtype)
  params = jax.tree.map(draw, jax.eval_shape(module.init, jax.random.key(1), images))
  return images, params, jit(module.apply)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_task_reaches_all_shared_parameters_and_no_other_branch(name):
  images, params, _ = tiny(name)
  module, _ = NETWORKS[name]

  @jit
  def gradient_of(chosen):
    total = lambda params: sum(c * o.sum() for c, o in
                               zip(chosen, module.apply(params, images), strict=True))
    return jax.grad(total)(params)["params"]

  for index, task in enumerate(TaskOutputs._fields):
    gradient = gradient_of(jnp.eye(5)[index])
    branches = gradient["tasks"]
    shared = {layer: value for layer, value in gradient.items() if layer != "tasks"}
    own = {layer: branches[layer] for layer in (task, f"fc_{task}")}
    others = {layer: value for layer, value in branches.items() if layer not in own}
    assert all(jnp.isfinite(g).all() and jnp.abs(g).max() > 0
               for g in jax.tree.leaves((shared, own)))
    assert all(jnp.abs(g).max() == 0 for g in jax.tree.leaves(others))


@pytest.mark.parametrize("name", NETWORKS)
def test_regions_do_not_mix(name):
  images, params, apply = tiny(name)
  spoiled = apply(params, images.at[1].set(7.0))
  for before, after in zip(apply(params, images), spoiled, strict=True):
    np.testing.assert_allclose(after[0], before[0], rtol=1e-5, atol=1e-6)
    assert jnp.abs(after[1] - before[1]).max() > 1e-3


def test_resnet_shared_vector_sums_all_stages(monkeypatch):
  module, shape = NETWORKS["resnet"]
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  seen = []
  monkeypatch.setattr(hyperface_resnet, "global_avg_pool",
                      lambda x: seen.append(x.shape) or x.mean((1, 2)))
  jax.eval_shape(module.init, jax.random.key(0), images)
  assert seen == [(2, 2, 2, 32)]
