"""Heads as parts: each binds to its module, lends its geometry, and is its call in a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.models import heads, registry
from fedjax_face.models.heads import ArcFace, CosFace, Head, Linear, Normalised, geometry_of

SCALARS = {"margin": 0.2, "scale": 8.0}
CASES = {
    "linear": (Linear(5, 3), {}),
    "normalised": (Normalised(5, 3), {}),
    "cosface": (CosFace(5, 3, margin=0.2, scale=8.0), SCALARS),
    "arcface": (ArcFace(5, 3, margin=0.2, scale=8.0), SCALARS),
}
EMBEDDINGS, LABELS = jnp.arange(6.0).reshape(2, 3) - 2.5, jnp.array([4, 1])


def part(name, **changes):
  return getattr(heads, name)(**(CASES[name][1] | changes))


@pytest.mark.parametrize("name", CASES)
def test_a_part_binds_to_its_module(name):
  by_hand, scalars = CASES[name]
  bound = part(name).bind(5, 3)
  assert bound == by_hand == registry.head(name, 5, 3, **scalars)
  assert part(name).normalised == by_hand.normalised
  key = jax.random.key(0)
  jax.tree.map(np.testing.assert_array_equal, bound.init_with_output(key, EMBEDDINGS, LABELS),
               by_hand.init_with_output(key, EMBEDDINGS, LABELS))


@pytest.mark.parametrize("name", CASES)
def test_a_part_lends_the_geometry_of_its_module(name):
  by_hand, own = CASES[name][0], {"margin": 0.3, "scale": 4.0}
  lent, direct = part(name).geometry, geometry_of(by_hand)
  if not CASES[name][1]:
    assert lent is None and direct is None
    return
  cosines = jnp.linspace(-1, 1, 7)
  np.testing.assert_array_equal(lent(own).true_class_logit(cosines),
                                direct(own).true_class_logit(cosines))
  assert lent(own).scale == direct(own).scale == 4.0


@pytest.mark.parametrize("name", CASES)
def test_a_part_is_its_call_and_has_its_scalars(name):
  made = part(name)
  assert options.build(Head, options.call(made), "head") == made
  assert options.hparams(made) == CASES[name][1]
  assert set(registry.head_scalars(name)) == set(CASES[name][1])


@pytest.mark.parametrize("name, changes, words", [
    ("cosface", {"margin": float("nan")}, "cosface.margin=nan: expected a number"),
    ("cosface", {"margin": float("inf")}, "cosface.margin=inf: expected a number in"),
    ("arcface", {"scale": "wide"}, "arcface.scale='wide': expected a number"),
    ("linear", {"margin": 0.1}, "linear takes no margin"),
])
def test_what_is_refused_names_the_option(name, changes, words):
  with pytest.raises(options.OptionError, match=words):
    part(name, **changes)
