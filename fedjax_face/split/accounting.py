"""What split learning releases to the server, about an image and about a person.

Every guarantee is local: the server sees which example is in which message, so no random sampling
hides anything, and nothing here is amplified by it. Neighbouring data sets differ in one image (or
in all images of one person), label included, replaced by any other.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import dp_accounting
import numpy as np
from scipy import optimize, special, stats

from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import Release, non_private
from fedjax_face.split.labels import LabelPolicy

MODES = ("frozen_cached", "frozen_fresh", "trained_private", "trained_published")
SEEN_BY = "server"
LABELS_IN_CLEAR = ("labels are sent in clear, as pseudonyms: the server knows which images are of "
                   "the same person")
LOGIT_GRADIENTS_IN_CLEAR = ("labels stay on the device, but gradients of the logits are sent "
                            "without noise, and their one negative entry is the label's")
REPLIES = ("what the server sends back to a device is computed from what the devices have sent it, "
           "and shows nothing beyond that")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How often images reach the server.

  Attributes:
    mode: `frozen_cached`: public frozen device part, noise drawn once for every image.
      `frozen_fresh`: new noise in every pass. `trained_private`: the device part is trained by
      DP-SGD, new noise in every pass. `trained_published`: it is trained by exact gradients.
    epochs: E, passes over the images; an image is sent once in each.
    steps_per_epoch: messages of one device in a pass.
    images: n, that share one device part: of the device with the most, or of all devices.
    images_per_person: m, of the person with the most.
    batch: B, images of one device in a message.

  Raises:
    ValueError: unknown mode, or a number below 1.
  """

  mode: str
  epochs: int
  steps_per_epoch: int
  images: int
  images_per_person: int
  batch: int

  def __post_init__(self) -> None:
    require_mode(self.mode)
    for field in ("epochs", "steps_per_epoch", "images", "images_per_person", "batch"):
      if getattr(self, field) < 1:
        raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")

  @property
  def steps(self) -> int:
    """Messages of one device in the whole run."""
    return self.epochs * self.steps_per_epoch

  @property
  def device_is_trained(self) -> bool:
    """Whether gradients come back to the device."""
    return self.mode.startswith("trained")


def require_mode(mode: str) -> None:
  """Raises ValueError unless the mode is one of `MODES`."""
  if mode not in MODES:
    raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")


def activation_mu(schedule: Schedule, noise_multiplier: float,
                  gradient_noise_multiplier: float | None = None, unit: str = "image") -> float:
  """mu of the whole run for one unit, labels left out: all its Gaussian releases as one.

  The closed form of what `releases` puts on the ledger.

  Args:
    schedule: of the run.
    noise_multiplier: z of the activations; 0 gives infinity.
    gradient_noise_multiplier: z_w, of `trained_private` alone.
    unit: `image` or `person`.

  Raises:
    ValueError: unknown unit, or a gradient_noise_multiplier missing or superfluous.
  """
  parts = _gaussians(schedule, noise_multiplier, gradient_noise_multiplier, unit)
  if not all(part.noise_multiplier for part in parts):
    return math.inf
  return math.sqrt(sum(part.times * part.weight / part.noise_multiplier**2 for part in parts))


def releases(schedule: Schedule, noise_multiplier: float, labels: LabelPolicy,
             gradient_noise_multiplier: float | None = None) -> tuple[Release, ...]:
  """What one step reveals about an image and about a person, to be recorded once a step.

  Args:
    schedule: of the run; an image is in at most one message of a pass.
    noise_multiplier: z of the activations, noise over sensitivity; 0: no guarantee.
    labels: how labels reach the server.
    gradient_noise_multiplier: z_w, of `trained_private` alone.

  Raises:
    ValueError: a gradient_noise_multiplier missing or superfluous.
  """
  made = []
  for unit in ("image", "person"):
    for gaussian in _gaussians(
        schedule, noise_multiplier, gradient_noise_multiplier, unit):
      made.append(_release(gaussian, unit, schedule.steps,
                           _NOTES[gaussian.channel, schedule.mode]))
    made += _label_releases(schedule, labels, unit)
  return tuple(made)


def not_covered(schedule: Schedule, labels: LabelPolicy, devices: int) -> tuple[str, ...]:
  """Sentences for the privacy statement: what the server sees beside the releases.

  Args:
    schedule: of the run.
    labels: how labels reach the server.
    devices: K, over which the people are spread by the config's seed.
  """
  sentences = ["which images of a device are in which message, and how many images it has, are "
               "seen by the server",
               "numbers of images are treated as public: each device has as many in both data sets "
               "that the guarantee compares, and a person is replaced by one with as many"]
  if labels.policy == "pseudonym":
    sentences.append(LABELS_IN_CLEAR)
  elif labels.in_clear:
    sentences.append(LOGIT_GRADIENTS_IN_CLEAR)
  elif devices > 1:
    sentences.append("every message names its device, and which people a device holds follows from "
                     "the config's seed: the server knows that a label is of one of them (with one "
                     "person on a device, it knows the label), whatever epsilon labels have")
  if schedule.mode == "trained_published":
    sentences.append("the device part is trained by exact gradients: its parameters must not leave "
                     "the device, and the claim that DP activations alone make each image "
                     "private is not made")
  return tuple(sentences)


def information_ceiling(mu: float, non_negative: bool, dimension: int | None = None) -> float:
  """Most nats that ONE noised activation holds about anything.

  That of d Gaussian channels which share the power C^2: d/2 ln(1 + C^2 / (d sigma^2)), at most
  C^2 / (2 sigma^2), which is mu^2 / 8 where the sensitivity is 2 C and mu^2 / 4 where it is
  sqrt(2) C.

  Args:
    mu: of one release, 1 / z.
    non_negative: as of the `ActivationClip`.
    dimension: d; None: no limit.
  """
  if math.isinf(mu):
    return math.inf
  power = mu * mu / (2 if non_negative else 4)
  return power / 2 if dimension is None else dimension / 2 * math.log1p(power / dimension)


def accuracy_ceiling(information: float, class_shares: Sequence[float] | np.ndarray) -> float:
  """Highest accuracy of any classifier that sees so much of each example, by Fano's inequality.

  The smallest error e with h(e) + e ln(K - 1) >= H(label) - information, solved exactly.

  Args:
    information: nats, e.g. of `information_ceiling`.
    class_shares: [K], of the examples that are classified, or their counts.

  Raises:
    ValueError: fewer than two classes, or shares that are negative or all 0.
  """
  shares = np.asarray(class_shares, np.float64)
  if shares.ndim != 1 or len(shares) < 2 or (shares < 0).any() or not shares.sum() > 0:
    raise ValueError(f"class_shares must be two or more, none negative, got shape {shares.shape}")
  classes = len(shares)
  missing = float(special.entr(shares / shares.sum()).sum()) - information
  if missing <= 0:
    return 1.0

  def excess(error: float) -> float:
    both = float(special.entr([error, 1 - error]).sum())
    return both + error * math.log(max(classes - 1, 1)) - missing

  worst = 1 - 1 / classes
  return 1 - (worst if excess(worst) <= 0 else float(optimize.brentq(excess, 0.0, worst)))


def require_below_ceiling(correct: int, examples: int, ceiling: float) -> None:
  """Fails a run whose accuracy on noised activations is higher than it can be.

  Chance explains less than one in a million of such failures.

  Args:
    correct: of `examples` noised activations, each seen once, of images that were not trained on.
    examples: number of them.
    ceiling: of `accuracy_ceiling`.

  Raises:
    RuntimeError: the accuracy is above the ceiling, so noise, clipping or evaluation are wrong.
  """
  if stats.binom.sf(correct - 1, examples, ceiling) < 1e-6:
    raise RuntimeError(
        f"accuracy {correct / examples:.4f} of {examples} noised activations is above "
        f"{ceiling:.4f}, the most that their noise allows: the noise, the clip or the evaluation "
        "is wrong")


# (channel, mode) -> mechanism in words.
_NOTES = {
    ("activations", "frozen_cached"):
        "clipped activations with Gaussian noise drawn once for every image",
    ("activations", "frozen_fresh"):
        "clipped activations with new Gaussian noise in every pass",
    ("activations", "trained_private"):
        "clipped activations with new Gaussian noise in every pass",
    ("activations", "trained_published"):
        "clipped activations with new Gaussian noise in every pass; not rigorous for an image: the "
        "device part is trained by exact gradients, through which one image moves all later "
        "activations; the figure is the worst case over the whole data set",
    ("device_gradients", "trained_private"):
        "DP-SGD of the device part, seen through later activations",
}


class _Gaussian(NamedTuple):
  """A channel with Gaussian noise.

  Attributes:
    channel: its name.
    noise_multiplier: z, for one image.
    weight: squared sensitivity of one event, over that of one image.
    times: events in the whole run.
  """

  channel: str
  noise_multiplier: float
  weight: int
  times: int


def _gaussians(schedule: Schedule, noise_multiplier: float,
               gradient_noise_multiplier: float | None, unit: str) -> list[_Gaussian]:
  if unit not in ("image", "person"):
    raise ValueError(f"unknown unit {unit!r}; choose image or person")
  private = schedule.mode == "trained_private"
  if private and gradient_noise_multiplier is None:
    raise ValueError("mode 'trained_private' needs a gradient_noise_multiplier")
  if not private and gradient_noise_multiplier is not None:
    raise ValueError(f"mode {schedule.mode!r} takes no gradient_noise_multiplier, got "
                     f"{gradient_noise_multiplier}")
  own = _own_images(schedule, unit)
  moved = schedule.images if schedule.mode == "trained_published" else own
  times = 1 if schedule.mode == "frozen_cached" else schedule.epochs
  found = [_Gaussian("activations", noise_multiplier, moved, times)]
  if gradient_noise_multiplier is not None:
    # Images of one person in one batch share its noise: up to min(m, B) gradients move as one.
    found.append(_Gaussian("device_gradients", gradient_noise_multiplier,
                           own * min(own, schedule.batch), schedule.epochs))
  return found


def _own_images(schedule: Schedule, unit: str) -> int:
  return schedule.images_per_person if unit == "person" else 1


def _release(gaussian: _Gaussian, unit: str, steps: int, note: str) -> Release:
  if not gaussian.noise_multiplier:
    return non_private(gaussian.channel, unit, Adjacency.REPLACE_ONE, SEEN_BY,
                       "sent without noise")
  event = dp_accounting.GaussianDpEvent(gaussian.noise_multiplier / math.sqrt(gaussian.weight))
  return Release(gaussian.channel, unit, Adjacency.REPLACE_ONE, event, SEEN_BY,
                 steps // gaussian.times, note)


def _label_releases(schedule: Schedule, labels: LabelPolicy, unit: str) -> list[Release]:
  own = _own_images(schedule, unit)
  if labels.epsilon is not None:
    # As pure DP: dp_accounting's PLD accountant counts a composed RandomizedResponseDpEvent once.
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.ZCDpEvent(rho=0.0, xi=labels.epsilon), own)
    return [Release("labels", unit, Adjacency.REPLACE_ONE, event, SEEN_BY, schedule.steps,
                    "randomised response, drawn once for every image")]
  if labels.noise_multiplier:
    gradients = _Gaussian("logit_gradients", labels.noise_multiplier, own, schedule.epochs)
    return [_release(gradients, unit, schedule.steps,
                     "gradients of the logits with new Gaussian noise in every pass")]
  return []
