"""What one dispatch needs, prepared on the host one dispatch ahead."""

from __future__ import annotations

import concurrent.futures
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_face.data.cohorts import Cohort
from fedjax_face.draws import Draws
from fedjax_face.method.algorithm import Data
from fedjax_face.runs.mesh import replicate, shard_clients

T = TypeVar("T")


class Span(NamedTuple):
  """Rounds start, ..., stop - 1, run in one dispatch."""

  start: int
  stop: int


class Batch(NamedTuple):
  """Inputs of one dispatch of at most R rounds, on the device.

  Attributes:
    span: the rounds.
    cohorts: Cohort of arrays [R, K, ...]; rounds past the span are padding that no step reads.
    rows: None where the whole set is resident, else Data of arrays [R, K*S*B, ...].
  """

  span: Span
  cohorts: Cohort
  rows: Data | None


def spans(start: int, rounds: int, size: int, every: Sequence[int] = ()) -> list[Span]:
  """Cuts rounds `start .. rounds` into dispatches of at most `size` rounds.

  A cut lies at every multiple of `size` and of each positive number in `every` (checkpoints,
  evaluations). Cuts depend on the absolute round only: a resumed run has the same ones.
  """
  if size < 1:
    raise ValueError(f"compute.rounds_per_dispatch={size}: expected at least 1")
  periods = [period for period in (size, *every) if period > 0]
  result = []
  while start < rounds:
    stop = min([rounds] + [(start // period + 1) * period for period in periods])
    result.append(Span(start, stop))
    start = stop
  return result


def host_batch(cohort: Callable[[Draws, int], Cohort], draws: Draws, span: Span, size: int
               ) -> Cohort:
  """Cohorts of a span, stacked to [size, K, ...]; unused rounds are zero."""
  drawn = [cohort(draws, r) for r in range(span.start, span.stop)]

  def stack(*arrays: np.ndarray) -> np.ndarray:
    out = np.zeros((size, *arrays[0].shape), arrays[0].dtype)
    out[:len(arrays)] = arrays
    return out

  return jax.tree.map(stack, *drawn)


def gather(data: Data, cohorts: Cohort) -> tuple[Cohort, Data]:
  """Rows that the cohorts point into, and cohorts that point into those rows.

  Args:
    data: arrays [N, ...], in memory or memory-mapped.
    cohorts: Cohort with examples [R, K, S, B].

  Returns:
    Cohorts with examples re-numbered 0 .. K*S*B-1 in each round, and arrays [R, K*S*B, ...].
  """
  shape = cohorts.examples.shape
  rows = jax.tree.map(
      lambda leaf: leaf[cohorts.examples.reshape(-1)].reshape(shape[0], -1, *leaf.shape[1:]), data)
  numbers = np.arange(math.prod(shape[1:]), dtype=np.int32).reshape(shape[1:])
  return cohorts._replace(examples=np.broadcast_to(numbers, shape)), rows


def device_batch(cohorts: Cohort, span: Span, data: Data | None, mesh: Mesh) -> Batch:
  """Places one dispatch: cohorts split over the mesh, rows (if not resident) replicated."""
  if data is None:
    return Batch(span, shard_clients(cohorts, mesh), None)
  cohorts, rows = gather(data, cohorts)
  return Batch(span, shard_clients(cohorts, mesh), replicate(rows, mesh))


def resident_data(data: Data, mesh: Mesh) -> Data:
  """The whole set on every device."""
  return replicate(jax.tree.map(np.ascontiguousarray, data), mesh)


def prefetch(produce: Callable[[T], Batch], items: Iterable[T]) -> Iterator[Batch]:
  """`produce(item)` for each item in order, one item ahead in a thread."""
  with concurrent.futures.ThreadPoolExecutor(1, "prefetch") as pool:
    pending = None
    for item in items:
      following = pool.submit(produce, item)
      if pending is not None:
        yield pending.result()
      pending = following
    if pending is not None:
      yield pending.result()
