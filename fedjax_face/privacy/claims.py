"""What a mechanism claims, held against its noise and the sensitivity that it states."""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting

from fedjax_face.privacy.ledger import is_non_private

_ROUNDING = 1e-6  # relative, of z / sensitivity in 32-bit numbers


def require_sensitivity(event: dp_accounting.DpEvent, sensitivity: float, words: str) -> None:
  """Refuses a guarantee that rests on a sensitivity which nobody states.

  Args:
    event: that a mechanism claims.
    sensitivity: that it states; infinite without one.
    words: the mechanism, for the error.

  Raises:
    ValueError: in one line.
  """
  if not is_non_private(event) and not 0 < sensitivity < math.inf:
    raise ValueError(f"{words}: it claims a guarantee and states sensitivity={sensitivity:g}; "
                     "expected a number above 0 and below infinity, or NonPrivateDpEvent as event")


def require_true_claim(event: Callable[[float], dp_accounting.DpEvent], sensitivity: float,
                       largest_noise: float, adds_noise: bool, words: str) -> None:
  """Refuses a mechanism whose event says more than its noise over its sensitivity gives.

  Args:
    event: noise multiplier z, the standard deviation of the noise over the clip norm -> the event
      that the mechanism claims.
    sensitivity: that it states, in units of the clip norm; infinite without one.
    largest_noise: smallest z that is too large for it.
    adds_noise: whether it adds any.
    words: the mechanism, for the error.

  Raises:
    ValueError: in one line: a guarantee without noise or without a sensitivity, or a Gaussian
      event of a noise multiplier above z / sensitivity.
  """
  z = min(1.0, 0.5 * largest_noise)  # whatever the run will have: only the quotient counts
  claimed = event(z)
  if not adds_noise and not is_non_private(claimed):
    raise ValueError(f"{words}: it claims a guarantee and adds no noise; expected "
                     "NonPrivateDpEvent as event, or adds_noise=True")
  require_sensitivity(claimed, sensitivity, words)
  gaussian = isinstance(claimed, dp_accounting.GaussianDpEvent)
  if gaussian and claimed.noise_multiplier > z / sensitivity * (1 + _ROUNDING):
    raise ValueError(f"{words}: of noise_multiplier={z:g} its event claims "
                     f"{float(claimed.noise_multiplier):g}; expected at most {z / sensitivity:g}, "
                     f"for the sensitivity is {sensitivity:g}")
