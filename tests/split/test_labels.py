"""Label policies: frequencies of randomised response, refused combinations."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.split.labels import LabelPolicy, randomised_labels, redraw_probability
from fedjax_face.split.mechanism import example_keys


def test_redraw_probability_by_hand():
  # e^epsilon = 4 and 3 classes: the truth 4 / 6, others 1 / 6 each; drawn anew half of the time.
  assert redraw_probability(math.log(4), 3) == pytest.approx(0.5)
  for classes, epsilon in ((2, 0.3), (62, 5.0)):
    redraw = redraw_probability(epsilon, classes)
    ratio = (1 - redraw + redraw / classes) / (redraw / classes)
    assert ratio == pytest.approx(math.exp(epsilon))


def test_frequencies():
  count = 20_000
  keys = example_keys(jax.random.key(0), jnp.arange(count))
  sent = randomised_labels(jnp.ones(count, jnp.int32), math.log(4), 3, keys)
  assert sent.dtype == jnp.int32
  frequency = np.bincount(sent, minlength=3) / count
  np.testing.assert_allclose(frequency, [1 / 6, 4 / 6, 1 / 6], atol=4 * 0.5 / math.sqrt(count))


def test_what_the_server_can_read():
  assert LabelPolicy("pseudonym", acknowledged=True).in_clear
  assert LabelPolicy("u_shaped", acknowledged=True).in_clear
  assert not LabelPolicy("u_shaped", noise_multiplier=1.0).in_clear
  assert not LabelPolicy("randomized_response", epsilon=2.0).in_clear


@pytest.mark.parametrize(("arguments", "message"), [
    ({"policy": "plain"}, "unknown label policy 'plain'; choose one of pseudonym, randomized_resp"),
    ({"policy": "pseudonym"}, "'pseudonym' without noise shows the server every label; set ackn"),
    ({"policy": "u_shaped"}, "'u_shaped' without noise shows the server every label"),
    ({"policy": "randomized_response"}, "needs a finite epsilon above 0, got None"),
    ({"policy": "randomized_response", "epsilon": 0.0}, "needs a finite epsilon above 0, got 0.0"),
    ({"policy": "pseudonym", "epsilon": 1.0}, "'pseudonym' takes no epsilon, got 1.0"),
    ({"policy": "pseudonym", "noise_multiplier": 1.0}, "takes no noise_multiplier, got 1.0"),
    ({"policy": "u_shaped", "noise_multiplier": -1.0}, "must be finite and at least 0, got -1.0"),
])
def test_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    LabelPolicy(**arguments)
