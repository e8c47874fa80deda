"""Aggregates as parts: each binds to what the call by hand makes, and is its call in a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.federated import aggregates, aggregators
from fedjax_face.federated.aggregates import Aggregate
from fedjax_face.federated.training import backbone_release
from fedjax_face.privacy import noise
from fedjax_face.privacy.clipping import UpdateClip
from tests.federated.test_participation import scheme

ROUNDS = 6
OWN = {"clip_norm": 0.3, "noise_multiplier": 0.15}
UPDATE = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.ones(3)}
ADAPTIVE = {"quantile": 0.4, "count_stddev_per_client": 0.5}


def clip_of(who):
  return UpdateClip(who.users_per_client, who.adjacency)


CASES = {
    "gaussian": ({}, lambda who: aggregators.noised_mean(
        clip_of(who), who.clients, noise.gaussian())),
    "adaptive": (ADAPTIVE | {"clip_learning_rate": 0.3}, lambda who: aggregators.adaptive_clip(
        clip_of(who), who.clients, learning_rate=0.3, **ADAPTIVE)),
    "correlated": ({"strategy": "banded"}, lambda who: aggregators.noised_mean(
        clip_of(who), who.clients, noise.correlated("banded", ROUNDS, who.rounds_per_event))),
    "clipped": ({}, lambda who: aggregators.clipped_mean(clip_of(who), who.clients)),
    "mean": ({}, lambda who: aggregators.weighted_mean()),
}
TRACED = {name: {"gaussian": OWN, "adaptive": OWN, "correlated": OWN,
                 "clipped": {"clip_norm": 0.3}, "mean": {}}[name] for name in CASES}


def part(name, **changes):
  return getattr(aggregates, name)(**(CASES[name][0] | TRACED[name] | changes))


def rounds_of(aggregator):
  """Two rounds of three updates."""
  state, means = aggregator.init(UPDATE, OWN), []
  for number in range(2):
    updates, norms, within = zip(*(aggregator.clip(
        jax.tree.map(lambda leaf, size=size: size * leaf, UPDATE), state, OWN)
        for size in (0.01, 1.0, 3.0)), strict=True)
    weight = aggregator.weight(jnp.array([1, 2, 3]))
    sums = aggregators.Sums(
        jax.tree.map(lambda *leaves: sum(leaves), *updates), weight.sum(), jnp.float32(3.0),
        jnp.float32(sum(within)), jnp.float32(sum(norms)))
    mean, state, metrics = aggregator.release(sums, state, OWN, jax.random.key(number))
    means.append((mean, metrics))
  return means, state


@pytest.mark.parametrize("sampling", ["cyclic_fixed", "poisson"])
@pytest.mark.parametrize("name", CASES)
def test_a_part_binds_to_what_the_call_by_hand_makes(name, sampling):
  if name == "correlated":
    sampling = sampling.replace("poisson", "cyclic_poisson")
  who = scheme(sampling)
  bound, by_hand = part(name).bind(who, ROUNDS), CASES[name][1](who)
  jax.tree.map(np.testing.assert_array_equal, rounds_of(bound), rounds_of(by_hand))
  assert bound.event(OWN) == by_hand.event(OWN)
  for said in ("words", "covers", "adds_noise", "sensitivity", "largest_noise"):
    assert getattr(bound, said) == getattr(by_hand, said)
  assert backbone_release(bound, who, OWN) == backbone_release(by_hand, who, OWN)


def test_the_sensitivity_is_that_of_who_takes_part():
  assert part("gaussian").bind(scheme("fixed", users_per_client=1), 1).sensitivity == 2.0
  assert part("clipped").bind(scheme("fixed"), 1).event(OWN) == part("mean").bind(
      scheme("fixed"), 1).event(OWN)


@pytest.mark.parametrize("name", CASES)
def test_a_part_is_its_call_and_has_its_scalars(name):
  made = part(name)
  assert options.build(Aggregate, options.call(made), "aggregate") == made
  assert options.hparams(made) == TRACED[name]


def test_the_noise_of_a_budget_is_open_until_it_is_filled():
  open_ = aggregates.gaussian(clip_norm=2.0)
  assert options.still_open(open_) == ["noise_multiplier"]
  assert options.fill(open_, {"noise_multiplier": 1.5}) == {
      "clip_norm": 2.0, "noise_multiplier": 1.5}


@pytest.mark.parametrize("name, changes, words", [
    ("gaussian", {"clip_norm": 0.0}, r"gaussian.clip_norm=0.0: expected a number in \(0, inf\]"),
    ("gaussian", {"noise_multiplier": float("nan")}, "noise_multiplier=nan: expected a number, a"),
    ("adaptive", {"quantile": "half"}, "adaptive.quantile='half': expected a number"),
    ("clipped", {"clip_norm": float("nan")}, "clipped.clip_norm=nan: expected"),
    ("correlated", {"noise_multiplier": -1.0}, "noise_multiplier=-1.0: expected a number, at leas"),
    ("correlated", {"strategy": "bended"}, "strategy='bended'.*mean banded"),
    ("adaptive", {"count_stddev_per_client": 0.0}, "count_stddev_per_client=0.0: expected a numb"),
    ("mean", {"clip_norm": 1.0}, "mean takes no clip_norm"),
])
def test_what_is_refused_names_the_option(name, changes, words):
  with pytest.raises(options.OptionError, match=words):
    part(name, **changes)


def test_no_separation_of_rounds_is_refused_when_bound():
  with pytest.raises(ValueError, match="cyclic_fixed or cyclic_poisson, which enforce"):
    part("correlated").bind(scheme("fixed"), ROUNDS)


def test_an_unclipped_mean_has_an_infinite_clip_norm():
  assert options.hparams(part("clipped", clip_norm=np.inf)) == {"clip_norm": np.inf}
