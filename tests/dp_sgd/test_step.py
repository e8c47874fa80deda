"""Steps of DP-SGD against sums worked out one unit at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_face.data.cohorts import Cohort
from fedjax_face.dp_sgd.step import descent
from fedjax_face.method.algorithm import Data, StepKeys, with_values
from fedjax_face.privacy import gradient_clip, noise, per_example
from fedjax_face.privacy.adjacency import Adjacency

ADD = Adjacency.ADD_OR_REMOVE_ONE
EXPECTED = 4.0
HPARAMS = {"gradient": {"clip_norm": 0.3, "noise_multiplier": 0.0},
           "optimizer": {"decay": 0.0, "of": {"learning_rate": 0.5}}}

UNITS, ROWS, TASKS = 6, 2, 3
COHORT = Cohort(
    examples=np.arange(UNITS * ROWS, dtype=np.int32).reshape(1, UNITS, ROWS),
    labels=np.zeros((1, UNITS, ROWS), np.int32),
    mask=np.array([[[1, 1], [1, 0], [1, 1], [1, 1], [0, 0], [0, 0]]], bool),
    num_classes=np.zeros(1, np.int32), client=np.zeros(1, np.int32),
    draw=np.arange(UNITS * ROWS, dtype=np.uint32).reshape(1, UNITS, ROWS))
EMPTY = COHORT._replace(mask=np.zeros_like(COHORT.mask))
PARAMS = {"network": jnp.array([0.5, -1.0, 2.0]), "weights": jnp.array([0.1, 0.2, -0.3])}
DATA = Data(jnp.zeros((UNITS * ROWS, 1, 1, 1), jnp.uint8),
            {"x": jax.random.normal(jax.random.key(0), (UNITS * ROWS, 3))})


def loss(params, rows):
  """Squared errors of three tasks [N, 3] with learned weights."""
  errors = (rows.targets["x"] - params["network"])**2
  return jnp.exp(-params["weights"]) * errors + params["weights"]


def sgd(hparams):
  return optax.sgd(hparams["learning_rate"])


def steps(clip=None, noise_=None, *, augment=None, optimizer=sgd,
          project=lambda params: params, clipped=True):
  clip = gradient_clip.joint(ADD) if clip is None and clipped else clip
  gradient_sum = (per_example.clipped_gradient_sum(loss, clip, "vmapped") if clipped else
                  per_example.unclipped_gradient_sum(loss, units_at_once=2))
  return descent(gradient_sum, clip if clipped else None, noise_, EXPECTED, optimizer,
                        augment, project)


def keys(round_number=0):
  return StepKeys(jax.random.key(2 * round_number), jax.random.key(2 * round_number + 1))


def one_step(descent, hparams=HPARAMS, cohort=COHORT, state=None, round_number=0):
  state = descent.init(PARAMS, hparams) if state is None else state
  return descent.step(state, DATA, cohort, hparams, keys(round_number))


def unit_gradients():
  """The gradient of every unit of the cohort, by itself."""
  gradients = []
  for rows, mask in zip(COHORT.examples[0], COHORT.mask[0], strict=True):
    if mask.any():
      data = jax.tree.map(lambda leaf, rows=rows[mask]: leaf[rows], DATA)
      gradients.append(jax.grad(lambda p, data=data: loss(p, data).sum())(PARAMS))
  return gradients


def vector(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_a_step_is_the_clipped_sum_over_the_expected_number():
  state, metrics = one_step(steps())
  gradients = [vector(g) for g in unit_gradients()]
  norms = np.array([np.linalg.norm(g) for g in gradients])
  clipped = sum(g * min(1, .3 / norm) for g, norm in zip(gradients, norms, strict=True))
  np.testing.assert_allclose(vector(PARAMS) - vector(state.params), .5 * clipped / EXPECTED,
                             rtol=1e-5, atol=1e-6)
  assert metrics["units"] == 4 and metrics["clipped_fraction"] == (norms > .3).mean()
  assert metrics["gradient_norm"] == pytest.approx(norms.mean(), rel=1e-5)
  assert "signal_to_noise" not in metrics


@pytest.mark.parametrize("form", ["vmapped", "scanned", "ghost"])
def test_without_noise_and_bound_a_step_is_plain_sgd(form):
  hparams = with_values(HPARAMS, {"gradient": {"clip_norm": np.inf, "noise_multiplier": 0.0}})
  clip = gradient_clip.joint(ADD)
  private = descent(per_example.clipped_gradient_sum(loss, clip, form), clip, None, EXPECTED,
                           sgd, None, lambda params: params)
  mine, plain = (one_step(descent, hparams)[0] for descent in (private, steps(clipped=False)))
  expected = vector(PARAMS) - .5 * sum(vector(g) for g in unit_gradients()) / EXPECTED
  np.testing.assert_allclose(vector(plain.params), expected, rtol=1e-6)
  np.testing.assert_allclose(vector(mine.params), vector(plain.params), rtol=1e-6)


CLIPS = {"joint": (gradient_clip.joint(ADD), 1),
         "grouped": (gradient_clip.grouped({"network": 1.0, "weights": .1}, ADD), np.sqrt(1.01)),
         "per_task": (gradient_clip.per_task(TASKS, ADD), 3),
         "stacked": (gradient_clip.per_task(TASKS, ADD, stacked=True), np.sqrt(3))}


def noise_of(descent, hparams, rounds=1500):
  """[rounds, 6]: what steps on empty batches add to the mean gradient."""
  state = descent.init(PARAMS, hparams)

  @jax.jit
  def added(number):
    key = jax.random.fold_in(jax.random.key(3), number)
    after, _ = descent.step(state, DATA, EMPTY, hparams, StepKeys(key, key))
    rate = hparams["optimizer"]["of"]["learning_rate"]
    return jnp.concatenate(jax.tree.leaves(jax.tree.map(
        lambda old, new: (old - new) / rate, PARAMS, after.params)))

  return np.asarray(jax.lax.map(added, jnp.arange(rounds)))


def noise_is(standard_deviation, drawn, tolerance=4.5):
  """Whether every coordinate's variance is that within sampling error."""
  ratio = (drawn**2).mean(0) / standard_deviation**2
  return (np.abs(ratio - 1) < tolerance * np.sqrt(2 / len(drawn))).all()


@pytest.mark.parametrize("name", CLIPS)
def test_noise_on_an_empty_batch_is_what_the_sensitivity_asks_for(name):
  """On all coordinates, the tasks' weights included; three stacked sums are noised apart."""
  clip, sensitivity = CLIPS[name]
  hparams = with_values(HPARAMS, {"gradient": {"noise_multiplier": 1.7}})
  assert clip.sensitivity == pytest.approx(sensitivity)
  expected = 1.7 * sensitivity * .3 / EXPECTED * (np.sqrt(TASKS) if name == "stacked" else 1)
  added = noise_of(steps(clip, noise.gaussian()), hparams)
  assert noise_is(expected, added)
  correlation = np.corrcoef(added.T) - np.eye(6)
  assert np.abs(correlation).max() < 5 / np.sqrt(len(added))


def test_half_the_noise_would_be_seen():
  half = noise.gaussian()
  half = half._replace(add=lambda total, state, stddev, key: noise.gaussian().add(
      total, state, stddev / 2, key))
  hparams = with_values(HPARAMS, {"gradient": {"noise_multiplier": 1.7}})
  assert not noise_is(1.7 * .3 / EXPECTED, noise_of(steps(noise_=half), hparams))


def test_the_noise_of_a_step_follows_from_its_key():
  descent = steps(noise_=noise.gaussian())
  hparams = with_values(HPARAMS, {"gradient": {"noise_multiplier": 1.0}})
  first, again, other = (one_step(descent, hparams, round_number=r)[0] for r in (0, 0, 1))
  np.testing.assert_array_equal(vector(first.params), vector(again.params))
  assert (vector(first.params) != vector(other.params)).all()


def test_signal_to_noise_is_the_sum_over_the_noise():
  hparams = with_values(HPARAMS, {"gradient": {"noise_multiplier": 2.0}})
  metrics = one_step(steps(noise_=noise.gaussian()), hparams)[1]
  total = sum(vector(g) * min(1, .3 / np.linalg.norm(vector(g))) for g in unit_gradients())
  assert metrics["signal_to_noise"] == pytest.approx(
      np.linalg.norm(total) / (2 * .3 * np.sqrt(6)), rel=1e-5)


def test_the_average_forgets_slowly_but_not_at_the_start():
  descent = steps()
  hparams = with_values(HPARAMS, {"optimizer": {"decay": 0.25}})
  states = [descent.init(PARAMS, hparams)]
  for number in range(3):
    states.append(one_step(descent, hparams, state=states[-1], round_number=number)[0])
  expected = vector(PARAMS)
  for decay, state in zip((2 / 11, 3 / 12, 1 / 4), states[1:], strict=True):
    expected = decay * expected + (1 - decay) * vector(state.params)
    np.testing.assert_allclose(vector(state.average), expected, rtol=1e-5)
  assert states[-1].steps == 3
  off = one_step(descent)[0]
  np.testing.assert_array_equal(vector(off.average), vector(off.params))


def test_augmentation_and_projection_are_applied():
  doubled = lambda data, key: data._replace(targets={"x": 2 * data.targets["x"]})
  kept = lambda params: params | {"weights": jnp.zeros(3)}
  unbounded = with_values(HPARAMS, {"gradient": {"clip_norm": np.inf}})
  state, _ = one_step(steps(augment=doubled, project=kept), unbounded)
  assert not state.params["weights"].any()
  plain, _ = one_step(steps(), unbounded)
  moved = vector(state.params["network"]) - vector(plain.params["network"])
  rows = COHORT.examples[0][COHORT.mask[0]]
  shift = .5 / EXPECTED * 2 * np.exp(-PARAMS["weights"]) * DATA.targets["x"][rows].sum(0)
  np.testing.assert_allclose(moved, shift, rtol=1e-4)


def test_a_rows_augmentation_follows_its_draw_and_not_its_place():
  """The first unit leaves, all others move up: each row keeps its key."""
  given = []

  def augment(data, keys):
    given.append(dict(zip(np.ravel(data.targets["x"][:, 0]).tolist(),
                          map(tuple, np.asarray(jax.random.key_data(keys)).tolist()), strict=True)))
    return data

  moved_up = COHORT._replace(**{field: np.roll(getattr(COHORT, field), -1, axis=1)
                                for field in ("examples", "mask", "draw")})
  for cohort in (COHORT, moved_up):
    one_step(steps(augment=augment), cohort=cohort)
  assert given[0] == given[1] and len(set(given[0].values())) == UNITS * ROWS


def test_other_hyperparameters_do_not_compile_again():
  descent = steps(noise_=noise.gaussian())
  traces = []

  @jax.jit
  def step(state, hparams, keys):
    traces.append(1)
    return descent.step(state, DATA, COHORT, hparams, keys)

  state = descent.init(PARAMS, HPARAMS)
  for scale in (1., 2., 3.):
    hparams = jax.tree.map(lambda value, s=scale: jnp.float32(s * value), HPARAMS)
    state, _ = step(jax.tree.map(jnp.asarray, state), hparams, keys())
  assert len(traces) == 1


def test_noise_without_a_bound_is_refused():
  with pytest.raises(ValueError, match="noise needs a clip"):
    steps(noise_=noise.gaussian(), clipped=False)
