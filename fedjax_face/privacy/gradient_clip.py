"""How the gradient of a unit is clipped, and the sensitivity that it gives their sum.

Source: Abadi et al., CCS 2016, Algorithm 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from fedjax_face.privacy.adjacency import Adjacency


@dataclasses.dataclass(frozen=True)
class GradientClip:
  """How a unit's gradient is clipped; made by `joint`, `grouped` or `per_task`.

  Attributes:
    adjacency: what neighbouring data sets differ in.
    shares: (path prefix of the parameters, their clip norm over the clip norm S) of every group.
    tasks: 0: the tasks' losses are summed first; else the number of tasks clipped one by one.
    stacked: the tasks' sums stay apart, with a leading axis of tasks, to be noised apart.

  Guarantees:
    The sum of clipped gradients moves by at most `sensitivity * S` in L2 norm (a stacked sum: over
    all its entries) between neighbouring data sets, up to rounding, as long as one unit's data
    makes up one unit of the batch only, whatever the data are.
  """

  adjacency: Adjacency
  shares: tuple[tuple[str, float], ...] = (("", 1.0),)
  tasks: int = 0
  stacked: bool = False

  @property
  def sensitivity(self) -> float:
    """L2 sensitivity of the sum, in units of the clip norm.

    One clipped gradient is at most as long as the root of the sum of its groups' squared shares.
    Tasks that are summed may all point the same way; stacked ones are orthogonal. Replacing a unit
    removes one gradient and adds another.
    """
    one = math.sqrt(sum(share**2 for _, share in self.shares))
    together = math.sqrt(self.tasks) if self.stacked else self.tasks
    return one * (together or 1.0) * (2.0 if self.adjacency is Adjacency.REPLACE_ONE else 1.0)

  def groups(self, params: Any) -> tuple[int, ...]:
    """For every leaf of params the index of its group: the longest prefix that fits.

    Raises:
      ValueError: a leaf without a group, or a group without leaves.
    """
    names = [jax.tree_util.keystr(path, simple=True, separator="/")
             for path, _ in jax.tree.leaves_with_path(params)]
    prefixes = [prefix for prefix, _ in self.shares]
    chosen = []
    for name in names:
      fitting = [prefix for prefix in prefixes if f"{name}/".startswith(prefix and f"{prefix}/")]
      if not fitting:
        raise ValueError(f"parameter {name!r} is in none of the clip groups {prefixes}")
      chosen.append(prefixes.index(max(fitting, key=len)))
    for index, prefix in enumerate(prefixes):
      if index not in chosen:
        raise ValueError(f"clip group {prefix!r} holds no parameter; parameters are {names}")
    return tuple(chosen)


def joint(adjacency: Adjacency) -> GradientClip:
  """All parameters together, clipped to S."""
  return GradientClip(adjacency)


def grouped(shares: Mapping[str, float], adjacency: Adjacency) -> GradientClip:
  """Each group of parameters by itself: group g is clipped to shares[g] * S.

  Args:
    shares: by path prefix, e.g. {"": 1.0, "log_variances": 0.1}: a parameter belongs to the longest
      prefix of its path, "" fits all.
    adjacency: what neighbouring data sets differ in.

  Raises:
    ValueError: no group, or a share that is not positive.
  """
  if not shares or not all(share > 0 for share in shares.values()):
    raise ValueError(f"shares of the clip norm must be positive, got {dict(shares)}")
  return GradientClip(adjacency, tuple(shares.items()))


def per_task(tasks: int, adjacency: Adjacency, stacked: bool = False) -> GradientClip:
  """The gradient of every task's loss by itself, clipped to S; summed, or stacked and kept apart.

  Raises:
    ValueError: fewer than one task.
  """
  if tasks < 1:
    raise ValueError(f"tasks must be at least 1, got {tasks}")
  return GradientClip(adjacency, tasks=tasks, stacked=stacked)
