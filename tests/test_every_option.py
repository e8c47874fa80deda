"""Every option of every factory: a value makes a part, or is refused in one line that names it.

Nothing is compiled: parts are made, and methods bound to the facts of a tiny set.
"""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_face as ff
from fedjax_face import method as methods
from fedjax_face import options
from fedjax_face.method import Budget, Method, Setting
from fedjax_face.options import register
from fedjax_face.options.types import ABSENT
from tests.data.test_facts import regions
from tests.methods import tiny, tiny_faces

EDGES = (None, True, 0, 1, -1, 2, 7, 64, 2**31 - 1, 2**31, 10**30, 0.0, -0.5, 0.5, 1e-9, 1e-300,
         1e-38, 1e38, 1e300, math.inf, -math.inf, math.nan, "", "x", "none", "inf", b"x", object,
         (), [[]], {}, {"name": "x"}, {"name": None}, {"x": 1}, {1: 2}, (2**31 - 1,), ("a", "a"))
LEAVES = st.sampled_from(EDGES) | st.integers() | st.floats() | st.text(max_size=4)
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.lists(st.floats(0, 1), min_size=2, max_size=2)
FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None)
EVERY_NAME = [getattr(ff, name) for name in dir(ff)]  # whose modules register every kind


def needed(factory):
  """What a factory has to be told, so that the other options can be looked at."""
  return {name: _sample(parameter.type) for name, parameter in factory.parameters.items()
          if parameter.default is ABSENT}


def _sample(accepted):
  if accepted.each is not None:
    return {"one": _sample(accepted.each)}
  if accepted.section is not None:
    named = (accepted.section.find(name, "") for name in accepted.section.names())
    return next(factory.name for factory in named if not needed(factory))
  for value in ("x", ("x",), 2, 0.5):
    try:
      return accepted.read(value, "", ABSENT)
    except options.OptionError:
      pass
  raise AssertionError(f"nothing is known that is {accepted.words}")


def every_option():
  """(kind, factory, option) of all that is registered."""
  return [(kind, kind.find(name, ""), option) for kind in list(register.kinds.values())
          for name in kind.names() for option in kind.find(name, "").parameters]


def test_every_factory_makes_a_part_of_what_it_needs():
  for kind, factory, _ in every_option():
    made = options.build(kind.of, {"name": factory.name, **needed(factory)}, "part")
    assert options.record(made).factory is factory


@FEW
@given(value=VALUES)
def test_an_option_takes_a_value_or_refuses_it_with_its_path(value):
  for kind, factory, option in every_option():
    section = {"name": factory.name, **needed(factory), option: value}
    try:
      options.build(kind.of, section, "part")
    except ValueError as error:
      line = str(error)
      assert line.startswith(("part.", "part:")) and option in line and "\n" not in line, line


NOISED = {"noise_multiplier": 0.1}
BASES = {
    "dp_fedemb": {"clients": {"per_round": 2, "users_per_client": 2}, "aggregate": NOISED},
    "fedgc": {"clients": {"partition": {"num_silos": 2}}},
    "dp_activations": {"split": {"projection": 4}, "activations": NOISED},
    "dp_hyperface": {"units": {"batch_size": 2, "capacity": 4}, "gradient": NOISED}}
PLACES = ("method.", "method:", "privacy.", "compute.", "start",
          "give exactly one of privacy.epsilon and method.")


HERE = object()


def inside(config, takes, seen):
  """(config with `HERE` in the place of an option, its factory, the option), of all inside.

  Every factory is looked at where it can stand first.
  """
  for name, parameter in takes.parameters.items():
    kind = parameter.type.section
    if kind is None or parameter.type.each is not None or name in ("backbone", "network"):
      continue
    for of in kind.names():
      factory = kind.find(of, "")
      if factory in seen:
        continue
      seen.add(factory)
      own = {option: value for option, value in config.get(name, {}).items()
             if option in factory.parameters}
      part = {"name": of, **needed(factory), **own}
      yield from (({**config, name: {**part, option: HERE}}, factory, option)
                  for option in factory.parameters)
      yield from (({**config, name: nested}, *rest) for nested, *rest in inside(
          part, factory, seen))


def filled(config, value):
  """The config with a value in the place of `HERE`."""
  return value if config is HERE else {name: filled(of, value) if isinstance(of, dict) or of is HERE
                                       else of for name, of in config.items()}


def bind(name, config, setting):
  """Binds a method whose network is tiny to the facts of a tiny set."""
  network = "network" if name == "dp_hyperface" else "backbone"
  own = {network: tiny_faces.tiny() if name == "dp_hyperface" else tiny.OneLayer()}
  made = options.build(Method, {"name": name, **own, **config}, "method")
  train = regions() if name == "dp_hyperface" else tiny.people()
  return lambda: methods.bind(made, train, setting)


@pytest.fixture(scope="module")
def setting():
  start = tiny.OneLayer().init(jax.random.key(0), np.zeros((1, 12, 12, 1), np.float32))
  return Setting(tiny.one_device(), 2, privacy=Budget(None, 1e-3), public=tiny.people(8, seed=3),
                 start=start, start_is_public=True)


SEEN: set = set()
CASES = [(name, *case) for name, base in BASES.items()
         for case in inside(base, options.kind_of(Method).find(name, ""), SEEN)]


@pytest.mark.parametrize("name", BASES)
def test_a_method_is_bound_with_what_its_parts_take_or_says_why_not(name, setting):
  setting = setting if name in ("dp_fedemb", "fedgc") else setting._replace(start=None)
  bind(name, BASES[name], setting)()

  @settings(FEW, max_examples=4 if name == "dp_activations" else 25)  # that calibrates noise
  @given(value=VALUES)
  def try_one(value):
    for of, config, factory, option in CASES:
      if of != name:
        continue
      try:
        bound = bind(name, filled(config, value), setting)
      except ValueError:
        continue
      try:
        bound()
      except (ValueError, FileNotFoundError) as error:
        line = str(error)
        assert line.startswith(PLACES) and "\n" not in line, (factory, option, line)

  try_one()
