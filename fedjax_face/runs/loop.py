"""The training loop: rounds in dispatches of several, as a plain generator without files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedjax_face.data.image_source import Images
from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Algorithm, Data, HParams, State, flattened
from fedjax_face.runs import batches
from fedjax_face.runs.batches import Batch, Span
from fedjax_face.runs.mesh import clients_mesh, replicate
from fedjax_face.runs.streams import (
    BEFORE_ROUNDS,
    RoundKeys,
    client_key,
    init_key,
    noise_words,
    step_keys,
)

Dispatch = Callable[..., tuple[State, dict[str, jax.Array], jax.Array]]


class Progress(NamedTuple):
  """What one dispatch did.

  Attributes:
    state: after round `span.stop - 1`; the next dispatch reuses its memory, so read it at once.
    span: the rounds that ran.
    metrics: each float [span.stop - span.start], one value per round.
    seconds: wall time of the dispatch, waiting for its result included.
  """

  state: State
  span: Span
  metrics: dict[str, np.ndarray]
  seconds: float


class NonFiniteState(ValueError):
  """Training produced a parameter that is not a finite number."""

  def __init__(self, span: Span):
    super().__init__(
        f"a parameter became NaN or infinite in rounds {span.start + 1}-{span.stop}; "
        "lower the learning rates or the noise")
    self.span = span
    self.done = span.start


def train(
    algorithm: Algorithm,
    images: Images,
    *,
    targets: Any = (),
    rounds: int,
    seed: int,
    noise_root: bytes,
    cohort_root: bytes,
    state: State | None = None,
    start: int = 0,
    rounds_per_dispatch: int = 1,
    stop_every: Sequence[int] = (),
    resident: bool = True,
    mesh: Mesh | None = None,
    hparams: HParams | None = None,
    dispatch: Dispatch | None = None,
) -> Iterator[Progress]:
  """Trains from round `start` to `rounds` and yields after every dispatch.

  Args:
    algorithm: what to train.
    images: uint8 [N, H, W, C], the rows that cohorts point into.
    targets: arrays [N, ...] beside them (`Data.targets`).
    rounds: total number of rounds, counted from 0.
    seed: of initialisation and data order.
    noise_root: of the privacy noise: `streams.secret_root`, or `streams.public_root` where nothing
      rests on it.
    cohort_root: of who takes part, likewise; a gain from sampling needs a secret one.
    state: to continue from at round `start`; None initialises it.
    start: first round to run.
    rounds_per_dispatch: most rounds between two returns to the host.
    stop_every: a dispatch also ends at every multiple of these.
    resident: True keeps all images on the device; False sends each dispatch the rows that it
      needs, prepared one dispatch ahead.
    mesh: devices; default all.
    hparams: default `algorithm.hparams`, for which `algorithm.releases` stands: another noise
      multiplier needs an algorithm built with it.
    dispatch: what `compile_rounds` gave for this algorithm and mesh, where several calls share it.

  Raises:
    NonFiniteState: naming the rounds.
    ValueError: another noise multiplier than that of `algorithm.releases`, an algorithm that needs
      all images where they are not resident, or a step that measures what is not declared.
  """
  scalars = algorithm.hparams if hparams is None else hparams
  _require_noise_of_releases(flattened(algorithm.hparams), flattened(scalars))
  if algorithm.needs_all_images and not resident:
    raise ValueError(f"algorithm={algorithm.name} needs the whole training set on the device: set "
                     "compute.resident=true")
  mesh = clients_mesh() if mesh is None else mesh
  if state is None:
    state = initial_state(algorithm, seed, mesh, images)
  scalars = replicate(jax.tree.map(jnp.float32, scalars), mesh)
  client_root = replicate(client_key(seed), mesh)
  rows = Data(images, targets)
  data = batches.resident_data(rows, mesh) if resident else None
  if algorithm.prepare is not None:
    keys = replicate(step_keys(seed, noise_root, BEFORE_ROUNDS), mesh)
    data = jax.jit(algorithm.prepare)(data, scalars, keys)
  dispatch = compile_rounds(algorithm, mesh) if dispatch is None else dispatch
  draws = Draws.of(cohort_root)

  def prepare(span: Span) -> Batch:
    cohorts = batches.host_batch(algorithm.cohort, draws, span, rounds_per_dispatch)
    return batches.device_batch(cohorts, span, None if resident else rows, mesh)

  spans = batches.spans(start, rounds, rounds_per_dispatch, stop_every)
  for batch in batches.prefetch(prepare, spans):
    began = time.perf_counter()
    span = batch.span
    numbers = replicate(np.asarray(span, np.int32), mesh)
    keys = RoundKeys(client_root, replicate(
        noise_words(noise_root, range(span.start, span.start + rounds_per_dispatch)), mesh))
    state, metrics, finite = dispatch(
      state, data, batch.cohorts, batch.rows, numbers, scalars, keys)
    count = span.stop - span.start
    per_round = {name: np.asarray(value)[:count] for name, value in metrics.items()}
    if not bool(finite):
      raise NonFiniteState(span)
    yield Progress(state, span, per_round, time.perf_counter() - began)


def _require_noise_of_releases(released: Mapping[str, Any], given: Mapping[str, Any]) -> None:
  for name in sorted(released.keys() | given.keys()):
    if name.endswith("noise_multiplier") and given.get(name) != released.get(name):
      raise ValueError(f"{name}={given.get(name)}, but the releases of this algorithm are those of "
                       f"{released.get(name)}: build it with the other one")


def initial_state(algorithm: Algorithm, seed: int, mesh: Mesh, images: Any = None) -> State:
  """The state before round 0, placed on the mesh as the algorithm wishes.

  Args:
    algorithm: of the run.
    seed: of it.
    mesh: devices.
    images: uint8 [N, H, W, C] of the training set, which some algorithms look at; None: what they
      would have seen is not a number, so that nobody trains from it.
  """
  look = None if images is None else algorithm.look
  seen = () if look is None else (jax.tree.map(np.asarray, look(images)),)
  init = lambda key, *seen: jax.tree.map(_strongly_typed, algorithm.init(key, *seen))
  return jax.jit(init, out_shardings=_placement(algorithm, mesh))(
      *replicate((init_key(seed), *seen), mesh))


def _placement(algorithm: Algorithm, mesh: Mesh) -> State:
  """A `NamedSharding` for every array of the state."""
  specs = algorithm.sharding(jax.eval_shape(algorithm.init, jax.random.key(0)))
  return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def compile_rounds(algorithm: Algorithm, mesh: Mesh) -> Dispatch:
  """(state, data, cohorts, rows, span [2], hparams, RoundKeys) -> (state, metrics, all finite).

  The number of rounds that run is a traced value, so a short last dispatch, another learning rate
  and a resumed run all use one compiled program. The state's memory is reused. Metrics are [R],
  zero past the span.
  """

  @jax.jit  # traced once for the shapes of its metrics and for the loop
  def one_round(index, state, data, cohorts, gathered, span, hparams, keys):
    cohort = jax.tree.map(lambda leaf: leaf[index], cohorts)
    rows = data if gathered is None else jax.tree.map(lambda leaf: leaf[index], gathered)
    state, metrics = algorithm.step(
        state, rows, cohort, hparams, keys.at(index, span[0] + index))
    return jax.tree.map(_strongly_typed, (state, metrics))

  def run(state, *inputs):
    def body(index, carry):
      state, metrics = carry
      state, new = one_round(index, state, *inputs)
      return state, jax.tree.map(lambda rows, value: rows.at[index].set(value), metrics, new)

    cohorts, span = inputs[1], inputs[3]
    shapes = jax.eval_shape(one_round, jnp.int32(0), state, *inputs)[1]
    algorithm.require_declared(shapes)
    empty = jax.tree.map(
      lambda leaf: jnp.zeros((cohorts.client.shape[0], *leaf.shape), leaf.dtype), shapes)
    state, metrics = jax.lax.fori_loop(jnp.int32(0), span[1] - span[0], body, (state, empty))
    return state, metrics, _all_finite(state)

  everywhere = NamedSharding(mesh, P())
  return jax.jit(run, donate_argnums=0,
                 out_shardings=(_placement(algorithm, mesh), everywhere, everywhere))


def _strongly_typed(leaf: jax.Array) -> jax.Array:
  """Drops jax's weak type, which would compile the second dispatch anew."""
  leaf = jnp.asarray(leaf)
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return leaf
  return jax.lax.convert_element_type(leaf, leaf.dtype)


def _all_finite(tree: Any) -> jax.Array:
  floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()
