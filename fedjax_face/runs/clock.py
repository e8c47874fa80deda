"""How long a run took."""

from __future__ import annotations

import statistics
import time

from fedjax_face.runs.loop import Progress


class Clock:
  """Wall time of the dispatches of this process."""

  def __init__(self) -> None:
    self._start = time.perf_counter()
    self._dispatches: list[tuple[float, int]] = []

  def add(self, progress: Progress) -> None:
    """Counts a dispatch."""
    self._dispatches.append((progress.seconds, progress.span.stop - progress.span.start))

  def seconds(self) -> dict[str, float]:
    """`compile` (first dispatch beyond its rounds), `per_round` (median without it), `total`."""
    total = {"total": time.perf_counter() - self._start}
    if not self._dispatches:
      return total
    later = [seconds / rounds for seconds, rounds in self._dispatches[1:]]
    first, rounds = self._dispatches[0]
    if not later:
      return {"compile_and_first_dispatch": first, **total}
    per_round = statistics.median(later)
    return {"compile": max(first - per_round * rounds, 0.0), "per_round": per_round, **total}
