"""Where a classifier is cut, as a part, and what is made of it from public images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.method import Setting
from fedjax_face.options import at_least, register
from fedjax_face.privacy.public_directions import principal_directions
from fedjax_face.split.network import (
    Classifier,
    Params,
    SplitNetwork,
    divided,
    pooled,
    projected,
    split_network,
)

PUBLIC_IMAGES = 1024  # of which directions and norms are taken


class Cut(NamedTuple):
  """A backbone and the place at which it is to be cut.

  Attributes:
    backbone: images float32 [B, H, W, C] -> raw embeddings float32 [B, D].
    after: name of a block, or 'first', 'middle' or 'bottleneck'.
    pooling: window of a mean-pooling before the clip; 1: none.
    projection: public principal directions that are kept before the clip; 0: all is kept.
  """

  backbone: Any
  after: str
  pooling: int
  projection: int

  def network(self, num_classes: int) -> Classifier:
    """The whole network: the backbone with a linear classifier for so many people."""
    return Classifier(self.backbone, num_classes)


class Split(NamedTuple):
  """Where networks are cut.

  Attributes:
    of: backbone -> Cut.
  """

  of: Callable[[Any], Cut]


register.kind(Split)


@register.split
def cut(*, after: str = "bottleneck", pooling: Annotated[int, at_least(1)] = 1,
        projection: Annotated[int, at_least(0)] = 32) -> Split:
  """Cuts after a block; what is sent may be made smaller by public means, as noise grows with it.

  Binding it raises ValueError for a block that there is not, or that a connection bypasses; for a
  window that does not divide the activations; and for directions that no public image gives.

  Args:
    after: a block of the network, or `first`, `middle` or `bottleneck`, the last place, after the
      embedding; the ReLU that follows a block directly belongs to it.
    pooling: window of a mean-pooling of the activations; 1: none.
    projection: p, principal directions of the activations of public images onto which activations
      are projected; 0: none.
  """
  return Split(lambda backbone: Cut(backbone, after, pooling, projection))


class Halves(NamedTuple):
  """A network that is cut, with the public parameters that both sides start from.

  Attributes:
    split: the cut network.
    device: parameters of the device part.
    init_server: key -> parameters of the server part.
  """

  split: SplitNetwork
  device: Params
  init_server: Callable[[jax.Array], Params]


def halves(chosen: Cut, num_classes: int, image_shape: tuple[int, int, int],
           setting: Setting) -> Halves:
  """Cuts a network for so many people and images of a shape (H, W, C).

  The device part starts from `setting.start`, or at random from `setting.seed`.

  Raises:
    ValueError: see `cut`.
  """
  network, start = chosen.network(num_classes), setting.start
  with _named("method.split.after", chosen.after):
    whole = split_network(network, chosen.after, image_shape)

  def init(key: jax.Array) -> dict[str, Params]:
    params = network.init(key, jnp.zeros((1, *image_shape)))["params"]
    if start is not None:
      params = {**params, **start["params"]}
    return divided(network, chosen.after, image_shape, {"params": params})

  device = init(jax.random.key(setting.seed))["device"]
  with _named("method.split.pooling", chosen.pooling):
    split = whole if chosen.pooling == 1 else pooled(whole, chosen.pooling)
  if chosen.projection:
    seen = public_activations(setting.public, split, device, "method.split.projection")
    with _named("method.split.projection", chosen.projection):
      split = projected(split, principal_directions(seen, chosen.projection))
  return Halves(split, device, lambda key: init(key)["server"])


def public_activations(public: FaceDataset | None, split: SplitNetwork, device: Params,
                       asked_by: str) -> np.ndarray:
  """f32 [P, d], flattened activations of some public images.

  Args:
    public: a set declared public, or None.
    split: the cut network.
    device: parameters of its device part.
    asked_by: the option that needs them, for the error.

  Raises:
    ValueError: there is no public set.
  """
  if public is None:
    raise ValueError(f"{asked_by} comes from public images: it needs data.public")
  run = jax.jit(split.device)
  chosen = public.images[:PUBLIC_IMAGES]
  found = [np.asarray(run(device, chosen[i:i + 64])) for i in range(0, len(chosen), 64)]
  return np.concatenate(found).reshape(len(chosen), -1)


@contextlib.contextmanager
def _named(path: str, value: Any) -> Iterator[None]:
  """Puts the option in front of what is refused for it."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path}={value!r}: {error}") from error
