"""Sums of clipped per-unit gradients, the deterministic half of DP-SGD.

A unit is what the guarantee protects, an image say; it has several regions, whose losses are summed
before its one gradient is clipped. The clip knows the sensitivity that it gives the sum. The sum is
computed by one of three forms that agree up to rounding:

  * `vmapped`: all gradients side by side;
  * `scanned`: one gradient at a time;
  * `ghost`: norms first (`fedjax_face.privacy.ghost_norm`), then one backward pass of the loss with
    each unit weighted by how much it is clipped.

Sources: Abadi et al., CCS 2016, Algorithm 1 (clipping); Lee and Kifer, PoPETs 2021 (the weighted
loss); De et al., arXiv 2204.13650 (augmentation multiplicity).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from fedjax_face.privacy.ghost_norm import Loss, ghost_norms
from fedjax_face.privacy.gradient_clip import GradientClip

Form = Literal["vmapped", "scanned", "ghost"]


class ClippedSum(NamedTuple):
  """Sums over the units of a batch. Only `gradient` is bounded; the rest is for private eyes.

  Attributes:
    gradient: sum of clipped gradients, as params (stacked: a leading axis of tasks).
    norm: f32 [U], of all that is clipped, before clipping; 0 for a unit that adds nothing: without
      regions, or with a gradient that is not finite.
    loss: [T], sum over the other units; T is 1 for a loss [N].
  """

  gradient: Any
  norm: jax.Array
  loss: jax.Array


ClippedGradientSum = Callable[[Any, Any, jax.Array, jax.typing.ArrayLike], ClippedSum]


def clipped_gradient_sum(
    loss: Loss,
    clip: GradientClip,
    form: Form,
    views: int = 1,
    units_at_once: int | None = None,
) -> ClippedGradientSum:
  """The sum of clipped per-unit gradients, as a function of parameters and a batch.

  Args:
    loss: (params, regions, arrays with a leading axis N) -> losses [N] or [N, T] of each region
      (and task). Row n must depend on region n alone: `ghost` relies on it. See `ghost_norms` for
      what else it asks of the loss.
    clip: what is clipped together.
    form: `vmapped`, `scanned` or `ghost`.
    views: augmented views of each region among the R of a unit; their mean counts.
    units_at_once: units of a physical batch, None for all; they are added up batch after batch.

  Returns:
    (params, batch of arrays [U, R, ...], mask bool [U, R] of what is not padding, clip_norm S) ->
    ClippedSum. What padding holds does not matter. A unit with a gradient that is not finite counts
    as one without regions, which costs `ghost` a second run of that batch.

  Raises:
    ValueError: unknown form, views or units_at_once below 1; on call, shapes that do not fit.
  """
  if form not in get_args(Form):
    raise ValueError(f"form {form!r} is not one of {', '.join(get_args(Form))}")
  _check_sizes(views, units_at_once)
  whole = _FORMS[form](_table(loss, clip), clip, views)

  def clipped_sum(params, batch, mask, clip_norm) -> ClippedSum:
    _check_batch(batch, mask, views)
    if units_at_once is None or units_at_once == mask.shape[0]:
      return whole(params, batch, mask, clip_norm)
    parts = _parts(batch, mask, units_at_once)
    return summed_over_parts(
        lambda part: whole(params, part[0], part[1], clip_norm), parts, parts[1].any((1, 2)))

  return clipped_sum


def unclipped_gradient_sum(loss: Loss, views: int = 1,
                           units_at_once: int | None = None) -> ClippedGradientSum:
  """The sum of gradients as they are, without any bound: what non-private training adds up.

  Arguments, result and errors are those of `clipped_gradient_sum`, but there are no norms of units
  (0), and losses and gradients must be finite, also of padding.
  """
  _check_sizes(views, units_at_once)

  def whole(params, batch, mask) -> ClippedSum:
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    weight = mask.reshape(-1, 1) / views

    def total(params):
      losses = loss(params, rows)
      losses = jnp.where(weight > 0, weight * losses.reshape(len(weight), -1), 0).sum(0)
      return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(params)
    return ClippedSum(gradient, jnp.zeros(mask.shape[0]), losses)

  def gradient_sum(params, batch, mask, clip_norm) -> ClippedSum:
    del clip_norm
    _check_batch(batch, mask, views)
    parts = _parts(batch, mask, units_at_once or mask.shape[0])
    return summed_over_parts(lambda part: whole(params, *part), parts, parts[1].any((1, 2)))

  return gradient_sum


def _table(loss: Loss, clip: GradientClip) -> Loss:
  """The loss as [N, T], checked."""

  def checked(params, rows):
    losses = loss(params, rows)
    regions = jax.tree.leaves(rows)[0].shape[0]
    if losses.ndim not in (1, 2) or losses.shape[0] != regions:
      raise ValueError(f"loss of {regions} regions has shape {losses.shape}, expected ({regions},) "
                       f"or ({regions}, tasks)")
    losses = losses.reshape(regions, -1)
    if clip.tasks not in (0, losses.shape[1]):
      raise ValueError(f"the clip is for {clip.tasks} tasks, the loss has {losses.shape[1]}")
    return losses

  return checked


def _check_sizes(views: int, units_at_once: int | None) -> None:
  if views < 1:
    raise ValueError(f"views must be at least 1, got {views}")
  if units_at_once is not None and units_at_once < 1:
    raise ValueError(f"units_at_once must be at least 1, got {units_at_once}")


def _parts(batch: Any, mask: jax.Array, units_at_once: int) -> tuple[Any, jax.Array]:
  """Batch and mask as [P, units_at_once, R, ...]."""
  if mask.shape[0] % units_at_once:
    raise ValueError(f"units_at_once={units_at_once} does not divide {mask.shape[0]} units")
  return jax.tree.map(lambda x: x.reshape(-1, units_at_once, *x.shape[1:]), (batch, mask))


def _check_batch(batch: Any, mask: jax.Array, views: int) -> None:
  for leaf in jax.tree.leaves(batch):
    if leaf.shape[:2] != mask.shape or mask.ndim != 2:
      raise ValueError(f"batch of {leaf.shape} and mask of {mask.shape} must both begin with "
                       "[U, R], units and regions")
  if mask.shape[1] % views:
    raise ValueError(f"{mask.shape[1]} regions of a unit are not a multiple of views={views}")


def summed_over_parts(function: Callable[[Any], ClippedSum], parts: Any,
                      occupied: jax.Array) -> ClippedSum:
  """Adds up the sums of all parts, one after the other; those not `occupied` [P] are not run."""
  shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  def body(totals, item):
    part, runs = item
    one = jax.lax.cond(runs, function, lambda _: nothing, part)
    return jax.tree.map(jnp.add, totals, (one.gradient, one.loss)), one.norm

  start = nothing.gradient, nothing.loss
  (gradient, loss), norm = jax.lax.scan(body, start, (parts, occupied))
  return ClippedSum(gradient, norm.reshape(-1), loss)


def _vmapped(loss: Loss, clip: GradientClip, views: int) -> ClippedGradientSum:
  one_unit = _one_unit(loss, clip, views)

  def clipped_sum(params, batch, mask, clip_norm):
    units = jax.vmap(one_unit, in_axes=(None, 0, 0, None))(params, batch, mask, clip_norm)
    gradient, total = jax.tree.map(lambda x: x.sum(0), (units.gradient, units.loss))
    return ClippedSum(gradient, units.norm, total)

  return clipped_sum


def _scanned(loss: Loss, clip: GradientClip, views: int) -> ClippedGradientSum:
  one_unit = _one_unit(loss, clip, views)
  return lambda params, batch, mask, clip_norm: summed_over_parts(
      lambda unit: one_unit(params, unit[0], unit[1], clip_norm), (batch, mask), mask.any(1))


def _one_unit(loss: Loss, clip: GradientClip, views: int) -> ClippedGradientSum:
  """The clipped gradient of one unit [R, ...], from the gradient itself."""

  def clipped(params, unit, mask, clip_norm):
    rows = jax.tree.map(lambda x: x[_filled(mask)], unit)
    losses, vjp = jax.vjp(lambda params: loss(params, rows), params)
    weight = mask[:, None] / views
    gradients = jax.vmap(lambda tasks: vjp(weight * tasks)[0])(_selections(clip, losses.shape[1]))
    leaves, structure = jax.tree.flatten(gradients)
    groups = clip.groups(params)
    scales, norm, adds = _scales(_squared_norms(leaves, groups), clip, clip_norm, mask.any())
    clipped = [jnp.where(adds, _times(scales[:, group], leaf), 0)
               for leaf, group in zip(leaves, groups, strict=True)]
    total = jnp.where(adds, (weight * losses).sum(0), 0)
    return ClippedSum(jax.tree.unflatten(structure, _over_tasks(clipped, clip)), norm, total)

  return clipped


def _squared_norms(leaves: list[jax.Array], groups: Sequence[int]) -> jax.Array:
  """[K, G] of leaves [K, ...]."""
  squared = jnp.zeros((leaves[0].shape[0], max(groups) + 1), jnp.float32)
  for leaf, group in zip(leaves, groups, strict=True):
    own = jnp.square(leaf.astype(jnp.float32)).reshape(leaf.shape[0], -1).sum(1)
    squared = squared.at[:, group].add(own)
  return squared


def _times(scales: jax.Array, leaf: jax.Array) -> jax.Array:
  """[K] times [K, ...], entry by entry: as a matrix product the factors could be rounded."""
  return scales.reshape(-1, *(1,) * (leaf.ndim - 1)) * leaf


def _over_tasks(leaves: list[jax.Array], clip: GradientClip) -> list[jax.Array]:
  return leaves if clip.stacked else [leaf.sum(0) for leaf in leaves]


def _ghost(loss: Loss, clip: GradientClip, views: int) -> ClippedGradientSum:

  def clipped_sum(params, batch, mask, clip_norm):
    batch = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
    tasks = jax.eval_shape(loss, params, batch).shape[1]

    def again(carry):
      return ~carry[2]

    def run(carry):
      result, adds = _ghost_pass(loss, clip, params, batch, mask, carry[0], views, clip_norm)
      return adds, result, (adds == carry[0]).all()

    kinds = (tasks,) if clip.stacked else ()
    nothing = ClippedSum(
        jax.tree.map(lambda x: jnp.zeros((*kinds, *x.shape), x.dtype), params),
        jnp.zeros(mask.shape[0]), jnp.zeros(tasks))
    adds, result, _ = jax.lax.while_loop(again, run, (mask.any(1), nothing, jnp.array(False)))
    return jax.tree.map(lambda x: jnp.where(adds.any(), x, 0), result)

  return clipped_sum


def _ghost_pass(loss, clip, params, batch, mask, keep, views, clip_norm):
  """The sum over the units of `keep` [U], and which of them had a finite gradient.

  Only if these are the same is the sum right: 0 times a gradient that is not finite is not 0, so
  such a unit must be left out of `keep`, and then another one's regions are run in its place.
  """
  groups = clip.groups(params)
  unit = _filled(keep)
  source = (unit[:, None] * mask.shape[1] + _filled(mask)[unit]).reshape(-1)
  rows = jax.tree.map(lambda x: x[source], batch)
  losses, backward = ghost_norms(loss, params, rows, mask.shape[0], groups)
  selections = _selections(clip, losses.shape[1])
  weight = (mask & keep[:, None]) / views

  def spread(by_unit: jax.Array) -> jax.Array:
    """[U, T], [U, 1] or [T] -> [N, T], times the regions' own weights."""
    by_region = weight[:, :, None] * by_unit[..., None, :]
    return jnp.broadcast_to(by_region, (*weight.shape, losses.shape[1])).reshape(losses.shape)

  squared = jnp.stack([backward(spread(tasks))[1] for tasks in selections], axis=1)
  scales, norm, adds = _scales(squared, clip, clip_norm, keep)

  def clipped_gradients(scales: jax.Array, selections: jax.Array) -> Any:
    """Sum over units and selected tasks; a backward pass for each group of scales [U, K, G]."""
    of_tasks = lambda g: jnp.matmul(
        scales[:, :, g], selections, precision=jax.lax.Precision.HIGHEST)
    by_group = [jax.tree.leaves(backward(spread(of_tasks(g)))[0])
                for g in range(len(clip.shares))]
    return jax.tree.unflatten(jax.tree.structure(params),
                              [by_group[group][i] for i, group in enumerate(groups)])

  if clip.stacked:
    by_task = [clipped_gradients(scales[:, k:k + 1], selections[k:k + 1])
               for k in range(selections.shape[0])]
    gradient = jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_task)
  else:
    gradient = clipped_gradients(scales, selections)
  return ClippedSum(gradient, norm, (spread(adds[:, None]) * losses).sum(0)), adds


def _filled(mask: jax.Array) -> jax.Array:
  """Places along the last axis [..., R], those of padding replaced by the first that is real."""
  return jnp.where(mask, jnp.arange(mask.shape[-1]), mask.argmax(-1, keepdims=True))


def _selections(clip: GradientClip, tasks: int) -> jax.Array:
  """[K, T]: which tasks' losses make up each of the K gradients that a unit has."""
  return jnp.eye(tasks) if clip.tasks else jnp.ones((1, tasks))


def _scales(
    squared: jax.Array, clip: GradientClip, clip_norm: jax.typing.ArrayLike, real: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """From squared norms [..., K, G] of units that are `real` [...] or not, what clipping does.

  Returns:
    Factors [..., K, G], norms before clipping [...], which units add to the sum [...].
  """
  adds = real & jnp.isfinite(squared).all((-2, -1))
  squared = jnp.where(adds[..., None, None], squared, 0)
  bound = jnp.maximum(clip_norm, 0) * jnp.array([share for _, share in clip.shares])
  norms = jnp.sqrt(squared)
  scales = jnp.where(norms > bound, bound / norms, 1)
  return jnp.where(adds[..., None, None], scales, 0), jnp.sqrt(squared.sum((-2, -1))), adds


_FORMS: dict[str, Callable[[Loss, GradientClip, int], ClippedGradientSum]] = {
    "vmapped": _vmapped, "scanned": _scanned, "ghost": _ghost}
