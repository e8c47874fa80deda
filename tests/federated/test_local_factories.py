"""Local training and drift as parts: what the client trains is what the calls by hand train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.federated import client, local
from fedjax_face.federated import scaffold as control_variates
from fedjax_face.federated.local import Drift, Local
from tests.federated.test_client import IMAGES, batches, loss, params

RATES = {"learning_rate": 0.05, "momentum": 0.7, "head_learning_rate_scale": 2.0}
DRIFTS = {"none": {}, "fedprox": {"weight": 0.5}, "scaffold": {}}
CLIENTS = 3


def by_hand(drift, optimizer="momentum", stages=client.JOINT):
  optimizers = client.optimizers(optimizer)
  if drift == "scaffold":
    return control_variates.scaffold(loss, optimizers, stages, CLIENTS)
  optimizers = client.proximal(optimizers) if drift == "fedprox" else optimizers
  return client.fresh_optimizer(client.local_training(loss, optimizers, stages))


def part(drift="none", optimizer="momentum", **changes):
  return local.local_steps(**(RATES | {
      "optimizer": optimizer, "drift": getattr(local, drift)(**DRIFTS[drift])} | changes))


def trained(update, drift):
  """What the client of number 2 sends and keeps, from control variates that are not zero."""
  kept = jax.tree.map(lambda leaf: leaf + jnp.arange(leaf.size).reshape(leaf.shape) / 10,
                      update.init(params()))
  return update.run(
      params(), update.memory.common(kept), update.memory.own(kept, jnp.int32(2)), IMAGES,
      batches(), {"local": RATES | {"drift": DRIFTS[drift]}}, jax.random.key(0))


def equal(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_binds_to_what_the_call_by_hand_makes(drift):
  bound, direct = part(drift).bind(loss, CLIENTS), by_hand(drift)
  equal(trained(bound, drift), trained(direct, drift))
  assert bound.releases == direct.releases and set(bound.channels) == set(direct.channels)
  for name, bytes_of in bound.channels.items():
    assert bytes_of(params()) == direct.channels[name](params())


def test_drifts_differ():
  backbones = [trained(part(drift).bind(loss, CLIENTS), drift).params["backbone"]["kernel"]
               for drift in DRIFTS]
  assert len({backbone.tobytes() for backbone in map(np.asarray, backbones)}) == len(DRIFTS)


@pytest.mark.parametrize("given, optimizer, stages", [
    ({"stages": "head_first", "head_steps": 2}, "momentum", client.head_first(2)),
    ({}, "sgd", client.JOINT), ({}, "adam", client.JOINT), ({}, "normalised", client.JOINT)])
def test_stages_and_optimisers_are_those_of_the_names(given, optimizer, stages):
  equal(trained(part(optimizer=optimizer, **given).bind(loss, 0), "none"),
        trained(by_hand("none", optimizer, stages), "none"))


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_part_is_its_call_and_has_its_scalars(drift):
  made = part(drift, epochs=2, batch_size=3)
  assert options.build(Local, options.call(made), "local") == made
  assert options.build(Drift, options.call(options.argument(made, "drift")), "drift") == (
      options.argument(made, "drift"))
  assert options.hparams(made) == RATES | {"drift": DRIFTS[drift]}
  assert (made.epochs, made.batch_size) == (2, 3)


@pytest.mark.parametrize("make, words", [
    (lambda: local.fedprox(weight=-1.0), "fedprox.weight=-1.0: expected a number, at least 0"),
    (lambda: local.fedprox(weight=float("inf")), "fedprox.weight=inf: expected a number, at least"),
    (lambda: part(head_steps=0, stages="head_first"), "local_steps.head_steps=0: expected at le"),
    (lambda: part(stages="alternating"), "stages='alternating': expected one of joint, head_fir"),
    (lambda: part(learning_rate=float("inf")), "learning_rate=inf: expected a number, at least 0"),
    (lambda: part(epochs=0), "local_steps.epochs=0: expected a whole number, at least 1"),
    (lambda: part(optimizer="adan"), r"optimizer='adan': expected one of .*mean adam"),
    (lambda: local.local_steps(drift=local.local_steps()), "drift.*expected a drift, not a local"),
])
def test_what_is_refused_names_the_option(make, words):
  with pytest.raises(options.OptionError, match=words):
    make()


def test_steps_of_the_head_alone_are_free_where_there_are_none():
  equal(trained(part(head_steps=0).bind(loss, 0), "none"), trained(by_hand("none"), "none"))


def test_control_variates_need_clients_that_last():
  with pytest.raises(ValueError, match="local.drift=scaffold keeps a control variate"):
    part("scaffold").bind(loss, 0)
