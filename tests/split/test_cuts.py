"""Cuts, projections and public clip norms of a method on data; who holds whom."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.data import pixels
from fedjax_face.draws import Draws
from fedjax_face.options import OptionError
from fedjax_face.split import system as split_system
from fedjax_face.split.cuts import cut
from fedjax_face.split.device import frozen, trained_private, trained_published
from fedjax_face.split.holders import devices
from fedjax_face.split.labels import LabelPolicy, pseudonym, randomized_response, u_shaped
from fedjax_face.split.mechanism import ActivationClip, clipped_noise
from tests.edge.tiny_runs import PEOPLE, activations, bound, method, split


@pytest.mark.parametrize("after, projection, dimensions", [
    ("conv1", 0, 288), ("first", 16, 16), ("bottleneck", 0, 16), ("embedding", 4, 4)])
def test_cuts_projections_and_the_public_clip(sources, after, projection, dimensions):
  system = bound(method(split=split(after, projection), activations=activations(None)),
                 sources).parts
  assert math.prod(system.split.shape) == dimensions
  assert system.split.non_negative == (after == "conv1")
  public = system.split.device(system.device, sources.public.images).reshape(24, -1)
  assert system.clip_norm == pytest.approx(
      np.median(np.linalg.norm(public, axis=1)), rel=1e-4)
  assert f"activations of {dimensions} numbers" in system.notes[0]


def test_the_device_part_takes_floats_that_are_normalised_already(sources):
  system = bound(method(split=split(pooling=4)), sources).parts
  assert system.split.shape == (3, 3, 2)
  images = jnp.asarray(sources.train.images[:3])
  np.testing.assert_array_equal(system.split.device(system.device, images),
                                system.split.device(system.device, pixels.normalise(images)))


def test_a_median_of_nothing_is_no_clip_norm():
  with pytest.raises(OptionError, match="method.activations.clip_norm=None: the median norm"):
    split_system._median_norm(ActivationClip(True), np.zeros((3, 4), np.float32))


@pytest.mark.parametrize("number", [1, 3])
def test_a_pass_shows_every_image_on_the_device_of_its_person_once(sources, number):
  train = sources.train
  held = devices(number=number, batch_size=6).holding(train, 0)
  assert np.ptp(np.bincount(held.owner, minlength=number)) <= 1
  np.testing.assert_array_equal(np.bincount(held.owner[train.person]), held.images)
  first, second = (held.cohort(Draws.of(0), number) for number in (0, 1))
  assert first.examples.shape == (number, held.messages, 6)
  for device in range(number):
    rows = [drawn.examples[device][drawn.mask[device]] for drawn in (first, second)]
    assert sorted(rows[0]) == sorted(rows[1]) == list(
        np.flatnonzero(held.owner[train.person] == device))
    assert np.any(rows[0] != rows[1])
  np.testing.assert_array_equal(first.labels[first.mask], train.label[first.examples[first.mask]])


def test_there_are_no_more_devices_than_people(sources):
  with pytest.raises(ValueError, match=f"method.clients.number=9: expected 1 to {PEOPLE}"):
    devices(number=9).holding(sources.train, 0)


@pytest.mark.parametrize("make, refusal", [
    (lambda: cut(pooling=0), "cut.pooling=0: expected a whole number, at least 1"),
    (lambda: cut(projection=-1), "cut.projection=-1: expected a whole number, at least 0"),
    (lambda: cut(projektion=3), r"cut takes no projektion \(did you mean projection\?\)"),
    (lambda: devices(number=0), "devices.number=0: expected a whole number, at least 1"),
    (lambda: devices(batch_size=0), "devices.batch_size=0: expected a whole number, at least 1"),
    (lambda: clipped_noise(clip_norm=0.0), r"clipped_noise.clip_norm=0.0: expected a number in \("),
    (lambda: clipped_noise(clip_norm=-1.0), "clipped_noise.clip_norm=-1.0: expected a number in"),
    (lambda: clipped_noise(noise_multiplier=-1.0), "noise_multiplier=-1.0: expected a number"),
    (lambda: trained_private(clip_norm=0.0), "trained_private.clip_norm=0.0: expected a number ab"),
    (lambda: trained_private(clip_norm=math.inf), "trained_private.clip_norm=inf: expected a"),
    (lambda: trained_private(noise_ratio=-1.0), "trained_private.noise_ratio=-1.0: expected a"),
    (lambda: frozen(learning_rate=1.0), "frozen takes no learning_rate; it takes no options"),
    (lambda: randomized_response(epsilon=0.0), "epsilon=0.0: expected a number above 0"),
    (lambda: randomized_response(), "epsilon: randomized_response needs it"),
    (lambda: u_shaped(noise_multiplier=0.0), "noise_multiplier=0: gradients without noise"),
])
def test_factories_refuse_what_is_out_of_range(make, refusal):
  with pytest.raises(OptionError, match=refusal):
    make()


def test_what_factories_say_of_privacy():
  assert pseudonym().policy == LabelPolicy("pseudonym", acknowledged=True)
  assert u_shaped().policy == LabelPolicy("u_shaped", noise_multiplier=1.0)
  assert u_shaped(noise_multiplier=0.0, acknowledged=True).policy.in_clear
  assert randomized_response(epsilon=2.0).policy.epsilon == 2.0
  assert trained_private(noise_ratio=0.5).noise_ratio == 0.5
  assert trained_published().noise_ratio is None and frozen().learn is None
