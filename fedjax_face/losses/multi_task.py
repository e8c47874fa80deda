"""Losses of five face tasks, their weights, and the mirror image of a labelled region.

    detection, gender   softmax cross-entropy
    landmarks           1/(2L) sum_i v_i |prediction_i - landmark_i|^2
    visibility          1/L sum_i (prediction_i - v_i)^2
    pose                1/3 of the squared error, radians

Source: Ranjan, Patel and Chellappa, TPAMI 2017; Zhang et al., Frontiers in Neurorobotics 13:112,
2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from fedjax_face.models.hyperface import TaskOutputs

TASKS = ("detection", "landmarks", "visibility", "pose", "gender")

HYPERFACE_WEIGHTS = (1.0, 5.0, 0.5, 5.0, 2.0)
"""The published weights of the losses, in the order of `TASKS`."""

LOG_VARIANCE_BOUND = 6.0
"""Log-variances are kept within plus and minus this."""

AFLW_MIRROR = (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 16, 15, 14, 13, 12, 19, 18, 17, 20)
"""Which of the 21 AFLW points each becomes in the mirror."""

FIVE_POINT_MIRROR = (1, 0, 2, 4, 3)
"""The same for two eyes, nose, two corners of the mouth."""

Frame = Literal["corner", "centre"]
Params = Any


class Targets(NamedTuple):
  """What is known about B regions; L landmarks.

  Attributes:
    face: int32 [B], 1 a face, 0 not a face.
    landmarks: float32 [B, L, 2], (x, y) in the region's frame.
    visible: float32 or bool [B, L]; where visibility is unknown and landmarks are known, which of
      these are.
    pose: float32 [B, 3], roll, pitch, yaw in radians.
    gender: int32 [B], 1 female, 0 male.
    known: bool [B, 5] in the order of `TASKS`; False: the task does not apply or the label is
      unknown, and the field may hold anything.
  """

  face: jax.Array
  landmarks: jax.Array
  visible: jax.Array
  pose: jax.Array
  gender: jax.Array
  known: jax.Array


def task_losses(outputs: TaskOutputs, targets: Targets, mask: jax.Array,
                ) -> tuple[jax.Array, jax.Array]:
  """The five losses of every example, and which of them count.

  A loss that does not count is exactly zero and so is its gradient, whatever its labels hold.

  Args:
    outputs: of a network for B regions.
    targets: of the same regions.
    mask: bool [B], False for padding, where nothing counts.

  Returns:
    Losses float32 [B, 5] and whether each counts bool [B, 5], in the order of `TASKS`. Beside what
    is unknown, these do not count: all but detection where there is no face; landmarks where none
    is visible.

  Raises:
    ValueError: outputs and targets differ in shape.
  """
  _check_shapes(outputs, targets)
  applies = _applies(targets, mask)
  detection, landmarks, visibility, pose, gender = applies.T
  visible = jnp.where((landmarks | visibility)[:, None], targets.visible, 0).astype(jnp.float32)
  distances = _squared_errors(outputs.landmarks, targets.landmarks,
                              landmarks[:, None] & (visible > 0)).sum(-1)
  return jnp.stack([
      _cross_entropy(outputs.detection, targets.face, detection),
      0.5 * (visible * distances).mean(-1),
      _squared_errors(outputs.visibility, visible, visibility).mean(-1),
      _squared_errors(outputs.pose, targets.pose, pose).mean(-1),
      _cross_entropy(outputs.gender, targets.gender, gender)], axis=-1), applies


class TaskWeighting(NamedTuple):
  """How the losses of the tasks become one, perhaps with parameters that are learned along.

  Attributes:
    init: () -> parameters, a pytree, empty if nothing is learned.
    terms: (parameters, losses [B, 5], applies bool [B, 5]) -> float32 [B, 5], whose sum over the
      tasks is an example's loss; exactly zero, also for the parameters, where a loss does not
      count.
    weights: parameters -> float32 [5], what each loss is multiplied by.
    project: parameters -> parameters, the nearest allowed; to be applied after every update. It
      looks at nothing but the parameters, so a private update stays private.
  """

  init: Callable[[], Params]
  terms: Callable[[Params, jax.Array, jax.Array], jax.Array]
  weights: Callable[[Params], jax.Array]
  project: Callable[[Params], Params]


def fixed_weights(weights: Sequence[float] = HYPERFACE_WEIGHTS) -> TaskWeighting:
  """Constant weights, without parameters.

  Args:
    weights: one per task, in the order of `TASKS`.

  Raises:
    ValueError: not five finite numbers of at least 0.
  """
  if len(weights) != len(TASKS) or not all(math.isfinite(w) and w >= 0 for w in weights):
    raise ValueError(f"task weights {tuple(weights)}: expected {len(TASKS)} finite numbers of at "
                     f"least 0, for {', '.join(TASKS)}")
  constant = jnp.asarray(weights, jnp.float32)
  return TaskWeighting(
      init=lambda: (),
      terms=lambda _, losses, applies: jnp.where(applies, constant * losses, 0),
      weights=lambda _: constant,
      project=lambda params: params)


def uncertainty_weights(scale: float = 1.0) -> TaskWeighting:
  """Weights learned as log-variances s, one per task: minimising gives e^s = loss, or 2 loss.

      regression (landmarks, visibility, pose)   e^-s loss / 2 + s / 2    least at e^s = loss
      classification (detection, gender)         e^-s loss + s / 2        least at e^s = 2 loss

  The parameters are u = s / scale, float32 [5], initially 0. They depend on the data as any other
  parameter: under differential privacy they belong in the clipped and noised vector.

  s is kept in [-6, 6]. Outside, value and gradient are those at the bound, so that the gradient
  leads back in whenever the optimum lies inside.

  Args:
    scale: kappa. Below 1 the scalars take a smaller part of a clipped gradient (their gradient is
      kappa times that of s) and receive less noise (kappa times).

  Raises:
    ValueError: the scale is not positive.

  Source: Kendall, Gal and Cipolla, CVPR 2018, equations 7 and 10, with s = log sigma^2.
  """
  if not (math.isfinite(scale) and scale > 0):
    raise ValueError(f"scale of the log-variances is {scale}; expected a finite number above 0")
  factors = jnp.array([1.0 if task in ("detection", "gender") else 0.5 for task in TASKS])

  def log_variances(params: jax.Array) -> jax.Array:
    s = scale * params
    return s + jax.lax.stop_gradient(_bounded(s) - s)

  def terms(params: jax.Array, losses: jax.Array, applies: jax.Array) -> jax.Array:
    s = log_variances(params)
    return jnp.where(applies, factors * jnp.exp(-s) * losses + 0.5 * s, 0)

  return TaskWeighting(
      init=lambda: jnp.zeros(len(TASKS), jnp.float32),
      terms=terms,
      weights=lambda params: factors * jnp.exp(-log_variances(params)),
      project=lambda params: _bounded(scale * params) / scale)


def mirror(images: jax.Array, targets: Targets, permutation: Sequence[int],
           frame: Frame = "corner") -> tuple[jax.Array, Targets]:
  """Mirrors regions left to right, with their labels; twice is the identity.

  Landmarks are mirrored and take the names of their mirror images; roll and yaw change sign.

  Args:
    images: [B, H, W, C] of any dtype.
    targets: of the same regions.
    permutation: for each of the L landmarks the one that it becomes, e.g. `AFLW_MIRROR`.
    frame: of the landmarks: 'corner' (x in [0, 1] from the left edge) or 'centre' (x in
      [-.5, .5]).

  Raises:
    ValueError: the permutation is not a mirror of L landmarks, or the frame is unknown.
  """
  _check_mirror(permutation, targets.landmarks.shape[1], frame)
  order = jnp.asarray(permutation)
  x, y = jnp.moveaxis(jnp.asarray(targets.landmarks)[:, order], -1, 0)
  x = 1 - x if frame == "corner" else -x
  return images[:, :, ::-1], targets._replace(
      landmarks=jnp.stack([x, y], -1),
      visible=jnp.asarray(targets.visible)[:, order],
      pose=targets.pose * jnp.array([-1.0, 1.0, -1.0]))


def random_mirror(images: jax.Array, targets: Targets, permutation: Sequence[int], keys: jax.Array,
                  frame: Frame = "corner") -> tuple[jax.Array, Targets]:
  """Mirrors each region with probability one half; arguments and errors as in `mirror`.

  Args:
    keys: one for each region, [B].
  """
  flip = jax.vmap(jax.random.bernoulli)(keys)

  def chosen(mirrored: jax.Array, original: jax.Array) -> jax.Array:
    return jnp.where(flip.reshape(-1, *[1] * (original.ndim - 1)), mirrored, original)

  return jax.tree.map(chosen, mirror(images, targets, permutation, frame), (images, targets))


def _applies(targets: Targets, mask: jax.Array) -> jax.Array:
  face = targets.face == 1
  visible = (targets.visible > 0).any(-1)
  possible = jnp.stack([jnp.ones_like(face), face & visible, face, face, face], -1)
  return targets.known & possible & mask[:, None]


def _cross_entropy(logits: jax.Array, labels: jax.Array, applies: jax.Array) -> jax.Array:
  logits = jnp.where(applies[:, None], logits, 0)
  label_logits = jnp.sum(jnp.where(labels[:, None] == jnp.arange(2), logits, 0), axis=-1)
  return jnp.where(applies, jax.nn.logsumexp(logits, axis=-1) - label_logits, 0)


def _squared_errors(prediction: jax.Array, target: jax.Array, applies: jax.Array) -> jax.Array:
  return jnp.where(applies[..., None], prediction - target, 0)**2


def _bounded(log_variances: jax.Array) -> jax.Array:
  return jnp.clip(log_variances, -LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)


def _check_shapes(outputs: TaskOutputs, targets: Targets) -> None:
  batch = outputs.landmarks.shape[0]
  expected = {"face": (batch,), "landmarks": outputs.landmarks.shape,
              "visible": outputs.visibility.shape, "pose": outputs.pose.shape, "gender": (batch,),
              "known": (batch, len(TASKS))}
  for field, shape in expected.items():
    given = getattr(targets, field).shape
    if given != shape:
      raise ValueError(f"targets: {field} has shape {list(given)}; expected {list(shape)}, to fit "
                       "the network's outputs")


def _check_mirror(permutation: Sequence[int], landmarks: int, frame: str) -> None:
  if frame not in get_args(Frame):
    raise ValueError(f"frame {frame!r}: expected one of {', '.join(get_args(Frame))}")
  places = range(landmarks)
  if (sorted(permutation) != list(places)
      or any(permutation[permutation[i]] != i for i in places)):
    raise ValueError(f"mirror permutation {tuple(permutation)}: expected each of 0..{landmarks - 1}"
                     " once, and itself when applied twice")
