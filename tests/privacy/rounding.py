"""Matrix products and convolutions as an accelerator takes them: their factors rounded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax._src.interpreters import mlir
from jax.extend.core import ClosedJaxpr, Jaxpr

BFLOAT16, TF32 = 7, 10      # bits of a factor's mantissa
HIGHEST = jax.lax.Precision.HIGHEST
_PRODUCTS = (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p)


@contextlib.contextmanager
def rounded_products(mantissa_bits: int) -> Iterator[None]:
  """Rounds the factors of every product that does not ask for the highest precision."""
  own = mlir._platform_specific_lowerings[jax.default_backend()]
  before = {primitive: own.get(primitive) for primitive in _PRODUCTS}
  exact = {primitive: before[primitive] or mlir._lowerings[primitive] for primitive in _PRODUCTS}

  def rule(primitive):
    def rounded(*factors, precision, **options):
      factors = [jax.lax.reduce_precision(x, 8, mantissa_bits) for x in factors]
      return primitive.bind(*factors, precision=(HIGHEST, HIGHEST), **options)

    def lowering(context, *factors, precision, **options):
      if is_highest(precision):
        return exact[primitive].rule(context, *factors, precision=precision, **options)
      return mlir.lower_fun(rounded, multiple_results=False)(
          context, *factors, precision=precision, **options)
    return lowering

  jax.clear_caches()
  try:
    for primitive in _PRODUCTS:
      mlir.register_lowering(primitive, rule(primitive), platform=jax.default_backend())
    yield
  finally:
    for primitive, entry in before.items():
      if entry is None:
        del own[primitive]
      else:
        own[primitive] = entry
    jax.clear_caches()


def is_highest(precision) -> bool:
  """Whether both factors are asked for in full."""
  both = precision if isinstance(precision, tuple) else (precision,)
  return all(one == HIGHEST for one in both)


def products(function, *arguments) -> list:
  """Matrix products and convolutions in `function`, nested ones and derivatives included."""
  return [equation for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
          if equation.primitive in _PRODUCTS]


def inexact_products(function, *arguments) -> list[str]:
  """Those of `products` that an accelerator may round."""
  return [str(equation) for equation in products(function, *arguments)
          if not is_highest(equation.params["precision"])]


def _equations(jaxpr: Jaxpr):
  for equation in jaxpr.eqns:
    yield equation
    for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
      if isinstance(inner, ClosedJaxpr):
        yield from _equations(inner.jaxpr)
      elif isinstance(inner, Jaxpr):
        yield from _equations(inner)


def _is_jaxpr(value) -> bool:
  return isinstance(value, (Jaxpr, ClosedJaxpr))
