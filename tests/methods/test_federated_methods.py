"""Federated methods as values: their calls, and what they refuse."""

import jax
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.method import Budget, Method
from tests.methods import tiny
from tests.methods.tiny import bound

NAMES = ("dp_fedemb", "fedavg", "fedgc", "fedpe", "fedaws", "privacyface", "composed",
         "centralized", "local_only")
SMALL = {"backbone": tiny.OneLayer(), "local": ff.local_steps(epochs=1, batch_size=4)}


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_its_call(name):
  made = getattr(ff, name)()
  assert options.call(made)["name"] == name
  assert options.build(Method, options.call(made), "method") == made
  assert all(parameter.type.words for parameter in options.record(made).factory.parameters.values())


def test_hparams_are_nested_like_the_call_and_the_noise_is_filled_in():
  method = ff.dp_fedemb(**SMALL, clients=ff.virtual_clients(per_round=2, users_per_client=2))
  assert "noise_multiplier" not in options.hparams(method)["aggregate"]
  algorithm = bound(method, privacy=Budget(5.0, 1e-3))
  assert algorithm.method is method and algorithm.name == "dp_fedemb"
  filled = algorithm.hparams["aggregate"]["noise_multiplier"]
  assert jax.tree.structure(options.fill(method, {"aggregate": {"noise_multiplier": filled}})) == (
      jax.tree.structure(algorithm.hparams))


def test_what_is_trained_never_depends_on_how_the_backbone_was_given():
  """A module by hand and the registered factory of the same module."""
  by_hand, named = (
      bound(ff.dp_fedemb(backbone=backbone, local=SMALL["local"], aggregate=ff.mean(),
                         clients=ff.virtual_clients(per_round=2, users_per_client=2)))
      for backbone in (options.made(ff.lenet(8, 0.25)), ff.lenet(8, 0.25)))
  key = jax.random.key(0)
  assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), by_hand.init(key).params,
                                   named.init(key).params))


@pytest.mark.parametrize("make, words", [
    (lambda: ff.fedgc(clients=ff.virtual_clients(per_round=1)),
     "method.clients: fedgc needs silos"),
    (lambda: ff.local_only(clients=ff.virtual_clients()), "method.clients: local_only needs silos"),
    (lambda: ff.local_only(clients=ff.silos(partition=ff.partitions.random(num_silos=2)),
                           only_silo=7), "method.only_silo=7: expected 0 to 1"),
    (lambda: ff.dp_fedemb(clients=ff.virtual_clients(per_round=90)), "the training set has 12"),
    (lambda: ff.dp_fedemb(clients=ff.virtual_clients(
        per_round=1, sampling=ff.samplings.poisson()), classes="all"), "use method.classes=own"),
    (lambda: ff.dp_fedemb(aggregate=ff.correlated(), clients=ff.virtual_clients(per_round=1)),
     "needs method.clients.sampling"),
    (lambda: ff.privacyface(clients=ff.silos(partition=ff.partitions.random(num_silos=2)),
                            exchange=ff.clusters(epsilon=1.0, mechanism=ff.mechanisms.anchor_table(
                                clusters=2))), "privacyface starts from public people"),
    (lambda: ff.dp_fedemb(local=ff.local_steps(drift=ff.drifts.scaffold()),
                          clients=ff.virtual_clients(per_round=1)), "method.local.drift=scaffold"),
])
def test_what_data_or_setting_do_not_allow_names_the_option(make, words):
  method = options.replace(make(), backbone=tiny.OneLayer())
  with pytest.raises(ValueError, match=words):
    bound(method, privacy=Budget(8.0, 1e-3) if method.data and "dp_" in repr(method) else Budget())


@pytest.mark.parametrize("make, words", [
    (lambda: ff.privacyface(head=ff.linear()), "privacyface.head: the consensus-aware loss"),
    (lambda: ff.centralized(local=ff.local_steps(drift=ff.drifts.fedprox())),
     "centralized.local: who trains alone has neither a drift nor stages"),
    (lambda: ff.clusters(mechanism=ff.mechanisms.client_mean(count_weight=0.0),
                         loss=ff.consensus_aware(form="v3")), "loss.form=v3 weighs clusters"),
    (lambda: ff.clusters(rows="class_embeddings"), "clusters.rows=class_embeddings with every=0"),
    (lambda: ff.fedaws(correction=ff.gradient_correction(form="hinge")), "form='hinge'"),
    (lambda: ff.dp_fedemb(aggregate=ff.momentum()), "expected an aggregate, not an optimizer"),
    (lambda: ff.samplings.poisson(probability=0.0), r"poisson.probability=0.0: .*\(0, 1\]"),
    (lambda: ff.samplings.poisson(capacity=0), "capacity=0: expected a whole number, at least 1"),
    (lambda: ff.samplings.cyclic_fixed(min_separation=0), "min_separation=0: expected a whole num"),
    (lambda: ff.samplings.fixed(probability=0.5), "fixed takes no probability"),
    (lambda: ff.fedavg(classes="own"), "fedavg takes no classes"),
    (lambda: ff.fedavg(start_head="local_prototypes"), "fedavg takes no start_head"),
    (lambda: ff.dp_fedemb(start_head="zeros"), "start_head='zeros': expected one of shared_frame"),
])
def test_parts_that_do_not_go_together_are_refused_when_they_are_made(make, words):
  with pytest.raises(options.OptionError, match=words):
    make()
