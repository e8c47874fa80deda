"""Norms of per-unit gradients from layer inputs and output gradients ("ghost" norms).

A layer's gradient for one unit is a function of what the layer saw of that unit and of the gradient
of its output. One backward pass of the whole batch therefore yields every unit's norm, layer by
layer, and no unit's gradient outlives its layer. The kernel of a dense or convolution layer may be
far larger than what it saw; then even the layer's own per-unit gradient is not needed:

    ||A^T G||_F^2 = sum of (A A^T) * (G G^T),   A [P, C] inputs, G [P, D] output gradients,

with a row for each region and place of the unit. Each layer takes the cheaper way.

The norm of one backward pass bounds the gradient of another, weighted one. That holds only if both
round alike, so every product of the loss, forward and backward, is one of full float32: with the
shorter factors that accelerators take by default (TF32, bfloat16) a clipped gradient would exceed
its bound.

Sources: Goodfellow, arXiv 1510.01799 (dense layers); Li et al., ICLR 2022, section 4 (positions);
Bu, Mao and Xu, NeurIPS 2022 (convolutions, the choice by layer).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_face.models.convolution import Conv, ConvReluMaxPool
from fedjax_face.models.dense import Dense
from fedjax_face.models.normalisation import GroupNorm, PReLU
from fedjax_face.models.pooling import padding_pairs

LARGEST_LOOSE = 256  # entries of parameters outside layers; each costs a forward derivative

Loss = Callable[[Any, Any], jax.Array]


class GhostNorms(NamedTuple):
  """A batch after its forward pass.

  Attributes:
    losses: [N, T], of every region and task.
    backward: weights [N, T] of the losses -> (gradient of the weighted sum, as params; squared
      norms f32 [U, G] of every unit's share of it, by group of parameters). Under jit, an output
      that is not used costs nothing.
  """

  losses: jax.Array
  backward: Callable[[jax.Array], tuple[Any, jax.Array]]


def ghost_norms(
    loss: Loss, params: Any, rows: Any, units: int, groups: Sequence[int]
) -> GhostNorms:
  """Runs the loss on all regions of all units at once, prepared to measure each unit's gradient.

  Args:
    loss: (params, regions with a leading axis N) -> losses [N, T]; row n depends on region n alone.
      Its `flax.linen` layers with parameters are those of `known_layers()`, each called once.
      Parameters may also be used outside layers (say, log-variances of tasks), after the last layer
      and up to LARGEST_LOOSE entries in all.
    params: the arrays handed to the layers, as they are (not cast, copied or inside a jit).
    rows: arrays [N, ...], unit by unit, N / units regions each.
    units: U.
    groups: for every leaf of params its group, 0 to G - 1.

  Raises:
    ValueError: a layer with parameters that is not known, or is used in a way that the norms would
      miss; the message names it.
  """
  leaves, structure = jax.tree.flatten(params)
  with _full_precision():
    loose = _loose_leaves(loss, params, rows)

  def forward(leaves: list[jax.Array], zeros: jax.Array):
    def of_loose(values: list[jax.Array]) -> jax.Array:
      given = [values[loose.index(i)] if i in loose else leaf for i, leaf in enumerate(leaves)]
      with nn.intercept_methods(_measuring(given, groups, units, zeros)):
        return loss(jax.tree.unflatten(structure, given), rows)

    return _with_jacobian(of_loose, [leaves[i] for i in loose])

  zeros = jnp.zeros((units, max(groups) + 1), jnp.float32)
  with _full_precision():
    losses, vjp, jacobians = jax.vjp(forward, leaves, zeros, has_aux=True)

  def backward(weights: jax.Array) -> tuple[Any, jax.Array]:
    with _full_precision():  # custom derivatives are traced only now
      gradient, squared = vjp(weights)
    for i, jacobian in zip(loose, jacobians, strict=True):
      per_region = (jacobian * weights).sum(2).T
      per_unit = per_region.reshape(units, -1, per_region.shape[1]).sum(1)
      squared = squared.at[:, groups[i]].add(_squared(per_unit).sum(1))
    return jax.tree.unflatten(structure, gradient), squared

  return GhostNorms(losses, backward)


def _full_precision():
  return jax.default_matmul_precision("highest")


def known_layers() -> tuple[str, ...]:
  """Names of the layer types whose gradients can be measured."""
  return tuple(f"{layer.__module__}.{layer.__name__}" for layer in _RULES)


def _measuring(leaves, groups, units, zeros):
  """An interceptor that has every layer's backward pass report squared norms as zeros' gradient."""
  group_of = {id(leaf): group for leaf, group in zip(leaves, groups, strict=True)}

  def intercept(next_fun, args, kwargs, context):
    own = _own_parameters(context.module)
    y = next_fun(*args, **kwargs)
    if not own or context.method_name != "__call__":
      return y
    layer = context.module.clone(parent=None, name=None)
    own_groups = {name: group_of[id(leaf)] for name, leaf in own.items()}
    return _measured(layer, own_groups, units)(y, *jax.lax.stop_gradient((args[0], own)), zeros)

  return intercept


def _measured(layer: nn.Module, own_groups: dict[str, int], units: int):
  """The identity in y; its gradient for `zeros` [U, G] is the layer's squared norms."""

  @jax.custom_vjp
  def identity(y, x, own, zeros):
    return y

  def forward(y, x, own, zeros):
    return y, (x, own, zeros)

  def backward(residuals, dy):
    x, own, zeros = residuals
    by_unit = [array.reshape(units, -1, *array.shape[1:]) for array in (x, dy)]
    squared = zeros
    for name, norms in _RULES[type(layer)](layer, own, *by_unit).items():
      squared = squared.at[:, own_groups[name]].add(norms.astype(zeros.dtype))
    return dy, None, None, squared

  identity.defvjp(forward, backward)
  return identity


def _materialised(layer, own, x, dy) -> dict[str, jax.Array]:
  """Squared norms [U] of the per-unit gradients themselves; x and dy are [U, R, ...].

  On a CPU unit after unit, so that what is made of one stays in the cache.
  """

  def one_unit(seen):
    x, dy = seen
    _, vjp = jax.vjp(lambda own: layer.apply({"params": own}, x), own)
    return {name: _squared(g).sum() for name, g in vjp(dy)[0].items()}

  over_units = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
  return over_units(one_unit, (x, dy))


def _dense(layer, own, x, dy) -> dict[str, jax.Array]:
  channels, features = own["kernel"].shape
  places = math.prod(x.shape[1:-1])
  if places * (channels + features) >= channels * features:
    return _materialised(layer, own, x, dy)
  return _from_grams(own, _gram(x), dy)


def _convolution(layer, own, x, dy) -> dict[str, jax.Array]:
  *window, channels, features = own["kernel"].shape
  regions, rows, columns = dy.shape[1:4]
  pairs = padding_pairs(layer.padding, x.shape[2:4], layer.kernel_size, layer.strides)
  pixels = regions * math.prod(s + sum(p) for s, p in zip(x.shape[2:4], pairs, strict=True))
  places = regions * rows * columns
  taps = math.prod(window)
  products = pixels**2 * channels + places**2 * (features + taps)
  if layer.feature_group_count > 1 or products >= places * taps * channels * features:
    return _materialised(layer, own, x, dy)
  x = jnp.pad(x, ((0, 0), (0, 0), *pairs, (0, 0)))
  seen = _window_gram(x, tuple(window), layer.strides, (rows, columns))
  return _from_grams(own, seen, dy)


def _gram(x: jax.Array) -> jax.Array:
  """[U, ..., C] -> [U, P, P], inner products between all places of a unit."""
  flat = x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)
  return jnp.einsum("upc,uqc->upq", flat, flat, precision=jax.lax.Precision.HIGHEST)


def _squared(x: jax.Array) -> jax.Array:
  return jnp.square(x.astype(jnp.float32))


def _window_gram(x, window, strides, size) -> jax.Array:
  """Gram matrix [U, P, P] of the patches of x [U, R, H, W, C], from that of its pixels.

  Two patches' inner product is the sum of their pixels', place by place of the window.
  """
  units, regions, height, width, _ = x.shape
  pixels = _gram(x).reshape(units, *(regions, height, width) * 2)
  total = jnp.zeros((units, *(regions, *size) * 2), pixels.dtype)
  for top in range(window[0]):
    for left in range(window[1]):
      down = slice(top, top + (size[0] - 1) * strides[0] + 1, strides[0])
      right = slice(left, left + (size[1] - 1) * strides[1] + 1, strides[1])
      total = total + pixels[:, :, down, right, :, down, right]
  places = regions * math.prod(size)
  return total.reshape(units, places, places)


def _from_grams(own, seen, dy) -> dict[str, jax.Array]:
  """Squared norms [U] of kernel and bias, from the inputs' Gram matrix [U, P, P]."""
  kernel = jnp.maximum((seen * _gram(dy)).sum((1, 2)), 0)  # rounding may leave it below 0
  if "bias" not in own:
    return {"kernel": kernel}
  bias = dy.reshape(dy.shape[0], -1, dy.shape[-1]).sum(1)
  return {"kernel": kernel, "bias": _squared(bias).sum(-1)}


_RULES: dict[type[nn.Module], Callable[..., dict[str, jax.Array]]] = {
    Conv: _convolution,
    ConvReluMaxPool: _materialised,
    Dense: _dense,
    GroupNorm: _materialised,
    PReLU: _materialised,
    nn.Conv: _materialised,
    nn.Dense: _dense,
    nn.GroupNorm: _materialised,
    nn.LayerNorm: _materialised,
}


def _own_parameters(module: nn.Module) -> dict[str, jax.Array]:
  """Parameters of the module itself, without those of its submodules."""
  params = module.variables.get("params", {})
  return {name: value for name, value in params.items() if isinstance(value, jax.Array)}


def _with_jacobian(function, values: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
  """(function(values) [N, T], its derivative [L, N, T] by the L entries of every value)."""
  jacobians = []
  for i, value in enumerate(values):
    def of_one(entries, i=i, shape=value.shape):
      return function([*values[:i], entries.reshape(shape), *values[i + 1:]])

    entries = value.reshape(-1)
    directions = jnp.eye(entries.size, dtype=entries.dtype)
    losses, jacobian = jax.vmap(
        lambda direction, of_one=of_one, entries=entries: jax.jvp(of_one, (entries,), (direction,)),
        out_axes=(None, 0))(directions)
    jacobians.append(jacobian)
  return (losses if values else function(values)), jacobians


def _loose_leaves(loss: Loss, params: Any, rows: Any) -> list[int]:
  """Indices of the leaves that the loss uses outside layers; checks how layers are used.

  The loss is traced with the output of every layer cut off from what made it: the leaves on which
  its value still depends are those used outside.
  """
  paths, structure = jax.tree.flatten_with_path(params)
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
  regions = jax.tree.leaves(rows)[0].shape[0]
  covered: set[int] = set()

  def cut(leaves, rows):
    inputs: list[jax.Array] = []
    index_of = {id(leaf): i for i, leaf in enumerate(leaves)}

    def intercept(next_fun, args, kwargs, context):
      own = _own_parameters(context.module)
      y = next_fun(*args, **kwargs)
      if own:
        _check_layer(context.module, own, args, kwargs, y, regions)
      if not own or context.method_name != "__call__":
        return y
      covered.update(_indices(context.module, own, index_of, covered))
      inputs.append(args[0])
      return jnp.zeros(y.shape, y.dtype)

    with nn.intercept_methods(intercept):
      return loss(jax.tree.unflatten(structure, leaves), rows), inputs

  jaxpr = jax.make_jaxpr(cut)([leaf for _, leaf in paths], rows).jaxpr
  variables = jaxpr.invars[:len(paths)]
  before, outside = (_live(jaxpr, outputs) for outputs in (jaxpr.outvars[1:], jaxpr.outvars[:1]))
  loose = [i for i, variable in enumerate(variables) if id(variable) in outside]
  for i, variable in enumerate(variables):
    if id(variable) in before:
      raise ValueError(f"parameter {names[i]!r} acts outside a layer before the last one; ghost "
                       "norms take such parameters after the last layer only")
    if i in loose and i in covered:
      raise ValueError(f"parameter {names[i]!r} is used by a layer and also outside it; ghost "
                       "norms would miss the second use")
  total = sum(paths[i][1].size for i in loose)
  if total > LARGEST_LOOSE:
    raise ValueError(f"parameters {[names[i] for i in loose]} are used outside layers and have "
                     f"{total} entries; ghost norms take at most {LARGEST_LOOSE} such entries")
  return loose


def _check_layer(module, own, args, kwargs, y, regions: int) -> None:
  words = f"layer {'/'.join(module.path)!r} of type {type(module).__name__}"
  if type(module) not in _RULES:
    raise ValueError(f"{words} has parameters {sorted(own)} and no ghost norm; known layers are "
                     f"{', '.join(known_layers())}")
  if len(args) != 1 or kwargs:
    raise ValueError(f"{words} is called with more than one input, ghost norms take one")
  if args[0].shape[0] != regions or y.shape[0] != regions:
    raise ValueError(f"{words} maps {args[0].shape} to {y.shape}; ghost norms need one leading row "
                     f"for each of the {regions} regions")


def _indices(module, own, index_of: dict[int, int], covered: set[int]) -> list[int]:
  """Which leaves of params a layer's own parameters are."""
  words = f"layer {'/'.join(module.path)!r} of type {type(module).__name__}"
  if any(id(leaf) not in index_of for leaf in own.values()):
    raise ValueError(f"{words} does not get its parameters as they are in params; ghost norms "
                     "need the very arrays, not cast, copied or inside jit, scan or checkpoint")
  indices = [index_of[id(leaf)] for leaf in own.values()]
  if covered.intersection(indices):
    raise ValueError(f"{words} shares its parameters with an earlier call; ghost norms take one "
                     "call of each layer")
  return indices


def _live(jaxpr, outputs) -> set[int]:
  """Ids of the variables that the outputs depend on; a nested call depends on all its inputs."""
  live = {id(variable) for variable in outputs}
  for equation in reversed(jaxpr.eqns):
    if any(id(variable) in live for variable in equation.outvars):
      live.update(id(variable) for variable in equation.invars)
  return live
