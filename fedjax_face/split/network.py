"""A classifier cut in two: the device runs the part up to the cut, the server the rest.

A cut lies after a top-level block of the network, and after the ReLU where one follows the block
directly, for then the activation is non-negative and its sensitivity smaller. Only cuts through
which everything flows that the server needs are offered: none that a skip connection crosses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data import pixels
from fedjax_face.models.dense import Dense
from fedjax_face.split import dataflow

Params = Any

# Places of a cut that every network has, beside the names of its own blocks.
PLACES = ("first", "middle", "bottleneck")


class SplitNetwork(NamedTuple):
  """A classifier cut in two at a named block.

  Attributes:
    init: key -> {"device": params, "server": params}, disjoint; `merged` makes them one.
    device: (device params, images uint8 [B, H, W, C], or float and normalised already, for an
      attack that descends on them) -> activations f32 [B, *shape].
    server: (server params, activations [B, *shape]) -> logits f32 [B, classes].
    shape: of one activation.
    non_negative: no activation is ever below 0: it is a ReLU's output, possibly pooled.
  """

  init: Callable[[jax.Array], dict[str, Params]]
  device: Callable[[Params, jax.Array], jax.Array]
  server: Callable[[Params, jax.Array], jax.Array]
  shape: tuple[int, ...]
  non_negative: bool


class Classifier(nn.Module):
  """A backbone and a linear classifier on its raw embeddings; a bias for every class.

  The backbone's parameters keep their names; those of the classifier are under 'classifier'.

  Attributes:
    backbone: images float32 [B, H, W, C] -> raw embeddings float32 [B, D].
    num_classes: C.
  """

  backbone: nn.Module
  num_classes: int

  def setup(self) -> None:
    """Lets the backbone's blocks be this network's own."""
    nn.share_scope(self, self.backbone)
    self.classifier = Dense(self.num_classes)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images float32 [B, H, W, C] to logits float32 [B, num_classes]."""
    return self.classifier(self.backbone(x))


def cut_names(network: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
  """Blocks after which the network can be cut, in the order in which they run.

  Args:
    network: images float32 [B, H, W, C] -> logits, e.g. a `Classifier`.
    image_shape: (H, W, C).

  Raises:
    ValueError: the network does not take such images, or has parameters outside its blocks.
  """
  return _blocks(network, tuple(image_shape)).cuts


def block_name(network: nn.Module, cut: str, image_shape: tuple[int, int, int]) -> str:
  """The block that a cut names: itself, or the one at 'first', 'middle' or 'bottleneck'.

  'bottleneck' is the last cut: before the classifier, after the embedding.

  Raises:
    ValueError: there is no such cut; the message lists the names.
  """
  return _blocks(network, tuple(image_shape)).named(cut)


def split_network(network: nn.Module, cut: str,
                  image_shape: tuple[int, int, int]) -> SplitNetwork:
  """Cuts a network after a block.

  Args:
    network: images float32 [B, H, W, C] -> logits, e.g. a `Classifier`.
    cut: one of `cut_names`, or 'first', 'middle' or 'bottleneck' (see `block_name`).
    image_shape: (H, W, C); pixels are normalised in the device part.

  Raises:
    ValueError: there is no such cut; the message lists the names.
  """
  blocks = _blocks(network, tuple(image_shape))
  name = blocks.named(cut)
  relu = blocks.dataflow.feeds_relu(name)

  def init(key: jax.Array) -> dict[str, Params]:
    return blocks.part(name, network.init(key, jnp.zeros((1, *image_shape)))["params"])

  def device(params: Params, images: jax.Array) -> jax.Array:
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    output = blocks.head(name, params, images if floats else pixels.normalise(images))
    return nn.relu(output) if relu else output

  def server(params: Params, activations: jax.Array) -> jax.Array:
    rest = lambda params, activations: blocks.tail(name, params, activations)
    return (dataflow.without_relu if relu else _call)(rest, params, activations)

  return SplitNetwork(init, device, server, blocks.outputs[name].shape[1:],
                      relu or blocks.dataflow.non_negative(name))


def divided(network: nn.Module, cut: str, image_shape: tuple[int, int, int],
            variables: Mapping[str, Any]) -> dict[str, Params]:
  """Parameters of the whole network -> {"device": params, "server": params}.

  Args:
    network, cut, image_shape: as in `split_network`.
    variables: what `network.init` returned, or its trained value.

  Raises:
    ValueError: there is no such cut, or the parameters are not those of the network.
  """
  blocks = _blocks(network, tuple(image_shape))
  if set(variables["params"]) != set(blocks.params):
    raise ValueError(f"parameters of blocks {', '.join(variables['params'])} given; the network "
                     f"has {', '.join(blocks.params)}")
  return blocks.part(blocks.named(cut), variables["params"])


def merged(params: Mapping[str, Params]) -> dict[str, Params]:
  """{"device": params, "server": params} -> the variables that `network.apply` takes."""
  return {"params": {**params["device"], **params["server"]}}


def projected(split: SplitNetwork, matrix: np.ndarray) -> SplitNetwork:
  """The same network with a PUBLIC projection between the cut and the clip.

  The device sends a M of its flattened activation a, the server goes on with (a M) M^T. Noise grows
  with the root of the dimension, so p << d is what makes local noise bearable.

  Args:
    split: its activations have d entries.
    matrix: M, f32 [d, p], from public data; best with orthonormal columns.

  Raises:
    ValueError: the matrix is not finite or not of d rows.
  """
  matrix = np.asarray(matrix, np.float32)
  entries = int(np.prod(split.shape))
  if matrix.ndim != 2 or len(matrix) != entries or not np.isfinite(matrix).all():
    raise ValueError(f"the projection must be finite, of shape ({entries}, p) for activations of "
                     f"shape {split.shape}; got shape {matrix.shape}")

  def device(params: Params, images: jax.Array) -> jax.Array:
    return split.device(params, images).reshape(-1, entries) @ matrix

  def server(params: Params, activations: jax.Array) -> jax.Array:
    return split.server(params, (activations @ matrix.T).reshape(-1, *split.shape))

  return split._replace(device=device, server=server, shape=(matrix.shape[1],),
                        non_negative=split.non_negative and bool((matrix >= 0).all()))


def pooled(split: SplitNetwork, window: int) -> SplitNetwork:
  """The same network with mean-pooling between the cut and the clip.

  The device sends means over window x window places, the server repeats each of them over its
  window.

  Args:
    split: its activations are [H, W, C].
    window: places along a side; must divide H and W.

  Raises:
    ValueError: the activations have no places, or the window does not divide them.
  """
  if len(split.shape) != 3 or window < 1 or any(side % window for side in split.shape[:2]):
    raise ValueError(f"a pooling window of {window} does not divide activations of shape "
                     f"{split.shape}")
  height, width, channels = split.shape
  rows, columns = height // window, width // window

  def device(params: Params, images: jax.Array) -> jax.Array:
    activations = split.device(params, images)
    return activations.reshape(-1, rows, window, columns, window, channels).mean((2, 4))

  def server(params: Params, activations: jax.Array) -> jax.Array:
    repeated = jnp.repeat(jnp.repeat(activations, window, axis=1), window, axis=2)
    return split.server(params, repeated)

  return split._replace(device=device, server=server, shape=(rows, columns, channels))


def _call(function: Callable[..., Any], *args: Any) -> Any:
  return function(*args)


@functools.lru_cache(maxsize=4)
def _blocks(network: nn.Module, image_shape: tuple[int, int, int]) -> _Blocks:
  return _Blocks(network, image_shape)


class _Blocks:
  """The top-level blocks of a network in the order in which they run, and both sides of a cut."""

  def __init__(self, network: nn.Module, image_shape: tuple[int, int, int]):
    self.network, self.image_shape = network, image_shape
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    self.params = jax.eval_shape(network.init, jax.random.key(0), images)["params"]
    self.order: list[str] = []
    self.outputs: dict[str, Any] = {}
    self.dataflow = dataflow.Dataflow(self._marked, images, self.params)
    loose = [name for name in self.params if name not in self.order]
    if loose:
      raise ValueError(f"{type(network).__name__}: parameter {loose[0]!r} belongs to no block, so "
                       "the network cannot be cut")

  @property
  def cuts(self) -> tuple[str, ...]:
    """Blocks called once, with one array as output, through which everything flows."""
    single = [name for name in self.order[:-1] if self.order.count(name) == 1
              and isinstance(self.outputs[name], jax.ShapeDtypeStruct)]
    return tuple(name for name in single if not self.dataflow.bypassed(name))

  def named(self, cut: str) -> str:
    names = self.cuts
    if cut in names:
      return cut
    if not names:
      raise ValueError(f"{type(self.network).__name__} cannot be cut after any of its blocks")
    if cut in PLACES:
      return names[{"first": 0, "middle": len(names) // 2, "bottleneck": -1}[cut]]
    reason = (f"cut {cut!r} is crossed by another connection" if cut in self.order[:-1]
              else f"unknown cut {cut!r}")
    raise ValueError(f"{reason}; choose one of {', '.join((*names, *PLACES))}")

  def part(self, name: str, params: Mapping[str, Any]) -> dict[str, Params]:
    ahead = self._up_to(name)
    return {"device": {key: params[key] for key in params if key in ahead},
            "server": {key: params[key] for key in params if key not in ahead}}

  def head(self, name: str, params: Params, images: jax.Array) -> jax.Array:
    """Output of the block from normalised images; later blocks stand still."""
    outputs, ahead = {}, self._up_to(name)

    def around(block, run):
      if block not in ahead:
        return self._nothing(block, images.shape[0])
      outputs[block] = run()
      return outputs[block]

    self._run(params, images, around)
    return outputs[name]

  def tail(self, name: str, params: Params, activations: jax.Array) -> jax.Array:
    """What the network makes of the block's output; earlier blocks stand still."""
    batch, ahead = activations.shape[0], self._up_to(name)

    def around(block, run):
      if block == name:
        return activations
      return self._nothing(block, batch) if block in ahead else run()

    return self._run(params, jnp.zeros((batch, *self.image_shape)), around)

  def _up_to(self, name: str) -> list[str]:
    return self.order[:self.order.index(name) + 1]

  def _marked(self, images: jax.Array, params: Params) -> Any:
    def around(block, run):
      self.order.append(block)
      output = run()
      self.outputs[block] = jax.eval_shape(lambda: output)
      return dataflow.mark(output, block) if isinstance(output, jax.Array) else output

    return self._run(params, images, around)

  def _run(self, params: Params, images: jax.Array,
           around: Callable[[str, Callable[[], Any]], Any]) -> Any:
    """The network with around(name, run) in place of every top-level block."""

    def intercept(run, args, kwargs, context):
      path = context.module.path
      if len(path) != 1 or context.method_name != "__call__":
        return run(*args, **kwargs)
      return around(path[0], lambda: run(*args, **kwargs))

    with nn.intercept_methods(intercept):
      return self.network.apply({"params": params}, images)

  def _nothing(self, name: str, batch: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros((batch, *leaf.shape[1:]), leaf.dtype),
                        self.outputs[name])
