"""What leaves and is not on the ledger is refused where a method is put together."""

import dataclasses

import jax.numpy as jnp
import pytest

from fedjax_face.method.algorithm import Communication, Measure, joined
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.ledger import non_private
from fedjax_face.runs import loop, streams
from tests.runs.toys import IMAGES, toy_algorithm

PROTOTYPES = {"prototypes": lambda state: Communication.equal(0, 4000)}


def replaced(**changes):
  return dataclasses.replace(toy_algorithm(), **changes)


def sending_prototypes(**changes):
  return replaced(channels=toy_algorithm().channels | PROTOTYPES, **changes)


def test_a_channel_that_nobody_accounts_for_is_refused_by_its_name():
  with pytest.raises(ValueError, match="channel 'prototypes' leaves, but is neither") as error:
    sending_prototypes()
  assert "\n" not in str(error.value)


def test_without_releases_nothing_may_leave():
  with pytest.raises(ValueError, match="channel 'weights' leaves, but is neither released"):
    replaced(releases=())


def test_a_release_or_a_sentence_of_the_statement_accounts_for_a_channel():
  released = non_private("prototypes", "person", Adjacency.REPLACE_ONE, "everyone", "in clear")
  assert sending_prototypes(releases=(*toy_algorithm().releases, released)).channels
  said = "Prototypes are of public people."
  assert said in sending_prototypes(uncovered={"prototypes": said}).not_covered


def test_uncovered_is_about_channels_without_a_release():
  with pytest.raises(ValueError, match="'heads', which is not a channel"):
    replaced(uncovered={"heads": "..."})
  with pytest.raises(ValueError, match="'weights', which is released"):
    replaced(uncovered={"weights": "..."})


def test_bytes_are_those_of_all_channels():
  algorithm = sending_prototypes(uncovered={"prototypes": "Public."})
  assert algorithm.communication(None) == Communication(16, 4016, 16, 4016)


def test_unnoised_metrics_are_named_in_the_statement_and_covered_ones_are_not():
  algorithm = replaced(metrics={"loss": Measure("training loss"), "n": Measure("numbers of people"),
                                "norm": Measure("norms of the model", covered_by="weights")})
  sentence = algorithm.not_covered[0]
  assert "training loss and numbers of people are written to the metrics without noise" in sentence
  assert "norms of the model" not in sentence


def test_a_metric_cannot_follow_from_what_is_not_released():
  with pytest.raises(ValueError, match="'norm' is said to follow from channel 'heads'"):
    replaced(metrics={"norm": Measure("norms", covered_by="heads")})


@pytest.mark.parametrize("rounds_per_dispatch", [1, 3])
def test_a_step_that_measures_what_is_not_declared_is_refused_before_it_runs(rounds_per_dispatch):
  algorithm = toy_algorithm()
  ran = []

  def step(state, data, cohort, hparams, keys):
    state, metrics = algorithm.step(state, data, cohort, hparams, keys)
    loop.jax.debug.callback(lambda: ran.append(1))
    return state, metrics | {"first_pixel": data.images[0, 0, 0, 0] + jnp.float32(0)}

  with pytest.raises(ValueError, match="a step measures 'first_pixel', which is not declared"):
    next(loop.train(replaced(step=step), IMAGES, rounds=3, seed=0,
                    rounds_per_dispatch=rounds_per_dispatch, noise_root=streams.public_root(0),
                    cohort_root=streams.public_root(0)))
  assert not ran


def test_parts_that_use_one_name_are_refused():
  assert joined({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
  with pytest.raises(ValueError, match="two parts declare 'a'"):
    joined({"a": 1}, {"b": 2}, {"a": 1})
