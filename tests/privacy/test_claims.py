"""A claim that its noise and its sensitivity do not give is refused."""

import math

import dp_accounting
import pytest

from fedjax_face.privacy.claims import require_sensitivity, require_true_claim

NOTHING = dp_accounting.NonPrivateDpEvent()


def gaussian(share):
  return lambda z: dp_accounting.GaussianDpEvent(share * z)


@pytest.mark.parametrize("event, sensitivity, adds_noise, words", [
    (gaussian(1.0), math.inf, True, "claims a guarantee and states sensitivity=inf"),
    (gaussian(1.0), 0.0, True, "claims a guarantee and states sensitivity=0"),
    (gaussian(1.0), math.nan, True, "claims a guarantee and states sensitivity=nan"),
    (gaussian(0.5), 2.0, False, "claims a guarantee and adds no noise"),
    (gaussian(1.0), 2.0, True, "of noise_multiplier=1 its event claims 1; expected at most 0.5"),
    (lambda z: dp_accounting.LaplaceDpEvent(z), math.inf, True, "states sensitivity=inf"),
])
def test_a_claim_that_nothing_bears_is_refused(event, sensitivity, adds_noise, words):
  with pytest.raises(ValueError, match=f"^mine: .*{words}") as caught:
    require_true_claim(event, sensitivity, math.inf, adds_noise, "mine")
  assert "\n" not in str(caught.value)


def test_what_is_true_or_claims_nothing_is_taken():
  require_true_claim(gaussian(0.5), 2.0, math.inf, True, "mine")
  require_true_claim(gaussian(0.1), 2.0, math.inf, True, "mine")  # less than it could
  require_true_claim(lambda z: NOTHING, math.inf, math.inf, False, "mine")
  require_sensitivity(NOTHING, math.inf, "mine")


def test_the_noise_that_is_tried_is_within_the_range_of_the_mechanism():
  def event(z):
    assert z < 0.3
    return gaussian(0.5)(z)
  require_true_claim(event, 2.0, 0.3, True, "mine")
