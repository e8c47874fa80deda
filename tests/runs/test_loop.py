import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Data
from fedjax_face.runs import loop, streams
from fedjax_face.runs.mesh import clients_mesh
from tests.runs.toys import IMAGES, toy_algorithm

NOISE = bytes(range(32))


def one_device():
  return clients_mesh(jax.devices()[:1])


def run(algorithm, **options):
  options = {"rounds": 7, "seed": 3, "noise_root": NOISE, "mesh": one_device()} | options
  options |= {"cohort_root": streams.public_root(options["seed"])}
  history = []
  for progress in loop.train(algorithm, IMAGES, **options):
    state = jax.tree.map(np.asarray, progress.state._replace(
        key=jax.random.key_data(progress.state.key)))
    history.append((progress.span, progress.metrics, state))
  return history


def losses(history):
  return np.concatenate([metrics["loss"] for _, metrics, _ in history])


def by_hand(algorithm, rounds, seed=3):
  """The same rounds, one at a time, without the loop."""
  state = algorithm.init(streams.init_key(seed))
  for r in range(rounds):
    cohort = algorithm.cohort(Draws.of(streams.public_root(seed)), r)
    keys = streams.step_keys(seed, NOISE, r)
    state, _ = algorithm.step(state, Data(jnp.asarray(IMAGES)), cohort, algorithm.hparams, keys)
  return state


@pytest.mark.parametrize("per_dispatch", [1, 3, 10])
@pytest.mark.parametrize("resident", [True, False])
def test_equals_rounds_run_one_at_a_time(per_dispatch, resident):
  algorithm = toy_algorithm()
  history = run(algorithm, rounds_per_dispatch=per_dispatch, resident=resident)
  expected = by_hand(algorithm, 7)
  np.testing.assert_allclose(history[-1][2].weights, expected.weights, rtol=1e-6)
  np.testing.assert_array_equal(history[-1][2].key, jax.random.key_data(expected.key))
  assert len(losses(history)) == 7


@pytest.mark.parametrize("resident", [True, False])
def test_continuing_is_bit_identical(resident):
  algorithm = toy_algorithm()
  options = {"rounds_per_dispatch": 2, "stop_every": (3,), "resident": resident}
  whole = run(algorithm, **options)
  kept = next(state for span, _, state in whole if span.stop == 3)
  kept = kept._replace(key=jax.random.wrap_key_data(kept.key))
  rest = run(algorithm, start=3, state=jax.device_put(kept), **options)
  for a, b in zip(whole[-1][2], rest[-1][2], strict=True):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(losses(whole)[3:], losses(rest))


def test_one_compilation_for_short_dispatches_and_other_hyperparameters():
  traces = []
  algorithm = toy_algorithm(traces=traces)
  dispatch = loop.compile_rounds(algorithm, one_device())
  seen = []
  original, loop.compile_rounds = loop.compile_rounds, lambda *_: dispatch
  try:
    for rate in (0.5, 0.25):
      seen.append(losses(run(algorithm, rounds_per_dispatch=3, hparams={
          "learning_rate": rate, "noise": 0.1})))
  finally:
    loop.compile_rounds = original
  assert not np.array_equal(*seen)
  assert dispatch._cache_size() == 1 and len(traces) == 1


def test_weak_types_do_not_compile_twice():
  traces = []
  algorithm = toy_algorithm(traces=traces)
  weak = algorithm.__class__(**{**vars(algorithm), "init": lambda key: algorithm.init(
      key)._replace(rounds=jax.lax.full((), 0))})
  run(weak, rounds_per_dispatch=2)
  assert len(traces) == 1


def test_noise_and_data_order_are_separate_streams():
  algorithm = toy_algorithm()
  targets = lambda h: np.concatenate([m["target"] for _, m, _ in h])
  first, other_noise = run(algorithm), run(algorithm, noise_root=bytes(32))
  np.testing.assert_array_equal(targets(first), targets(other_noise))
  assert not np.array_equal(first[-1][2].weights, other_noise[-1][2].weights)
  assert not np.array_equal(targets(first), targets(run(algorithm, seed=4)))


def test_non_finite_state_names_the_rounds():
  with pytest.raises(loop.NonFiniteState, match=r"NaN or infinite in rounds 4-6"):
    run(toy_algorithm(blow_up_at=4), rounds_per_dispatch=3)
