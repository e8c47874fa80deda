"""What a traced program does with its values: who depends on whom, which cannot be negative.

All answers are conservative: a dependence may be reported that is not there, a sign may be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun

# Primitives whose output holds only entries of the first operand, or their maximum or mean.
_KEEP_FIRST = frozenset((
    "reshape", "transpose", "slice", "dynamic_slice", "gather", "squeeze", "rev", "copy",
    "broadcast_in_dim", "convert_element_type", "expand_dims", "name", "reduce_max", "reduce_min",
    "reduce_sum", "reduce_window_max", "reduce_window_sum", "cumsum", "cummax", "split",
    "stop_gradient"))
# Non-negative if all operands are; `select_n` by its branches, so its first operand is left out.
_KEEP_ALL = frozenset((
    "concatenate", "stack", "pad", "add", "add_any", "mul", "div", "min", "dot_general",
    "conv_general_dilated", "select_n", "clamp"))
_ALWAYS = frozenset(("exp", "exp2", "abs", "square", "sqrt", "rsqrt", "logistic", "iota"))
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Dataflow:
  """A program with named values, marked where they are made by `mark`."""

  def __init__(self, function: Callable[..., Any], inputs: Any, *others: Any):
    """Traces function(inputs, *others); arguments are arrays or `jax.ShapeDtypeStruct`.

    Marks inside loops or calls are not seen.
    """
    self._closed = jax.make_jaxpr(function)(inputs, *others)
    self._inputs = self._closed.jaxpr.invars[:len(jax.tree.leaves(inputs))]
    self._signs = _signs(self._closed, [False] * len(self._closed.jaxpr.invars))
    self._marks = {equation.params["name"]: equation for equation in self._closed.jaxpr.eqns
                   if equation.primitive.name == "name"}

  def bypassed(self, name: str) -> bool:
    """Whether an output depends on `inputs` other than through the value of this name."""
    reached = set(self._inputs)
    for equation in self._closed.jaxpr.eqns:
      if equation is not self._marks[name] and any(
          var in reached for var in equation.invars if not isinstance(var, Literal)):
        reached.update(equation.outvars)
    return any(var in reached for var in self._closed.jaxpr.outvars
               if not isinstance(var, Literal))

  def feeds_relu(self, name: str) -> bool:
    """Whether the program uses the value of this name as ReLU(value) only."""
    return _relu(self._closed.jaxpr, self._marks[name].outvars[0]) is not None

  def non_negative(self, name: str) -> bool:
    """Whether the value of this name is at least 0 whatever all arguments are."""
    return self._signs[self._marks[name].outvars[0]]


def mark(value: jax.Array, name: str) -> jax.Array:
  """The value itself, with a name that `Dataflow` finds."""
  return checkpoint_name(value, name)


def without_relu(function: Callable[..., Any], others: Any, activations: jax.Array) -> Any:
  """function(others, activations) without the ReLU that it applies to the activations first.

  Raises:
    ValueError: it uses the activations otherwise.
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(others, activations)
  relu = _relu(closed.jaxpr, closed.jaxpr.invars[-1])
  if relu is None:
    raise ValueError("the program does not begin with the ReLU of its last argument")
  rest = closed.jaxpr.replace(
      invars=[*closed.jaxpr.invars[:-1], relu.outvars[0]],
      eqns=[equation for equation in closed.jaxpr.eqns if equation is not relu])
  outputs = jaxpr_as_fun(closed.replace(jaxpr=rest))(*jax.tree.leaves(others), activations)
  return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _relu(jaxpr: Jaxpr, value: Var) -> JaxprEqn | None:
  """The one equation that reads the value, if that is a ReLU."""
  readers = [equation for equation in jaxpr.eqns if any(var is value for var in equation.invars)]
  if len(readers) != 1 or any(var is value for var in jaxpr.outvars):
    return None
  return readers[0] if _is_relu(readers[0]) else None


def _is_relu(equation: JaxprEqn) -> bool:
  inner = _inner(equation)
  if inner is not None:
    return len(inner.jaxpr.eqns) == 1 and _is_relu(inner.jaxpr.eqns[0])
  return equation.primitive.name == "max" and any(
      isinstance(var, Literal) and np.all(var.val == 0) for var in equation.invars)


def _inner(equation: JaxprEqn) -> ClosedJaxpr | None:
  """The program that a call runs on its own operands; None for loops and all else."""
  if equation.primitive.name in ("scan", "while"):
    return None
  for name in _INNER:
    inner = equation.params.get(name)
    if isinstance(inner, ClosedJaxpr) and len(inner.jaxpr.invars) == len(equation.invars):
      return inner
  return None


def _signs(closed: ClosedJaxpr, inputs: Sequence[bool]) -> dict[Var, bool]:
  """For every value of the program whether it is known not to be negative."""
  known = dict(zip(closed.jaxpr.invars, inputs, strict=True))
  known |= {var: _is_non_negative(value)
            for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)}
  for equation in closed.jaxpr.eqns:
    operands = [_sign_of(var, known) for var in equation.invars]
    inner = _inner(equation)
    if inner is None:
      results = [_sign(equation, operands)] * len(equation.outvars)
    else:
      inside = _signs(inner, operands)
      results = [_sign_of(var, inside) for var in inner.jaxpr.outvars]
    known |= dict(zip(equation.outvars, results, strict=True))
  return known


def _sign_of(var: Var | Literal, known: dict[Var, bool]) -> bool:
  return _is_non_negative(var.val) if isinstance(var, Literal) else known[var]


def _sign(equation: JaxprEqn, operands: list[bool]) -> bool:
  name = equation.primitive.name
  if name == "max":
    return any(operands)
  if name in _KEEP_FIRST:
    return operands[0]
  if name in _KEEP_ALL:
    return all(operands[1:] if name in ("select_n", "clamp") else operands)
  return name in _ALWAYS


def _is_non_negative(value: Any) -> bool:
  array = np.asarray(value)
  return array.dtype.kind in "fiub" and bool((array >= 0).all())
