"""Factories, parts and what annotations accept, from Python."""

import copy
import math
import pickle
import re
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import pytest

from fedjax_face import options
from fedjax_face.options import (
    OptionError,
    Registry,
    Traced,
    argument,
    at_least,
    fill,
    hparams,
    made,
    said,
)
from fedjax_face.options.kinds import type_of
from tests import options_toys as toys
from tests.options_toys import (
    Head,
    Method,
    arcface,
    budget,
    cosface,
    cosine_decay,
    dp_fedemb,
    fedprox,
    gaussian,
    identity,
    lenet,
    linear,
    local_steps,
    recall,
    register,
)


def refusal(make):
  """The one line with which options are refused."""
  with pytest.raises(OptionError) as error:
    make()
  assert "\n" not in str(error.value)
  return str(error.value)


def test_importing_options_imports_no_array_library():
  program = ("import sys, fedjax_face.options; "
             "print([m for m in ('jax', 'numpy', 'ml_collections', 'tensorflow_datasets') "
             "if m in sys.modules])")
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"


def test_the_example_of_the_module_runs():
  blocks = re.findall(r"(?:^    .*\n|^\n)+", options.__doc__, re.MULTILINE)
  page = {"__name__": "page", **vars(options), **vars(typing), "Callable": Callable,
          "register": Registry()}
  exec("".join(textwrap.dedent(block) for block in blocks), page)
  by_hand, of_a_config, of_a_line = page["by_hand"], page["of_a_config"], page["of_a_line"]
  assert by_hand == of_a_config == options.build(page["Method"], of_a_line.config["method"], "m")
  assert hparams(by_hand) == {"head": {"margin": 0.2, "scale": 16.0}}
  assert refusal(lambda: options.build(
      page["Method"], {"name": "fedgc", "head": {"margin": 2}}, "method")
      ) == "method.head.margin=2: expected a number in [0, 1)"


def test_a_part_serves_as_what_its_factory_returned():
  head = cosface(margin=0.5, scale=2.0)
  assert head.logits(1.0) == 1.0
  logits, geometry = head
  assert (logits(0.5), geometry(0.5), len(head), head[0]) == (0.0, 1.0, 2, logits)
  assert isinstance(made(head), Head)
  assert cosine_decay(peak=1.0, steps=4)(1) == 0.75


def test_bodies_get_values_and_not_parts():
  method = dp_fedemb(local=local_steps(drift=fedprox(weight=0.5), learning_rate=cosine_decay()))
  assert type(method.head) is Head
  assert type(method.parts["local"]) is toys.Local
  assert type(method.parts["local"].drift) is toys.Drift
  assert method.parts["local"].drift.weight == 0.5
  assert method.parts["local"].rate(0) == 0.1


def test_two_calls_that_return_one_function_keep_their_own_arguments():
  one, other = identity(label="one"), identity(label="other")
  assert made(one) is made(other)
  assert (argument(one, "label"), argument(other, "label")) == ("one", "other")
  assert one != other


def test_parts_are_equal_when_their_calls_are():
  assert cosface() == cosface(margin=0.35) == cosface(scale=16)
  assert hash(cosface()) == hash(cosface(margin=0.35))
  assert cosface() != cosface(margin=0.3)
  assert arcface(margin=0.35) != cosface(margin=0.35)
  assert dp_fedemb() == dp_fedemb(head=cosface()) != dp_fedemb(head=cosface(scale=17))
  array = np.arange(3)

  class Mine(toys.Backbone):
    weights = array

  mine = Mine()
  assert dp_fedemb(backbone=mine) == dp_fedemb(backbone=mine) != dp_fedemb(backbone=Mine())


@pytest.mark.parametrize("part", [
    cosface(margin=0.2), identity(label="x"),
    dp_fedemb(head=arcface(), local=local_steps(drift=fedprox(), layers=("a", "b")))])
def test_a_part_survives_pickle_and_copies(part):
  again = pickle.loads(pickle.dumps(part))
  assert again == part and again is not part
  assert said(again) == said(part)
  assert type(made(again)) is type(made(part))
  assert copy.copy(part) is part and copy.deepcopy(part) is part


def test_the_repr_is_the_call_without_defaults():
  method = dp_fedemb(head=arcface(margin=0.1), aggregate=gaussian(clip_norm=1.0))
  assert repr(method) == "dp_fedemb(head=arcface(margin=0.1))"
  assert eval(repr(method), vars(toys)) == method


def test_a_part_is_frozen():
  head = cosface()
  with pytest.raises(AttributeError, match="frozen"):
    head.logits = None
  with pytest.raises(AttributeError, match="frozen"):
    del head.logits
  widths = {"a": 1.0}
  backbone = lenet(widths=widths)
  widths["b"] = 2.0
  argument(backbone, "widths")["c"] = 3.0
  assert argument(backbone, "widths") == {"a": 1.0}


def test_what_was_said_is_known_apart_from_what_is_the_signatures_default():
  method = dp_fedemb(backbone=lenet(), start_head="per_client")
  assert said(method) == {"backbone", "start_head"}
  assert said(argument(method, "backbone")) == frozenset()
  assert argument(method, "head") == cosface()
  again = options.replace(method, head=linear())
  assert said(again) == {"backbone", "start_head", "head"}
  assert argument(again, "head") == linear()
  assert argument(method, "head") == cosface()
  assert "did you mean head" in refusal(lambda: argument(method, "haed"))


def test_positional_arguments_are_options_too():
  assert budget(8) == budget(epsilon=8.0)
  assert said(budget(8)) == {"epsilon"}
  assert refusal(lambda: budget(1.0, epsilon=2.0)) == "budget.epsilon: said twice"
  assert refusal(lambda: budget(1, 0.1, 3)).startswith("budget: takes 2 options without a name")
  assert refusal(lambda: cosface(0.3)).startswith("cosface: takes 0 options without a name")
  assert refusal(budget) == "budget.epsilon: budget needs it; expected a number above 0"


@pytest.mark.parametrize("make, line", [
    (lambda: gaussian(clip_norm=-1.0), "gaussian.clip_norm=-1.0: expected a number in (0, inf]"),
    (lambda: fedprox(weight=-1), "fedprox.weight=-1: expected a number, at least 0"),
    (lambda: cosface(scale=0), "cosface.scale=0: expected a number above 0"),
    (lambda: cosface(scale=math.inf), "cosface.scale=inf: expected a number above 0 and below "
                                      "infinity"),
    (lambda: cosface(scale=math.nan), "cosface.scale=nan: expected a number above 0"),
    (lambda: cosface(margin=1), "cosface.margin=1: expected a number in [0, 1)"),
    (lambda: cosface(margin=True), "cosface.margin=True: expected a number in [0, 1)"),
    (lambda: cosface(margin="0.1"), "cosface.margin='0.1': expected a number in [0, 1)"),
    (lambda: cosface(margin=None), "cosface.margin=None: expected a number in [0, 1)"),
    (lambda: arcface(margin=1.6), "arcface.margin=1.6: expected a number in [0, 1.5708)"),
    (lambda: local_steps(epochs=1.0), "local_steps.epochs=1.0: expected a whole number, at least "
                                      "1"),
    (lambda: local_steps(epochs=True), "local_steps.epochs=True: expected a whole number, at least "
                                       "1"),
    (lambda: local_steps(flip=1), "local_steps.flip=1: expected true or false"),
    (lambda: local_steps(stages="jiont"), "local_steps.stages='jiont': expected one of joint, "
                                          "head_first (did you mean joint?)"),
    (lambda: local_steps(layers="ab"), "local_steps.layers='ab': expected a tuple, each a text"),
    (lambda: local_steps(layers=("a", 1)), "local_steps.layers[1]=1: expected a text"),
    (lambda: local_steps(size=(1, 2, 3)), "local_steps.size=(1, 2, 3): expected a tuple (a whole "
                                          "number, a whole number)"),
    (lambda: lenet(widths={"a": "x"}), "lenet.widths.a='x': expected a number"),
    (lambda: lenet(widths={1: 2.0}), "lenet.widths={1: 2.0}: expected a mapping, each entry a "
                                     "number"),
    (lambda: lenet(widths=3), "lenet.widths=3: expected a mapping, each entry a number"),
    (lambda: lenet(widths={"a": math.inf}), "lenet.widths.a=inf: expected a finite number"),
    (lambda: recall(fars=(0.1, 2.0)), "recall.fars[1]=2.0: expected a number in (0, 1]"),
    (lambda: gaussian(noise_multiplier="x"), "gaussian.noise_multiplier='x': expected a number, "
                                             "at least 0, or None"),
    (lambda: local_steps(learning_rate=-1.0), "local_steps.learning_rate=-1.0: expected a number "
                                              "above 0 or a schedule"),
    (lambda: dp_fedemb(head=gaussian()), "dp_fedemb.head=gaussian(): expected a head, not an "
                                         "aggregate"),
    (lambda: dp_fedemb(head=3), "dp_fedemb.head=3: expected a head: a part, a name or a section"),
    (lambda: dp_fedemb(head="cosfase"), "dp_fedemb.head=cosfase: no head has this name (did you "
                                        "mean cosface?); there are arcface, cosface, linear"),
    (lambda: gaussian(clip_nrom=1), "gaussian.clip_nrom: gaussian takes no clip_nrom (did you mean "
                                    "clip_norm?); it takes clip_norm, noise_multiplier"),
    (lambda: linear(margin=1), "linear.margin: linear takes no margin; it takes no options"),
    (lambda: toys.fedavg(local=local_steps()), "fedavg.local: fedavg takes no local; it takes "
                                               "backbone, head, aggregate"),
    (lambda: dp_fedemb(clip_norm=1.0), "dp_fedemb.clip_norm: dp_fedemb takes no clip_norm (did you "
                                       "mean aggregate.clip_norm?); it takes backbone, head, "
                                       "local, aggregate, start_head, warm"),
    (lambda: local_steps(head_steps=3), "local_steps.head_steps=3: expected at most epochs=1"),
    (lambda: local_steps(layers=("all",)), "local_steps: layers cannot all be frozen"),
])
def test_mistakes_are_refused_in_one_line_with_path_and_nearest_name(make, line):
  assert refusal(make) == line


def test_nothing_runs_before_all_arguments_are_checked():
  toys.made_so_far.clear()
  refusal(lambda: dp_fedemb(head={"name": "cosface"}, start_head=3))
  assert toys.made_so_far == []


def test_numbers_of_numpy_become_those_of_python():
  head = cosface(margin=np.float32(0.5), scale=np.int64(2))
  assert [type(argument(head, name)) for name in ("margin", "scale")] == [float, float]
  steps = local_steps(epochs=np.int32(3))
  assert type(argument(steps, "epochs")) is int
  refusal(lambda: cosface(margin=np.bool_(True)))
  refusal(lambda: cosface(margin=np.ones(1)))


def test_infinity_is_let_in_only_by_an_interval_closed_there():
  assert argument(gaussian(clip_norm=math.inf), "clip_norm") == math.inf
  refusal(lambda: gaussian(noise_multiplier=math.inf))
  refusal(lambda: budget(math.inf))


def test_hparams_mirror_the_calls_with_traced_leaves_alone():
  local = local_steps(learning_rate=0.5, drift=fedprox(weight=0.25))
  method = dp_fedemb(local=local, head=linear())
  assert hparams(method) == {
      "backbone": {}, "head": {}, "aggregate": {"clip_norm": 1.0},
      "local": {"learning_rate": 0.5, "drift": {"weight": 0.25}}}
  scheduled = dp_fedemb(local=local_steps(learning_rate=cosine_decay(peak=0.5)), warm=cosface())
  assert hparams(scheduled)["local"]["learning_rate"] == {"peak": 0.5}
  assert hparams(scheduled)["warm"] == {"margin": 0.35, "scale": 16.0}
  assert hparams(dp_fedemb(backbone=toys.Backbone()))["backbone"] == {}


def test_hparams_reach_into_mappings_and_tuples():
  registry = Registry()

  class Mixture:
    pass

  registry.kind(Mixture)

  @registry.mixture
  def mixture(*, weights: Mapping[str, options.Traced] = {}, heads: Mapping[str, Head] = {},  # noqa: B006
              powers: tuple[options.Traced, ...] = (), names: Mapping[str, int] = {},  # noqa: B006
              aggregates: Mapping[str, toys.Aggregate] = {}) -> Mixture:  # noqa: B006
    return Mixture()

  part = mixture(weights={"a": 1, "b": 2}, heads={"x": linear(), "y": arcface()}, powers=(1, 2),
                 names={"n": 3}, aggregates={"g": gaussian()})
  assert hparams(part) == {
      "weights": {"a": 1.0, "b": 2.0}, "powers": (1.0, 2.0), "aggregates": {"g": {"clip_norm": 1}},
      "heads": {"x": {}, "y": {"margin": 0.5, "scale": 16.0}}}
  assert options.still_open(part) == ["aggregates.g.noise_multiplier"]
  filled = fill(part, {"aggregates": {"g": {"noise_multiplier": 2}}})
  assert filled == hparams(part) | {"aggregates": {"g": {"clip_norm": 1, "noise_multiplier": 2}}}
  assert hparams(mixture()) == {}


def test_what_is_open_is_filled_beside_the_part():
  method = dp_fedemb()
  assert options.still_open(method) == ["aggregate.noise_multiplier"]
  filled = fill(method, {"aggregate": {"noise_multiplier": 2}})
  assert filled["aggregate"] == {"clip_norm": 1.0, "noise_multiplier": 2.0}
  assert filled["head"] == hparams(method)["head"]
  assert "noise_multiplier" not in hparams(method)["aggregate"]
  assert options.call(method)["aggregate"]["noise_multiplier"] is None
  assert options.still_open(dp_fedemb(aggregate=gaussian(noise_multiplier=0.0))) == []


@pytest.mark.parametrize("values, line", [
    ({"aggregate": {"noise_multiplier": -1}}, "dp_fedemb.aggregate.noise_multiplier=-1: expected"),
    ({"aggregate": {"noise_multiplier": None}}, "nothing to fill"),
    ({"aggregate": {"clip_norm": 2.0}}, "dp_fedemb.aggregate.clip_norm=2.0: there is nothing to "),
    ({"aggregate": {"noise_multiplyer": 2.0}}, "(did you mean noise_multiplier?)"),
    ({"warm": {"margin": 0.1}}, "dp_fedemb.warm={'margin': 0.1}: there is nothing to fill"),
    ({"aggregate": 2.0}, "dp_fedemb.aggregate=2.0: there is nothing to fill"),
])
def test_only_what_is_open_can_be_filled(values, line):
  assert line in refusal(lambda: fill(dp_fedemb(), values))


def test_a_name_is_registered_once_in_a_kind():
  registry = Registry()

  class Sampler:
    pass

  registry.kind(Sampler)
  with pytest.raises(ValueError, match="registered already"):
    registry.kind(Sampler, name="other")
  with pytest.raises(AttributeError, match=r"no kind is called 'samplr' \(did you mean sampler"):
    _ = registry.samplr

  def uniform():
    pass

  registry.sampler(uniform)
  first = uniform

  def uniform():  # noqa: F811
    pass

  with pytest.raises(ValueError, match="a sampler of the same name"):
    registry.sampler(uniform)
  registry.sampler(first)  # a module that is loaded again registers the same


def test_a_cell_of_a_notebook_that_is_run_again_registers_again(monkeypatch):
  registry = Registry()

  class Sampler:
    pass

  registry.kind(Sampler)

  def cell(rate):
    def uniform(*, rate: float = rate) -> Sampler:
      return Sampler()
    uniform.__module__, uniform.__qualname__ = "__main__", "uniform"
    return uniform

  def other_cell():
    def uniform() -> Sampler: ...
    uniform.__module__, uniform.__qualname__ = "__main__", "uniform"
    return uniform

  monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # the notebooks' test loads it
  registry.sampler(cell(0.1))
  with pytest.raises(ValueError, match="of the same name"):
    registry.sampler(other_cell())
  monkeypatch.setitem(sys.modules, "ipykernel", None)
  registry.sampler(other_cell())
  assert not options.kind_of(Sampler).find("uniform", "sampler").parameters


def test_a_factory_is_a_function_with_named_annotated_options():
  def star(*args: int) -> Head: ...
  def bare(margin) -> Head: ...
  def name(name: str) -> Head: ...
  for function, why in ((star, "options have names"), (bare, "has no annotation"),
                        (name, "can be called 'name'")):
    with pytest.raises(TypeError, match=why):
      register.head(function)


def test_a_factory_returns_what_it_says():
  registry = Registry()

  class Sampler:
    pass

  registry.kind(Sampler)

  def wrong() -> Sampler:
    return 3

  def other() -> Head:
    return linear()

  with pytest.raises(TypeError, match="returned int, not a sampler"):
    registry.sampler(wrong)()
  with pytest.raises(TypeError, match="registered as a sampler, but returns"):
    registry.sampler(other)()


def test_a_second_kind_of_one_class_is_a_newtype():
  registry = Registry()

  class Module:
    pass

  Network = typing.NewType("Network", Module)
  registry.kind(Module)
  registry.kind(Network)

  def hyperface() -> Network:
    return Network(Module())

  part = registry.network(hyperface)()
  assert options.build(Network, part, "network") is part
  module = Module()
  assert options.build(Network, module, "network") is options.build(Module, module, "m") is module
  assert refusal(lambda: options.build(Module, part, "m")) == (
      "m=hyperface(): expected a module, not a network")
  assert refusal(lambda: options.build(Network, 3, "n")).startswith("n=3: expected a network")


def test_only_parts_have_a_record():
  with pytest.raises(TypeError, match="expected what a registered factory makes"):
    hparams(made(cosface()))


def test_a_default_is_checked_like_any_value():
  registry = Registry()

  class Sampler:
    pass

  registry.kind(Sampler)

  def poisson(*, rate: options.Traced = "high") -> Sampler: ...

  assert refusal(registry.sampler(poisson)) == "poisson.rate='high': expected a number"

  def fixed(*, heads: Mapping[str, Head] = {"a": "cosface"}) -> Sampler:  # noqa: B006
    return Sampler()

  part = registry.sampler(fixed)()
  assert argument(part, "heads") == {"a": cosface()}
  assert options.build(Sampler, {"name": "fixed", "heads": {"a": {"scale": 2}}}, "s") == (
      options.replace(part, heads={"a": cosface(scale=2)}))


def test_a_factory_may_return_another_part():
  def cosface_of_the_paper(*, scale: options.Traced = 64.0,
                           margin: options.Traced = 0.35) -> Head:
    return cosface(scale=scale, margin=margin)

  part = register.head(cosface_of_the_paper)()
  del options.kind_of(Head).factories["cosface_of_the_paper"]
  assert type(made(part)) is Head and part.geometry(1.0) == 64.0
  assert hparams(part) == {"scale": 64.0, "margin": 0.35}
  assert isinstance(made(dp_fedemb(head=part)), Method)


@pytest.mark.parametrize("other", ["hidden", "changed"])
def test_scalars_of_a_part_within_that_would_be_lost_are_refused(other):
  def hidden(*, scale: options.Traced = 64.0) -> Head:
    return cosface(scale=scale, margin=0.2)

  def changed(*, scale: options.Traced = 64.0, margin: options.Traced = 0.35) -> Head:
    return cosface(scale=2 * scale, margin=margin)

  make = register.head({"hidden": hidden, "changed": changed}[other])
  try:
    with pytest.raises(options.OptionError, match="the step reads from"):
      make()
  finally:
    del options.kind_of(Head).factories[other]


@pytest.mark.parametrize("annotation, why", [
    (set[int], "options are numbers"), (Annotated[str, options.above(0)], "belongs to a number")])
def test_annotations_that_options_cannot_have_are_refused(annotation, why):
  with pytest.raises(TypeError, match=why):
    options.build(annotation, 3, "x")


@pytest.mark.parametrize("interval", ["0, 1", "(1, 0)", "[0; 1]"])
def test_an_interval_is_written_as_such(interval):
  with pytest.raises(ValueError):
    options.within(interval)


@pytest.mark.parametrize("value, words", [
    (2**31, "a whole number, at least 0, below 2**31 in size"),
    (-10**400, "a whole number, at least 0"),
    (10**6000, "below 2**31 in size")], ids=["first", "negative", "unprintable"])
def test_a_whole_number_that_no_array_holds_is_refused(value, words):
  accepted = type_of(Annotated[int, at_least(0)] | None)
  with pytest.raises(OptionError, match=re.escape(words)):
    accepted.read(value, "seed", None)


@pytest.mark.parametrize("value", [1e39, -1e300, 1e-50, 10**400],
                         ids=["large", "negative", "tiny", "beyond any float"])
def test_a_traced_number_that_float32_does_not_hold_is_refused(value):
  accepted = type_of(Traced | None)
  with pytest.raises(OptionError, match="clip_norm=.*(float32 holds|expected a number or None)"):
    accepted.read(value, "clip_norm", None)
  assert accepted.read(0.0, "clip_norm", None) == 0.0
