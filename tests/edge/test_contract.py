"""Every rule of the contract, broken."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from fedjax_face.edge import wire
from fedjax_face.edge.contract import largest_norm
from fedjax_face.edge.wire import Frame
from fedjax_face.split.mechanism import ActivationClip, example_keys, noised
from tests.edge.toys import contract, gradients, message

SESSION = bytes(16)


def check(content, channel="activations", sent=None, **others):
  frame = wire.decode(wire.encode(Frame(channel, SESSION, 0, content)))
  contract(**others).check_sizes(wire.read_header(wire.encode(frame)))
  contract(**others).check(frame, 0, sent)


def ints(*values):
  return np.array(values, np.int32)


@pytest.mark.parametrize("content, words", [
    (message(activations=np.zeros((3, 4), np.float32), labels=ints(0, 1, 2),
             example=ints(0, 1, 2)), r"shape \[3, 4\], expected \[2, 4\]"),
    (message(activations=np.zeros((2, 2, 2), np.float32)), "shape"),
    (message(device=1), "device 1 in the session of device 0"),
    (message(example=ints(1, 1)), "different numbers"),
    (message(example=ints(-2, 1)), "different numbers"),
    (message(labels=ints(0, 3)), "labels outside 0 to 2"),
    (message(labels=ints(0, -1)), "labels outside"),
    (message(example=ints(0, -1)), "labels where none"),
    (message(math.nan), "norm nan"), (message(math.inf), "norm inf"), (message(-math.inf), "norm"),
    (message(1e30), "norm"), (message(51.0), "norm 102: expected finite numbers and at most 100")])
def test_what_breaks_it(content, words):
  with pytest.raises(ValueError, match=words) as error:
    check(content)
  assert "\n" not in str(error.value)


def test_what_keeps_it():
  check(message(49.0))
  check(message(example=ints(7, -1), labels=ints(1, -1)))
  check(message(1e18), largest_activation=math.inf)
  check(message(labels=ints(-1, -1)), labels_are_sent=False)
  check(gradients(), "logit_gradients", message())
  contract().check(Frame("receipt", SESSION, 0), 0, None)


def test_labels_that_should_stay_on_the_device():
  with pytest.raises(ValueError, match="labels where none are expected"):
    check(message(), labels_are_sent=False)


def test_gradients_belong_to_the_activations_of_the_step():
  with pytest.raises(ValueError, match="other examples"):
    check(gradients(), "logit_gradients", message(example=ints(5, 6)))
  with pytest.raises(ValueError, match="other examples"):
    check(gradients(), "logit_gradients")
  with pytest.raises(ValueError, match="at most 1.5"):
    check(gradients(), "logit_gradients", message(), largest_logit_gradient=1.5)
  with pytest.raises(ValueError, match="norm nan"):
    check(gradients(math.nan), "logit_gradients", message())


@pytest.mark.parametrize("dimension", [1, 400])
def test_the_mechanism_stays_below_the_largest_norm(dimension):
  clip, keys = ActivationClip(False), example_keys(jax.random.key(0), np.arange(300))
  sent = noised(np.full((300, dimension), 9, np.float32), clip, 0.7, 1.3, keys)
  norms = np.linalg.norm(sent, axis=1)
  limit = largest_norm(clip, 0.7, 1.3, dimension)
  assert norms.max() < limit
  np.testing.assert_allclose(
      limit, 1.01 * (0.7 + 1.3 * 2 * 0.7 * (math.sqrt(dimension) + 10)), rtol=1e-6)
  assert largest_norm(clip, math.inf, 0.0, dimension) == math.inf
