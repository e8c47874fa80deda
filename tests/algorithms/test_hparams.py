"""The table of a config's flat hparams, and that every part reads its own mapping alone."""

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
from fedjax_face.method.algorithm import Data
from fedjax_face.models import registry as models
from fedjax_face.models.heads import geometry_of
from fedjax_face.models.margins import cosface_margin, geometry
from fedjax_face.privacy import noise
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.clipping import UpdateClip
from fedjax_face.runs import streams
from tests.algorithms import (
  test_algorithms,
  test_channels,
  test_privacyface,
  test_silos,
  tiny,
)
from tests.edge import tiny_runs
from tests.flat import composed
from tests.flat.hparams import CLIPS, PATHS, flat, nested, replaced, with_values
from tests.flat.variants import EVERY, load

PARTS = {path.split(".")[0] for path in PATHS.values()} - {"CLIPS"} | set(CLIPS)


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


# ---- the table ----


def test_the_table_is_one_to_one():
  assert len(set(PATHS.values())) == len(PATHS)
  section = {key: float(number) for number, key in enumerate(PATHS)}
  for clips in CLIPS:
    whole = nested(section, clips)
    assert flat(whole) == section
    assert len(jax.tree.leaves(whole)) == len(PATHS)
    assert set(whole[clips]) == {"clip_norm", "noise_multiplier"}
    assert replaced(whole, {"clip_norm": -1.0})[clips]["clip_norm"] == -1.0
    assert flat(replaced(whole, {"clip_norm": -1.0})) == section | {"clip_norm": -1.0}


@pytest.mark.parametrize("name, variant", EVERY)
def test_the_table_covers_every_config(name, variant):
  config = load(name).get_config(variant)
  for section in (config.hparams, (config.get("pretrain") or {}).get("hparams") or {}):
    assert flat(nested(section)) == {k: v for k, v in section.items() if v is not None}


def test_what_a_budget_decides_is_left_out_until_then():
  assert nested({"clip_norm": 2.0, "noise_multiplier": None}) == {"aggregate": {"clip_norm": 2.0}}


@pytest.mark.parametrize("key, near", [
    ("clip_nrm", r" \(did you mean 'clip_norm'\?\)"),
    ("correction_strenght", r" \(did you mean 'correction_strength'\?\)"), ("zzz", "")])
def test_an_unknown_key_is_refused_with_its_nearest_name(key, near):
  with pytest.raises(ValueError, match=f"^hparams.{key} is not known{near}; expected some of cli"):
    nested({"clip_norm": 1.0, key: 1.0})


def test_a_run_with_an_unknown_key_is_refused_before_it_trains():
  config = tiny.config()
  with config.unlocked():
    config.hparams.server_learning_rat = 1.0
  with pytest.raises(ValueError, match="did you mean 'server_learning_rate'"):
    test_algorithms.registry.build(config, tiny.sources(), tiny.one_device())


def test_values_are_added_and_replaced_without_changing_what_was_given():
  given = {"server": {"learning_rate": 1.0}, "local": {"drift": {"weight": 2.0}}}
  more = with_values(given, {"local": {"drift": {"weight": 3.0}}, "head": {"scale": 4.0}})
  assert more == {"server": {"learning_rate": 1.0}, "local": {"drift": {"weight": 3.0}},
                  "head": {"scale": 4.0}}
  assert given["local"]["drift"]["weight"] == 2.0 and "head" not in given


def test_a_scalar_that_no_config_names_goes_by_its_path():
  assert flat({"exchange": {"other": 1.0}, "rate": 2.0}) == {"exchange.other": 1.0, "rate": 2.0}


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
    aggregated(aggregators.clipped_mean)(Own(nested(AGGREGATE), Log(), "own."))


# ---- a step, which holds them all ----


def _federated(**overrides):
  return test_algorithms.build(**{"model.backbone": "one_layer"} | overrides), tiny.people()


def _silos(**overrides):
  return test_silos.build(**{"model.backbone": "one_layer"} | overrides), tiny.people()


def _split():
  sources = tiny_runs.sources()
  chosen = tiny_runs.method(device=ff.devices.trained_private())
  return tiny_runs.bound(chosen, sources), sources.train


OF_LOCAL = {"local.learning_rate", "local.momentum", "local.head_learning_rate_scale"}
OF_SERVER = {"server.learning_rate", "server.momentum"}
OF_AGGREGATE = {"aggregate.clip_norm", "aggregate.noise_multiplier"}
OF_HEAD = {"head.margin", "head.scale"}
OF_STEPS = {"correction.strength", "correction.learning_rate"}
OF_CLUSTERS = {"exchange.noise_multiplier", "exchange.loss.weight"}
STEPS = {
    "dp_fedemb": (_federated, OF_LOCAL | OF_SERVER | OF_AGGREGATE),
    "fedprox": (lambda: _federated(**{"local.drift": "fedprox", "model.head": "arcface"}),
                OF_LOCAL | {"local.drift.weight"} | OF_SERVER | OF_AGGREGATE | OF_HEAD),
    "fedavg": (lambda: _federated(algorithm="fedavg"), OF_LOCAL | OF_SERVER | OF_AGGREGATE),
    "centralized": (lambda: _federated(**{
        "algorithm": "centralized", "hparams.noise_multiplier": None}), OF_LOCAL),
    "fedpe": (lambda: _silos(algorithm="fedpe"), OF_LOCAL | OF_SERVER | OF_HEAD),
    "scaffold": (lambda: _silos(**{"algorithm": "fedpe", "local.drift": "scaffold"}),
                 OF_LOCAL | OF_SERVER | OF_HEAD),
    "fedgc": (_silos, OF_LOCAL | OF_SERVER | OF_HEAD | OF_STEPS),
    "fedaws": (lambda: _silos(**{"algorithm": "fedaws", "correction.form": "hinge"}),
               OF_LOCAL | OF_SERVER | OF_HEAD | OF_STEPS | {"correction.margin"}),
    "privacyface": (lambda: (test_privacyface.build(), tiny.people()),
                    OF_LOCAL | OF_SERVER | OF_HEAD | OF_CLUSTERS),
    "composed": (lambda: (test_privacyface.build(composed), tiny.people()),
                 OF_LOCAL | OF_SERVER | OF_AGGREGATE | OF_HEAD | OF_STEPS | OF_CLUSTERS
                 | {"exchange.anchor_cosine"}),
    "dp_hyperface": (lambda: test_channels._faces(ff.dp_hyperface), {
        "gradient.clip_norm", "gradient.noise_multiplier", "optimizer.decay",
        "optimizer.of.learning_rate", "optimizer.of.momentum",
        "optimizer.of.weight_learning_rate_scale"}),
    "dp_activations": (_split, {
        "activations.clip_norm", "activations.noise_multiplier", "server.learning_rate",
        "device.learning_rate", "device.clip_norm", "device.noise_multiplier"}),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_hands_each_part_its_own_scalars(name, monkeypatch):
  monkeypatch.setitem(models.BACKBONES, "one_layer", tiny.OneLayer)
  make, expected = STEPS[name]
  algorithm, train = make()
  state = jax.eval_shape(algorithm.init, jax.random.key(0))
  data = Data(jnp.asarray(train.images), jax.tree.map(jnp.asarray, getattr(train, "targets", ())))
  keys = streams.step_keys(0, streams.public_root(0), 0)
  log = Log()
  own = Own(jax.tree.map(np.float32, algorithm.hparams), log)
  if algorithm.prepare is not None:
    data = jax.eval_shape(algorithm.prepare, data, own, keys)
  jax.eval_shape(algorithm.step, state, data, algorithm.cohort(Draws.of(0), 0), own, keys)
  assert set(log) == expected
