"""One small run of every kind of state: updates, correlated noise, heads of silos, control
variates, clusters, units of photographs, both halves of a cut network.
"""

import functools
import types

import ml_collections

import fedjax_face as ff
from fedjax_face.privacy.ledger import Ledger
from fedjax_face.runs.evaluator import Outcome
from fedjax_face.runs.experiment import Experiment
from tests.faults.points import Subject
from tests.methods import tiny, tiny_clusters, tiny_methods

ROUNDS = 6
METHODS = {
    "dp_fedemb": lambda: tiny.dp_fedemb(),
    "correlated": lambda: tiny.dp_fedemb(
        clients=tiny.cyclic(3), aggregate=ff.correlated(clip_norm=1.0, noise_multiplier=0.5)),
    "fedgc": lambda: tiny.fedgc(),
    "scaffold": lambda: tiny.fedpe(local=ff.replace(tiny.SILO_LOCAL, drift=ff.drifts.scaffold())),
    "composed": lambda: tiny_clusters.composed(),
    "dp_hyperface": lambda: tiny_methods.dp_hyperface(),
    "dp_activations": lambda: tiny_methods.dp_activations(),
}


class Unjudged:
  """Nothing is measured."""

  def values(self, state):
    return {}

  def outcome(self, state):
    return Outcome({})


GROWN = "dp_fedemb, grown"
NAMES = (*METHODS, GROWN)


@functools.cache
def subject(name):
  """The run of a method, six rounds of which every second is kept, or the last two of it."""
  method = name.split(",")[0]
  algorithm, train = tiny_methods.bound(METHODS[method]())
  config = ml_collections.ConfigDict({
      "rounds": ROUNDS, "seed": 0, "privacy": {"delta": 1e-3, "noise_seed": None},
      "evaluation": {"every": 0},
      "training": {"rounds_per_dispatch": 2, "checkpoint_every": 2}})
  sources = types.SimpleNamespace(train=train, evaluation=train, public=None, notes=(),
                                  not_covered=(), evaluates_training_people=False)
  return Subject(Experiment(
      config, tiny.one_device(), sources, algorithm, Ledger(), Unjudged(), True,
      record={"method": method, "rounds": ROUNDS}), grown_from=4 if name == GROWN else 0)
