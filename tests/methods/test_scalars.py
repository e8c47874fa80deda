"""Every part reads its own mapping of the hparams alone, by itself and within a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.dp_sgd.optimizers import averaged, momentum
from fedjax_face.draws import Draws
from fedjax_face.federated import aggregators, client, optimizers
from fedjax_face.federated.aggregators import Sums
from fedjax_face.losses.class_pairs import Anchors
from fedjax_face.losses.consensus import ForeignPoints, consensus
from fedjax_face.losses.gradient_correction import gradient_correction
from fedjax_face.losses.spreadout import spreadout
from fedjax_face.method.algorithm import Data, with_values
from fedjax_face.models import registry as models
from fedjax_face.models.heads import geometry_of
from fedjax_face.models.margins import cosface_margin, geometry
from fedjax_face.privacy import noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.runs import streams
from tests.methods import tiny, tiny_clusters, tiny_methods

PARTS = {"local", "head", "aggregate", "gradient", "activations", "server", "exchange",
         "correction", "optimizer", "device"}


class Log(set):
  """Paths that have been read; equal to itself alone, as static data of a pytree must be."""

  __hash__ = object.__hash__
  __eq__ = object.__eq__


@jax.tree_util.register_pytree_node_class
class Own:
  """A part's mapping that fails on any key that it does not have, and notes what is read.

  Where all parts are held, a part may be asked for that has no scalars here.
  """

  def __init__(self, values, log, path=""):
    self._values, self._log, self._path = values, log, path

  def __getitem__(self, name):
    assert name in self._values, f"{self._path or 'the method'}: {name!r} is no key of its own"
    value, path = self._values[name], f"{self._path}{name}"
    if isinstance(value, dict):
      return Own(value, self._log, f"{path}.")
    self._log.add(path)
    return value

  def get(self, name, default=None):
    if not self._path and name not in self._values:
      assert name in PARTS, f"{name!r} is no part"
      return default
    return self[name]

  def tree_flatten(self):
    return (self._values,), (self._log, self._path)

  @classmethod
  def tree_unflatten(cls, static, children):
    return cls(children[0], *static)


def test_values_are_added_and_replaced_without_changing_what_was_given():
  given = {"server": {"learning_rate": 1.0}, "local": {"drift": {"weight": 2.0}}}
  more = with_values(given, {"local": {"drift": {"weight": 3.0}}, "head": {"scale": 4.0}})
  assert more == {"server": {"learning_rate": 1.0}, "local": {"drift": {"weight": 3.0}},
                  "head": {"scale": 4.0}}
  assert given["local"]["drift"]["weight"] == 2.0 and "head" not in given


# ---- each part ----


LOCAL = {"learning_rate": 0.1, "head_learning_rate_scale": 2.0}
AGGREGATE = {"clip_norm": 1.0, "noise_multiplier": 2.0}
ROWS = jnp.eye(3)
ANCHORS = Anchors(ROWS, jnp.array([0, 1, 1]), jnp.ones(3), jnp.full(3, 0.5))
HEAD = geometry(8.0, 0.1, cosface_margin)


def aggregated(make):
  """All that an aggregator does."""
  def use(own):
    chosen = make(UpdateClip(1, Adjacency.ADD_OR_REMOVE_ONE), 4)
    state, one = chosen.init(jnp.zeros(2), own), jnp.ones(())
    chosen.clip(jnp.ones(2), state, own)
    chosen.release(Sums(jnp.ones(2), one, one, one, one), state, own, jax.random.key(0))
    chosen.event(own)
  return use


def stepped(part):
  """All that a server optimiser does."""
  def use(own):
    made = part.transform(own)
    made.update(jnp.ones(2), made.init(jnp.zeros(2)))
  return use


def adaptive(clip, clients):
  return aggregators.adaptive_clip(clip, clients, quantile=0.5, learning_rate=0.2,
                                   count_stddev_per_client=5.0)


def foreign(form):
  points = ForeignPoints(ROWS, jnp.ones(3), jnp.full(3, 0.9))
  return lambda own: consensus(form)(ROWS[:2], points, own, HEAD)


def corrected(correction, lent=HEAD):
  return lambda own: correction(ROWS, jnp.array([0, 1, 2]), ANCHORS, own, lent)


CASES = {
    "sgd": (client.optimizers("sgd"), LOCAL),
    "adam": (client.optimizers("adam"), LOCAL),
    "momentum": (client.optimizers("momentum"), LOCAL | {"momentum": 0.9}),
    "normalised": (client.optimizers("normalised"), LOCAL | {"momentum": 0.9}),
    "fedprox": (client.proximal(client.optimizers("sgd")), LOCAL | {"drift": {"weight": 1.0}}),
    "server": (optimizers.momentum().transform, {"learning_rate": 0.1, "momentum": 0.9}),
    "fedyogi": (stepped(optimizers.fedyogi()), {
        "learning_rate": 0.1, "b1": 0.9, "b2": 0.99, "tau": 1e-3}),
    "noised": (aggregated(lambda *given: aggregators.noised_mean(*given, noise.gaussian())),
               AGGREGATE),
    "adaptive": (aggregated(adaptive), AGGREGATE),
    "clipped": (aggregated(aggregators.clipped_mean), {"clip_norm": 1.0}),
    "mean": (aggregated(lambda clip, clients: aggregators.weighted_mean()), {}),
    "cosface": (geometry_of(models.head("cosface", 3, 3, margin=0.1, scale=8.0)),
                {"margin": 0.2, "scale": 16.0}),
    "v0": (foreign("v0"), {"weight": 1.0}),
    "v1": (foreign("v1"), {"weight": 1.0, "cap_angle": 0.2}),
    "v2": (foreign("v2"), {"hinge_weight": 1.0, "cap_angle": 0.2}),
    "v3": (foreign("v3"), {"weight": 1.0}),
    "gradient correction": (corrected(gradient_correction("calibrated", True)), {}),
    "of a linear head": (corrected(gradient_correction("as_written", False), None), {}),
    "spreadout": (corrected(spreadout("cosine")), {"margin": 0.3}),
    "descent": (averaged(momentum()).transform, {
        "learning_rate": 0.1, "momentum": 0.9, "weight_learning_rate_scale": 2.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_part_reads_its_own_mapping_and_all_of_it(name):
  use, values = CASES[name]
  log = Log()
  use(Own(values, log, "own."))
  assert set(log) == {f"own.{key}.weight" if key == "drift" else f"own.{key}" for key in values}


def test_a_part_that_reads_another_key_is_caught():
  with pytest.raises(AssertionError, match="'cap_angle' is no key of its own"):
    foreign("v1")(Own({"weight": 1.0}, Log(), "own."))
  with pytest.raises(AssertionError, match="'clip_norm' is no key of its own"):
    aggregated(aggregators.clipped_mean)(Own({"aggregate": AGGREGATE}, Log(), "own."))


# ---- a step, which holds them all ----


OF_LOCAL = {"local.learning_rate", "local.momentum", "local.head_learning_rate_scale"}
OF_SERVER = {"server.learning_rate", "server.momentum"}
OF_AGGREGATE = {"aggregate.clip_norm", "aggregate.noise_multiplier"}
OF_HEAD = {"head.margin", "head.scale"}
OF_STEPS = {"correction.strength", "correction.learning_rate"}
OF_CLUSTERS = {"exchange.noise_multiplier", "exchange.loss.weight"}
STEPS = {
    "dp_fedemb": (tiny.dp_fedemb(), OF_LOCAL | OF_SERVER | OF_AGGREGATE),
    "fedprox": (tiny.dp_fedemb(head=ff.arcface(), local=ff.replace(
        tiny.LOCAL, drift=ff.drifts.fedprox())),
                OF_LOCAL | {"local.drift.weight"} | OF_SERVER | OF_AGGREGATE | OF_HEAD),
    "fedavg": (tiny.fedavg(), OF_LOCAL | OF_SERVER | OF_AGGREGATE),
    "centralized": (tiny.centralized(), OF_LOCAL),
    "fedpe": (tiny.fedpe(), OF_LOCAL | OF_SERVER | OF_HEAD),
    "scaffold": (tiny.fedpe(local=ff.replace(tiny.SILO_LOCAL, drift=ff.drifts.scaffold())),
                 OF_LOCAL | OF_SERVER | OF_HEAD),
    "fedgc": (tiny.fedgc(), OF_LOCAL | OF_SERVER | OF_HEAD | OF_STEPS),
    "fedaws": (tiny.fedaws(), OF_LOCAL | OF_SERVER | OF_HEAD | OF_STEPS | {"correction.margin"}),
    "privacyface": (tiny_clusters.privacyface(), OF_LOCAL | OF_SERVER | OF_HEAD | OF_CLUSTERS),
    "composed": (tiny_clusters.composed(),
                 OF_LOCAL | OF_SERVER | OF_AGGREGATE | OF_HEAD | OF_STEPS | OF_CLUSTERS
                 | {"exchange.anchor_cosine"}),
    "dp_hyperface": (tiny_methods.dp_hyperface(), {
        "gradient.clip_norm", "gradient.noise_multiplier", "optimizer.decay",
        "optimizer.of.learning_rate", "optimizer.of.momentum",
        "optimizer.of.weight_learning_rate_scale"}),
    "dp_activations": (
        tiny_methods.dp_activations(device=ff.devices.trained_private(noise_multiplier=1.0)), {
            "activations.clip_norm", "activations.noise_multiplier", "server.learning_rate",
            "device.learning_rate", "device.clip_norm", "device.noise_multiplier"}),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_hands_each_part_its_own_scalars(name):
  method, expected = STEPS[name]
  algorithm, train = tiny_methods.bound(method)
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  data = Data(jnp.asarray(train.images), jax.tree.map(jnp.asarray, getattr(train, "targets", ())))
  keys = streams.step_keys(0, streams.public_root(0), 0)
  log = Log()
  own = Own(jax.tree.map(np.float32, algorithm.hparams), log)
  if algorithm.prepare is not None:
    data = jax.eval_shape(algorithm.prepare, data, own, keys)
  jax.eval_shape(algorithm.step, state, data, algorithm.cohort(Draws.of(0), 0), own, keys)
  assert set(log) == expected
