"""The parts of DP-SGD on five tasks: what they make, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face import options
from fedjax_face.dp_sgd import gradients
from fedjax_face.dp_sgd.gradients import Gradient
from fedjax_face.dp_sgd.optimizers import AveragedOptimizer, StepOptimizer, averaged, momentum
from fedjax_face.dp_sgd.sampling import poisson_sampling
from fedjax_face.dp_sgd.units import Units, poisson_units
from fedjax_face.draws import Draws, identity_of
from fedjax_face.losses.multi_task import HYPERFACE_WEIGHTS, TASKS
from fedjax_face.losses.tasks import Tasks
from fedjax_face.models import registry
from fedjax_face.models.hyperface import SMALL_LAYOUT, HyperFace
from fedjax_face.models.hyperface_resnet import HyperFaceResNet
from fedjax_face.models.task_networks import Network
from fedjax_face.options import OptionError
from fedjax_face.privacy.adjacency import Adjacency

ADD = Adjacency.ADD_OR_REMOVE_ONE
KINDS = {"units": Units, "gradient": Gradient, "step_optimizer": StepOptimizer,
         "averaged_optimizer": AveragedOptimizer, "tasks": Tasks, "network": Network}


def built(kind, name, **given):
  return options.build(KINDS[kind], {"name": name, **given}, f"method.{kind}")


@pytest.mark.parametrize("kind, name", [
    (kind, name) for kind, of in KINDS.items() for name in options.kind_of(of).names()])
def test_a_part_is_its_call(kind, name):
  made = built(kind, name)
  assert options.build(KINDS[kind], options.call(made), kind) == made


@pytest.mark.parametrize("kind, name, given, words", [
    ("units", "poisson_units", {"batch_size": 0}, "batch_size=0: expected a whole number,"),
    ("units", "poisson_units", {"regions_per_unit": 0}, "regions_per_unit=0: expected a whole"),
    ("units", "poisson_units", {"sampling_probability": 1.5},
     "sampling_probability=1.5: expected a number in \\(0, 1\\], or None"),
    ("units", "poisson_units", {"unit": "imag"}, "unit='imag': expected one of .*mean image"),
    ("units", "poisson_units", {"capcity": 3}, "capcity: poisson_units takes no capcity.*capacity"),
    ("gradient", "joint", {"clip_norm": 0.0}, "clip_norm=0.0: expected a number above 0"),
    ("gradient", "joint", {"clip_norm": math.inf},
     "clip_norm=inf: expected a number above 0 and below infinity"),
    ("gradient", "stacked", {"noise_multiplier": -1.0}, "noise_multiplier=-1.0: expected a num"),
    ("gradient", "joint", {"form": "ghosts"}, "form='ghosts': expected one of .*mean ghost"),
    ("gradient", "joint", {"views": 0}, "views=0: expected a whole number, at least 1"),
    ("gradient", "joint", {"units_at_once": 0}, "units_at_once=0: expected a whole number, at"),
    ("gradient", "joint", {"weights_share": .1}, "weights_share: joint takes no weights_share"),
    ("gradient", "grouped", {"weights_share": 0.0}, "weights_share=0.0: expected a number above 0"),
    ("gradient", "unclipped", {"clip_norm": 1.0}, "clip_norm: unclipped takes no clip_norm"),
    ("gradient", "jont", {}, "=jont: no gradient has this name .*joint"),
    ("averaged_optimizer", "averaged", {"decay": 1.0}, "decay=1.0: expected a number in \\[0, 1"),
    ("averaged_optimizer", "averaged", {"of": {"name": "sgd", "momentum": .9}},
     "of.momentum: sgd takes no momentum"),
    ("step_optimizer", "lamb", {}, "=lamb: no step optimizer has this name"),
    ("step_optimizer", "momentum", {"momentum": 1.0}, "momentum=1.0: expected a number in \\[0"),
    ("tasks", "fixed", {"weights": (1.0, 2.0)}, "weights=\\(1.0, 2.0\\): expected 5 numbers, for"),
    ("tasks", "fixed", {"weights": (-1.0,) * 5}, "weights\\[0\\]=-1.0: expected a number, at le"),
    ("tasks", "equal", {}, "=equal: no tasks has this name"),
    ("tasks", "uncertainty", {"scale": 0.0}, "scale=0.0: expected a number above 0"),
    ("network", "hyperface", {"width": 0.0}, "width=0.0: expected a number in"),
    ("network", "hyperfaces", {}, "=hyperfaces: no network has this name .*hyperface"),
])
def test_options_are_refused_with_path_and_nearest_name(kind, name, given, words):
  with pytest.raises(OptionError, match=rf"^method.{kind}[.=]?{words}"):
    built(kind, name, **given)


# ---- units ----


class Rows:
  """Photographs of 1 to 4 regions."""

  def __init__(self):
    self._unit = np.repeat(np.arange(10), np.arange(10) % 4 + 1)

  def units(self, unit):
    return self._unit if unit == "image" else np.arange(len(self._unit))

  def unit_identities(self, unit):
    return identity_of(self.units(unit))


def test_units_are_the_samples_of_their_options():
  train, chosen = Rows(), poisson_units(batch_size=3, capacity=4, regions_per_unit=2)
  assert (chosen.name, chosen.adjacency) == ("image", ADD)
  unit = train.units("image")
  mine, other = chosen.bind(train, 2, 1), poisson_sampling(
      unit, identity_of(unit), "image", expected=3, capacity=4, rows=2, views=2, devices=1)
  jax.tree.map(np.testing.assert_array_equal, mine.cohort(Draws.of(1), 5),
               other.cohort(Draws.of(1), 5))
  assert mine.event(2.0) == other.event(2.0) and mine.words == other.words
  given = poisson_units(unit="region", batch_size=2, capacity=4, sampling_probability=.25).bind(
      train, 1, 1)
  assert given.probability == .25 and given.population == len(unit)


# ---- gradients ----


@pytest.mark.parametrize("name, sensitivity", [
    ("joint", 1.0), ("grouped", math.sqrt(1.04)), ("per_task", 5.0), ("stacked", math.sqrt(5))])
def test_a_gradient_knows_its_sensitivity(name, sensitivity):
  given = {"weights_share": .2} if name == "grouped" else {}
  made = built("gradient", name, clip_norm=2.0, **given)
  clip = made.clip(ADD, 5)
  assert made.name == name and clip.sensitivity == pytest.approx(sensitivity)
  assert options.hparams(made) == {"clip_norm": 2.0}
  assert options.still_open(made) == ["noise_multiplier"]


def loss(params, rows):
  return params["weights"] * (rows - params["network"])**2


@pytest.mark.parametrize("name", ["joint", "grouped", "per_task", "stacked"])
def test_the_sum_moves_by_no_more_than_the_sensitivity_where_a_unit_leaves(name):
  """The first, a middle and the last of six units, whose gradients are all far beyond C."""
  made = built("gradient", name, clip_norm=.3, units_at_once=2)
  clip = made.clip(ADD, 3)
  total = jax.jit(made.sum(loss, clip))
  params = {"network": jnp.arange(3.0), "weights": jnp.ones(3)}
  batch, mask = jax.random.normal(jax.random.key(0), (6, 2, 3)) * 10, jnp.ones((6, 2), bool)
  everybody = total(params, batch, mask, .3)
  assert (everybody.norm > 1).all()
  for gone in (0, 3, 5):
    others = total(params, batch, mask.at[gone].set(False), .3)
    moved = float(optax.tree.norm(jax.tree.map(jnp.subtract, everybody.gradient, others.gradient)))
    assert .299 <= moved <= .3 * clip.sensitivity * (1 + 1e-5)


def test_without_a_clip_the_sum_is_the_gradient():
  made = gradients.unclipped(units_at_once=3)
  assert made.clip is None and options.hparams(made) == {}
  params = {"network": jnp.arange(3.0), "weights": jnp.ones(3)}
  batch = jax.random.normal(jax.random.key(0), (6, 2, 3)) * 10
  found = made.sum(loss, None)(params, batch, jnp.ones((6, 2), bool), jnp.inf).gradient
  expected = jax.grad(lambda p: loss(p, batch.reshape(12, 3)).sum())(params)
  for mine, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


# ---- optimisers ----


def test_an_average_holds_the_scalars_of_its_optimiser():
  made = averaged(momentum(learning_rate=.1, momentum=.5, weight_learning_rate_scale=4.0), decay=.2)
  assert options.hparams(made) == {"decay": .2, "of": {
      "learning_rate": .1, "momentum": .5, "weight_learning_rate_scale": 4.0}}
  steps = made.transform(options.hparams(made)["of"])
  gradient = {"network": jnp.ones(2), "weights": jnp.ones(1)}
  state = steps.init(gradient)
  for velocity in (1.0, 1.5):
    update, state = steps.update(gradient, state)
    np.testing.assert_allclose(update["network"], -.1 * velocity, rtol=1e-6)
    np.testing.assert_allclose(update["weights"], -.4 * velocity, rtol=1e-6)


# ---- tasks and networks ----


def test_tasks_are_weighed_as_they_say():
  of = lambda name, **given: built("tasks", name, **given).weighting()
  assert of("fixed").weights(()).tolist() == list(HYPERFACE_WEIGHTS)
  assert of("detection").weights(()).tolist() == [float(task == "detection") for task in TASKS]
  learned = of("uncertainty", scale=.5)
  assert learned.init().shape == (5,)
  np.testing.assert_allclose(learned.weights(jnp.full(5, 2.0)),
                             np.exp(-1) * np.array([1, .5, .5, .5, 1]), rtol=1e-6)


@pytest.mark.parametrize("name, given, module", [
    ("hyperface", {"width": .5}, HyperFace(5, .5)),
    ("hyperface_small", {}, HyperFace(5, 1.0, SMALL_LAYOUT)),
    ("hyperface_resnet", {"blocks": (1, 2), "channels": 8},
     HyperFaceResNet(5, (1, 2), 8))])
def test_a_network_is_bound_to_the_number_of_landmarks(name, given, module):
  made = built("network", name, frozen=["conv1"], **given)
  assert made.bind(5) == module == registry.task_network(name, 5, **given)
  assert made.frozen == ("conv1",)
  assert options.made(registry.network(name, ("conv1",), **given)).bind(5) == module


def test_every_network_of_the_registry_is_a_factory():
  kind = options.kind_of(Network)
  own = {name for name in kind.names()
         if kind.find(name, "").function.__module__.startswith("fedjax_face.")}
  assert own == set(registry.TASK_NETWORKS)
