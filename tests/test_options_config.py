"""Options from configs and from command lines, and back."""

import json
import pickle
import random
import textwrap
import typing

import ml_collections
import pytest
from ml_collections.config_dict import placeholder

from fedjax_face import options
from fedjax_face.options import OptionError, argument, arguments, build, call, made, override, said
from tests import options_toys as toys
from tests.options_toys import (
    ROOT,
    Aggregate,
    Head,
    Judge,
    Method,
    arcface,
    cosface,
    cosine_decay,
    dp_fedemb,
    fedprox,
    gaussian,
    lenet,
    linear,
    local_steps,
)

CONFIG = {"method": {"name": "dp_fedemb", "head": {"margin": 0.2},
                     "local": {"epochs": 3, "drift": {"name": "fedprox", "weight": 0.5}}},
          "rounds": 40}


def refusal(make):
  with pytest.raises(OptionError) as error:
    make()
  assert "\n" not in str(error.value)
  return str(error.value)


def overridden(*flags, config=CONFIG):
  return override(config, ROOT, [f"--config.{flag}" for flag in flags])


def method(*flags, config=CONFIG):
  return arguments(ROOT, overridden(*flags, config=config).config)["method"]


# Sections and calls

def test_a_section_says_only_what_is_special():
  assert build(Method, CONFIG["method"], "method") == dp_fedemb(
      head=cosface(margin=0.2), local=local_steps(epochs=3, drift=fedprox(weight=0.5)))
  assert build(Head, {"name": "arcface"}, "head") == build(Head, "arcface", "head") == arcface()
  assert build(Aggregate, gaussian(clip_norm=2.0), "aggregate") == gaussian(clip_norm=2.0)
  assert said(build(Method, CONFIG["method"], "method")) == {"head", "local"}


def test_infinity_is_a_word_in_a_config_and_on_a_command_line():
  unclipped = gaussian(clip_norm=float("inf"))
  assert call(unclipped)["clip_norm"] == "inf"
  assert build(Aggregate, {"name": "gaussian", "clip_norm": "inf"}, "a") == unclipped
  assert refusal(lambda: build(Aggregate, {"name": "gaussian", "noise_multiplier": "inf"}, "a")
                 ) == "a.noise_multiplier='inf': expected a number, at least 0, or None"
  assert refusal(lambda: lenet(notes={"x": [float("nan")]})) == (
      "lenet.notes.x[0]=nan: expected a finite number")


def test_a_section_without_a_name_changes_the_default_part():
  assert argument(build(Method, {"name": "fedavg", "head": {}}, "method"), "head") == linear()
  assert build(toys.Budget, {"epsilon": 1}, "privacy") == toys.budget(1.0)  # the only one
  assert refusal(lambda: build(Head, {"margin": 0.1}, "head")) == (
      "head: expected the name of a head: arcface, cosface, linear")


def test_a_section_that_names_its_part_begins_with_that_parts_own_defaults():
  def local(section):
    return argument(build(Method, {"name": "centralized", "local": section}, "method"), "local")
  assert local({"flip": True}) == local_steps(epochs=5, drift=fedprox(), flip=True)
  assert local({"drift": {"weight": 2}}) == local_steps(epochs=5, drift=fedprox(weight=2))
  assert local({"name": "local_steps", "flip": True}) == local_steps(flip=True)
  assert argument(method("method=centralized", "method.local.drift.weight=2"), "local") == (
      local_steps(epochs=5, drift=fedprox(weight=2)))

  def train(start: Method = toys.centralized()) -> None: ...
  assert arguments(train, {"start": {"local": {"flip": True}}}) == {
      "start": toys.centralized(local=local_steps(epochs=5, drift=fedprox(), flip=True))}


def test_the_names_of_a_kinds_homes_are_recorded_alone_and_others_with_their_module():
  assert call(cosface())["name"] == "cosface"
  assert call(lenet())["name"] == "tests.options_toys:lenet"  # a kind without homes


def test_config_dicts_are_sections_as_dicts_are():
  config = ml_collections.ConfigDict(CONFIG)
  config.method.aggregate = ml_collections.ConfigDict({"noise_multiplier": placeholder(float)})
  config.method.local.layers = ("a", "b")
  assert arguments(ROOT, config)["method"] == dp_fedemb(
      head=cosface(margin=0.2),
      local=local_steps(epochs=3, drift=fedprox(weight=0.5), layers=("a", "b")))
  changed = override(config, ROOT, ["--config.method.head=arcface", "--config.rounds=9"])
  assert changed.config["method"]["head"] == {"name": "arcface"} and changed.config["rounds"] == 9
  assert changed.dropped == ("method.head.margin=0.2",) and config.method.head.margin == 0.2


RANDOM_PARTS = {
    "head": [lambda r: {"name": "linear"}, lambda r: {"margin": r.random()},
             lambda r: {"name": "arcface", "scale": r.randint(1, 99)}, lambda r: "cosface"],
    "warm": [lambda r: None, lambda r: {"name": "arcface", "margin": r.random()}],
    "aggregate": [lambda r: "mean", lambda r: {"clip_norm": float("inf")},
                  lambda r: {"noise_multiplier": r.choice([None, 0, 1.5])}],
    "backbone": [lambda r: {"embedding_dim": r.randint(1, 512)},
                 lambda r: {"widths": {"a": r.random(), "b.c": 1}},
                 lambda r: {"notes": {"x": [1, (2, "three")], "y": {"z": None}}}],
    "local": [lambda r: {"learning_rate": r.choice([0.1, {"name": "cosine_decay", "peak": 3},
                                                    "identity"])},
              lambda r: {"drift": {"name": "fedprox", "weight": r.random()}, "flip": True},
              lambda r: {"layers": ["a", "default", "None"], "size": [r.randint(1, 9), 2],
                         "stages": "head_first"}],
    "start_head": [lambda r: "local_prototypes", lambda r: ""],
}


@pytest.mark.parametrize("seed", range(60))
def test_section_to_part_to_section_is_the_same_part(seed):
  draw = random.Random(seed)
  names = draw.sample(sorted(RANDOM_PARTS), draw.randint(0, len(RANDOM_PARTS)))
  section = {"name": "dp_fedemb"} | {name: draw.choice(RANDOM_PARTS[name])(draw) for name in names}
  part = build(Method, section, "method")
  written = json.loads(json.dumps(call(part), allow_nan=False))
  again = build(Method, written, "method")
  assert again == part and call(again) == written == call(part)
  assert options.hparams(again) == options.hparams(part)
  assert said(part) == set(names) and said(again) == set(written) - {"name"}
  assert set(written) - {"name"} == set(RANDOM_PARTS)  # complete
  assert build(Method, section, "method") == part  # which left the section as it was


def _paths(section, path=()):
  yield path
  for name, value in section.items():
    if isinstance(value, dict) and name not in ("widths", "notes"):
      yield from _paths(value, (*path, name))


@pytest.mark.parametrize("unknown", ["margn", "method", "weigth", "x"])
def test_an_unknown_key_is_refused_with_its_path_wherever_it_stands(unknown):
  whole = {"method": call(build(Method, CONFIG["method"], "method")), "privacy": {"epsilon": 1},
           "evaluation": {"protocols": {"recall": {"name": "recall"}}}, "rounds": 3}
  for path in _paths(whole):
    if path in ((), ("evaluation", "protocols")) and unknown == "method":
      continue
    if path == ("evaluation", "protocols"):
      continue  # a mapping's names are the caller's
    config = json.loads(json.dumps(whole))
    section = config
    for name in path:
      section = section[name]
    section[unknown] = 1
    key = ".".join((*path, unknown))
    assert refusal(lambda config=config: arguments(ROOT, config)).startswith(f"{key}: ")
    flag = f"{key}=1"
    assert refusal(lambda flag=flag: overridden(flag, config=whole)).startswith(
        f"--config.{key}: ")


@pytest.mark.parametrize("config, line", [
    ({"method": {"name": "dp_fedemb", "aggregate": {"clip_norm": -1.0}}},
     "method.aggregate.clip_norm=-1.0: expected a number in (0, inf]"),
    ({"method": {"name": "dp_fedemb", "local": {"learning_rate": {"name": "cosine_decay",
                                                                  "peak": 0}}}},
     "method.local.learning_rate.peak=0: expected a number above 0"),
    ({"method": {"name": "fedavg", "local": {"epochs": 1}}},
     "method.local: fedavg takes no local; it takes backbone, head, aggregate"),
    ({"method": {"name": "dp_fedemb", "local": {"head_steps": 9}}},
     "method.local.head_steps=9: expected at most epochs=1"),
    ({"method": {"name": "dp_fedemb", "local": {"layers": ["all"]}}},
     "method.local: layers cannot all be frozen"),
    ({"method": {"name": "dp_fedmb"}},
     "method=dp_fedmb: no method has this name (did you mean dp_fedemb?); there are "
     "centralized, dp_fedemb, fedavg"),
    ({"method": {"name": 3}}, "method=3: expected the name of a method"),
    ({"method": {"name": "nowhere_to_be_found:mine"}},
     "method=nowhere_to_be_found:mine: nowhere_to_be_found cannot be imported (No module named "
     "'nowhere_to_be_found'); its folder must be in PYTHONPATH"),
    ({"method": {"name": "zzz"}},
     "method=zzz: no method has this name (one of your own is called module:name); there are "
     "centralized, dp_fedemb, fedavg"),
    ({"privacy": {"delta": 0.1}}, "privacy.epsilon: budget needs it; expected a number above 0"),
    ({"round": 3}, "round: the config takes no round (did you mean rounds?); it takes method, "
                   "privacy, evaluation, rounds, seed"),
    ({"rounds": 1.5}, "rounds=1.5: expected a whole number, at least 1"),
    ({"evaluation": {"every": -1}}, "evaluation.every=-1: expected a whole number, at least 0"),
    ({"evaluation": {"protocols": {"own": {"fars": [0.1]}}}},
     "evaluation.protocols.own: expected the name of a judge: identification, recall"),
    (3, "config=3: expected a mapping"),
])
def test_mistakes_in_a_config_are_refused_in_one_line(config, line):
  assert refusal(lambda: arguments(ROOT, config)) == line


def test_nothing_is_made_before_the_whole_config_is_checked():
  toys.made_so_far.clear()
  refusal(lambda: arguments(ROOT, CONFIG | {"rounds": 0}))
  assert toys.made_so_far == []
  arguments(ROOT, CONFIG)
  assert toys.made_so_far == ["cosface", "dp_fedemb"]


def test_a_plain_function_may_take_a_section():
  config = {"evaluation": {"every": 5}}
  one, other = arguments(ROOT, config), arguments(ROOT, config)
  assert one == other == arguments(ROOT, {"evaluation": call(one["evaluation"])})
  assert pickle.loads(pickle.dumps(one)) == one
  assert made(one["evaluation"]) == ({"recall": made(toys.recall())}, 5)

  def unsaid(*, every: int = 1): ...
  with pytest.raises(TypeError, match="says what it returns"):
    arguments({"evaluation": unsaid}, config)


def test_a_root_may_be_the_function_that_takes_the_config():
  given = arguments(toys.fit, CONFIG | {"privacy": {"epsilon": 2}})
  assert given == {"method": build(Method, CONFIG["method"], "m"), "rounds": 40,
                   "privacy": toys.budget(2.0)}
  assert refusal(lambda: arguments(toys.fit, {"method": "fedavg"})) == (
      "rounds: fit needs it; expected a whole number, at least 1")
  assert "seed" not in given  # the function's own default


def test_a_mapping_of_parts_has_entries_with_names():
  def protocols(section):
    return argument(arguments(ROOT, {"evaluation": section})["evaluation"], "protocols")
  assert protocols({}) == {"recall": toys.recall()}
  assert protocols({"protocols": ["recall", "identification"]}) == {
      "recall": toys.recall(), "identification": toys.identification()}
  assert protocols({"protocols": {"identification": {"ranks": 5}, "recall": {}}}) == {
      "identification": toys.identification(ranks=5), "recall": toys.recall()}
  assert protocols({"protocols": {"strict": {"name": "recall", "fars": [1e-3]}}}) == {
      "strict": toys.recall(fars=(1e-3,))}


def test_a_users_part_is_recorded_with_its_module_and_imported_again(tmp_path, monkeypatch):
  (tmp_path / "own_heads.py").write_text(textwrap.dedent("""
      from __future__ import annotations
      from fedjax_face.options import Traced
      from tests.options_toys import Head, register

      @register.head
      def own(*, margin: Traced = 0.1) -> Head:
        '''Of my own.'''
        return Head(lambda cosine: cosine, lambda cosine: cosine)
  """))
  monkeypatch.syspath_prepend(tmp_path)
  head = build(Head, {"name": "own_heads:own", "margin": 0.3}, "head")
  import own_heads
  try:
    assert head == own_heads.own(margin=0.3)
    assert call(head) == {"name": "own_heads:own", "margin": 0.3}
    assert build(Head, {"name": "own"}, "head") == own_heads.own()  # now that it is imported
    assert refusal(lambda: build(Head, {"name": "own_heads:cosface"}, "head")).startswith(
        "head=own_heads:cosface: no head has this name")
    assert refusal(lambda: override({"head": "linear"}, {"head": Head},
                                    ["--config.head=own_heads:owm"])).startswith(
        "--config.head=own_heads:owm: no head has this name (did you mean own?)")
  finally:
    del options.kind_of(Head).factories["own"]


def test_a_value_that_no_config_can_hold_is_recorded_by_its_repr_and_asked_for():
  mine = toys.Backbone()
  written = json.loads(json.dumps(call(dp_fedemb(backbone=mine))))
  assert written["backbone"] == {"by_hand": "<tests.options_toys.Backbone object>"}
  assert written == call(dp_fedemb(backbone=toys.Backbone()))  # no address in memory
  assert list(options.by_hand({"method": written})) == ["method.backbone"]
  line = refusal(lambda: build(Method, written, "method"))
  assert line.startswith("method.backbone: was made by hand, as <tests.options_toys.Backbone obj")
  again = build(Method, written, "method", given={"method.backbone": mine})
  assert again == dp_fedemb(backbone=mine)
  config = arguments(ROOT, {"method": written}, given={"method.backbone": mine})
  assert config == {"method": again}
  assert refusal(lambda: build(Method, written, "method", given={"method.backbon": mine})) == (
      "given method.backbon: the config holds no value there that was made by hand (did you mean "
      "method.backbone?)")


def test_values_made_by_hand_are_found_inside_mappings_and_tuples():
  one, other = object(), object()
  backbone = lenet(notes={"x": (1, one), "y": {"z": other}})
  assert options.by_hand(call(backbone), "b") == {
      "b.notes.x[1]": "<object object>", "b.notes.y.z": "<object object>"}
  assert build(toys.Backbone, call(backbone), "b",
               given={"b.notes.x[1]": one, "b.notes.y.z": other}) == backbone
  assert refusal(lambda: build(toys.Backbone, call(backbone), "b", given={"b.notes.x[1]": one})
                 ).startswith("b.notes.y.z: was made by hand")


# Overrides

@pytest.mark.parametrize("flags, same", [
    (["head.margin=.3"], {"head": cosface(margin=0.3)}),
    (["head.scale=1e1"], {"head": cosface(margin=0.2, scale=10)}),
    (["aggregate.clip_norm=inf"], {"aggregate": gaussian(clip_norm=float("inf"))}),
    (["aggregate.noise_multiplier=1", "aggregate.noise_multiplier=None"], {}),
    (["aggregate.noise_multiplier=None", "aggregate.noise_multiplier=4"],
     {"aggregate": gaussian(noise_multiplier=4.0)}),
    (["head=arcface"], {"head": arcface()}),
    (["head.name=arcface"], {"head": arcface()}),
    (["head=none_such", "head=arcface"], {"head": arcface()}),
    (["head=arcface", "head.margin=0.1"], {"head": arcface(margin=0.1)}),
    (["head.margin=0.1", "head=arcface"], {"head": arcface(margin=0.1)}),
    (["head=arcface", "head=cosface"], {}),
    (["head=default"], {"head": cosface()}),
    (["head.margin=default"], {"head": cosface()}),
    (["head.margin=0.1", "head=default"], {"head": cosface(margin=0.1)}),
    (["warm=arcface"], {"warm": arcface()}),
    (["warm.name=arcface", "warm.scale=1_000"], {"warm": arcface(scale=1000)}),
    (["warm=arcface", "warm=None"], {}),
    (["warm=None", "warm=arcface"], {"warm": arcface()}),
    (["local.drift=none"], {"local": local_steps(epochs=3)}),
    (["local.drift.weight=2"], {"local": local_steps(epochs=3, drift=fedprox(weight=2))}),
    (["local.learning_rate=cosine_decay", "local.drift=none"],
     {"local": local_steps(epochs=3, learning_rate=cosine_decay())}),
    (["local=default", "local.learning_rate.name=cosine_decay", "local.learning_rate.steps=7"],
     {"local": local_steps(learning_rate=cosine_decay(steps=7))}),
    (["local=default", "local.flip=True"], {"local": local_steps(flip=True)}),
    (["local=default", "local.flip=false"], {"local": local_steps()}),
    (["local=default", "local.layers=a,b"], {"local": local_steps(layers=("a", "b"))}),
    (["local=default", "local.layers=a"], {"local": local_steps(layers=("a",))}),
    (["local=default", "local.layers=()"], {"local": local_steps()}),
    (["local=default", "local.size=(2, 3)"], {"local": local_steps(size=(2, 3))}),
    (["local=default", "local.stages=head_first"], {"local": local_steps(stages="head_first")}),
    (["backbone.widths.a=.5", "backbone.widths.b=2"],
     {"backbone": lenet(widths={"a": 0.5, "b": 2.0})}),
    (["backbone.notes.x=[1, 2]", "backbone.notes.y=free text"],
     {"backbone": lenet(notes={"x": (1, 2), "y": "free text"})}),
    (["start_head='None'"], {"start_head": "None"}),
    (["start_head=\"default\""], {"start_head": "default"}),
    (["start_head=a=b, c"], {"start_head": "a=b, c"}),
    (["start_head="], {"start_head": ""}),
])
def test_an_override_makes_the_part_that_python_makes(flags, same):
  before = json.dumps(CONFIG)
  assert method(*(f"method.{flag}" for flag in flags)) == options.replace(method(), **same)
  assert json.dumps(CONFIG) == before


def test_a_key_is_set_in_what_is_said_and_nothing_else_is_said():
  assert overridden("method.aggregate.clip_norm=2", "seed=7").config == {
      **CONFIG, "method": {**CONFIG["method"], "aggregate": {"clip_norm": 2.0}}, "seed": 7}
  assert overridden("method.head=arcface", config={"method": "dp_fedemb"}).config == {
      "method": {"name": "dp_fedemb", "head": {"name": "arcface"}}}


def test_a_replaced_part_drops_what_was_said_for_the_old_one():
  assert overridden("method.head=arcface").dropped == ("method.head.margin=0.2",)
  assert overridden("method.head=cosface") == overridden("method.head.name=cosface")
  assert overridden("method.head=cosface").dropped == ()  # it is of that name
  assert method("method.head=cosface") == method()
  assert overridden("method.local.drift=none").dropped == (
      "method.local.drift=fedprox", "method.local.drift.weight=0.5")
  assert overridden("method=fedavg") == ({"method": {"name": "fedavg"}, "rounds": 40}, (
      "method=dp_fedemb", "method.head.margin=0.2", "method.local.epochs=3",
      "method.local.drift=fedprox", "method.local.drift.weight=0.5"))
  rate = {"method": {"name": "dp_fedemb", "local": {"learning_rate": 0.5}}}
  assert overridden("method.local.learning_rate=identity", config=rate).dropped == (
      "method.local.learning_rate=0.5",)
  budget = {"privacy": {"epsilon": 4}}
  assert overridden("privacy=None", config=budget) == ({"privacy": None}, ("privacy.epsilon=4",))
  assert overridden("rounds=3").dropped == ()


class System(typing.NamedTuple):
  """A kind whose options are parts, of which others take some too."""

  head: Head


toys.register.kind(System, homes=(__name__,), keeps_options=True)


@toys.register.system
def silos(*, head: Head = cosface(), aggregate: Aggregate = gaussian(),
          local: toys.Local = local_steps(), start: typing.Literal["shared", "own"] = "own",
          steps: int = 4, weight: float = 0.5,
          widths: typing.Mapping[str, float] = {}) -> System:  # noqa: B006
  return System(head)


@toys.register.system
def pooled(*, head: Head = cosface(), aggregate: Aggregate = toys.mean(),
           local: toys.Local = local_steps(epochs=5),
           start: typing.Literal["shared", "new"] = "shared",
           steps: int = 64, weight: Head | None = None,
           widths: typing.Mapping[str, float] = {}) -> System:  # noqa: B006
  return System(head)


SILOS = {"system": {"name": "silos", "head": {"name": "arcface", "margin": 0.2},
                    "local": {"drift": {"name": "fedprox", "weight": 0.1}}, "steps": 3,
                    "widths": {"a": 2.0}}}


def replaced(said, *flags):
  return override({"system": said}, {"system": System}, [
      "--config.system=pooled", *(f"--config.system.{flag}" for flag in flags)])


def test_another_part_of_a_kind_that_keeps_options_leaves_those_that_both_take():
  changed = replaced(SILOS["system"])
  assert changed.config == {"system": {**SILOS["system"], "name": "pooled"}}
  assert changed.dropped == ("system=silos",)
  assert build(System, changed.config["system"], "system") == pooled(
      head=arcface(margin=0.2), local=local_steps(epochs=5, drift=fedprox(weight=0.1)), steps=3,
      widths={"a": 2.0})
  assert SILOS["system"]["name"] == "silos"
  assert replaced(SILOS["system"], "head=linear", "steps=default").config["system"] == {
      "name": "pooled", "head": {"name": "linear"}, "local": SILOS["system"]["local"],
      "widths": {"a": 2.0}}


@pytest.mark.parametrize("said, kept, dropped", [
    ({"aggregate": {"clip_norm": 2.0}}, {}, ["aggregate.clip_norm=2.0"]),  # the default's, another
    ({"aggregate": {"name": "gaussian"}}, {"aggregate": {"name": "gaussian"}}, []),
    ({"aggregate": "gaussian"}, {"aggregate": "gaussian"}, []),
    ({"aggregate": {"name": "gausian"}}, {}, ["aggregate=gausian"]),  # there is none
    ({"aggregate": gaussian()}, {"aggregate": gaussian()}, []),
    ({"start": "own"}, {}, ["start='own'"]),  # not one of the other's
    ({"start": "shared"}, {"start": "shared"}, []),
    ({"weight": 0.5}, {}, ["weight=0.5"]),  # of another type
    ({"unknown": 1}, {}, ["unknown=1"]),
])
def test_what_the_other_part_would_take_otherwise_is_dropped(said, kept, dropped):
  changed = replaced({"name": "silos", **said})
  assert changed.config == {"system": {"name": "pooled", **kept}}
  assert [line.replace("'", "") for line in changed.dropped] == [
      "system=silos", *(f"system.{line}".replace("'", "") for line in dropped)]


def test_a_section_that_says_none_can_be_said_again():
  changed = overridden("privacy.epsilon=2", config={"privacy": None})
  assert arguments(ROOT, changed.config) == {"privacy": toys.budget(2.0)}
  assert overridden("privacy=default", config={"privacy": None}).config == {}


def test_a_part_of_python_in_a_config_can_be_overridden():
  mine = toys.Backbone()
  config = {"method": dp_fedemb(backbone=mine, head=cosface(margin=0.2))}
  assert method("method.head.margin=0.1", config=config) == dp_fedemb(
      backbone=mine, head=cosface(margin=0.1))
  assert config["method"] == dp_fedemb(backbone=mine, head=cosface(margin=0.2))
  wide = {"method": dp_fedemb(backbone=lenet(widths={"a": 1}))}
  assert method("method.backbone.widths.b=2", config=wide) == dp_fedemb(
      backbone=lenet(widths={"a": 1, "b": 2}))
  assert wide == {"method": dp_fedemb(backbone=lenet(widths={"a": 1}))}


def test_entries_of_a_mapping_are_set_by_their_names():
  def protocols(*flags, config=None):
    changed = overridden(*(f"evaluation.protocols{flag}" for flag in flags), config=config or {})
    return argument(arguments(ROOT, changed.config)["evaluation"], "protocols"), changed.dropped
  recall, identification = toys.recall(), toys.identification()
  assert protocols(".recall.fars=.5,1") == ({"recall": toys.recall(fars=(0.5, 1.0))}, ())
  assert protocols(".identification.ranks=5") == (
      {"recall": recall, "identification": toys.identification(ranks=5)}, ())
  assert protocols(".identification=identification")[0] == {
      "recall": recall, "identification": identification}
  assert protocols("=identification") == ({"identification": identification}, ())
  assert protocols("={}") == ({}, ())
  config = {"evaluation": {"protocols": {"recall": {"fars": [0.5]}}}}
  assert protocols("=identification,recall", config=config) == (
      {"identification": identification, "recall": toys.recall(fars=(0.5,))}, ())
  assert protocols("=identification", config=config) == (
      {"identification": identification}, ("evaluation.protocols.recall.fars=[0.5]",))
  assert protocols("=default", config=config)[0] == {"recall": recall}
  assert build(Judge, "recall", "p") == recall


@pytest.mark.parametrize("text, value", [
    ("auto", "auto"), ("3", 3), ("1", 1), ("a,b", ("a", "b")), ("None", None), ("5,x", ("5", "x"))])
def test_text_is_what_a_member_of_the_union_makes_of_it(text, value):
  root = {"chunk": typing.Literal["auto", 1] | int | tuple[str, ...] | None}
  changed = override({}, root, [f"--config.chunk={text}"]).config
  assert arguments(root, changed) == {"chunk": value}


def test_a_bool_is_not_the_one_of_a_literal():
  assert refusal(lambda: arguments({"chunk": typing.Literal["auto", 1]}, {"chunk": True})) == (
      "chunk=True: expected one of auto, 1")


@pytest.mark.parametrize("flag, line", [
    ("rounds=1.5", "=1.5: expected a whole number, at least 1"),
    ("rounds=None", "=None: expected a whole number, at least 1"),
    ("rounds=", "=: expected a whole number, at least 1"),
    ("rounds.x=1", ": rounds is a whole number, at least 1, which has no options"),
    ("roundz=1", ": the config takes no roundz (did you mean rounds?); it takes method, privacy, "
                 "evaluation, rounds, seed"),
    ("method.head.margin=true", "=true: expected a number in [0, 1)"),
    ("method.head.margin=inf", "=inf: expected a number in [0, 1)"),
    ("method.head.margin=2", "=2.0: expected a number in [0, 1)"),
    ("method.head.margni=.1", ": cosface takes no margni (did you mean margin?); it takes margin, "
                              "scale"),
    ("method.head=cosfase", "=cosfase: no head has this name (did you mean cosface?); there are "
                            "arcface, cosface, linear"),
    ("method.head=0.3", "=0.3: no head has this name; there are arcface, cosface, linear"),
    ("method.head=None", "=None: expected a head: a part, a name or a section"),
    ("method.local.flip=yes", "=yes: expected true or false"),
    ("method.local.stages=join", "=join: expected one of joint, head_first (did you mean joint?)"),
    ("method.local.size=1", "=1: expected a tuple (a whole number, a whole number)"),
    ("method.local.learning_rate=0", "=0.0: expected a number above 0 or a schedule"),
    ("method.start_head=None", "=None: expected a text"),
    ("method.backbone.widths=3", "=3: expected a mapping, each entry a number"),
    ("method.backbone.widths.a=b", "=b: expected a number"),
    ("method.aggregate.noise_multiplier=many", "=many: expected a number, at least 0, or None"),
])
def test_mistakes_on_a_command_line_are_refused_with_the_whole_key(flag, line):
  assert refusal(lambda: overridden(flag)) == f"--config.{flag.partition('=')[0]}{line}"


@pytest.mark.parametrize("flag", ["--config.rounds", "--rounds=3", "--config.=3", "--config.a..b=3",
                                  "rounds=3"])
def test_what_is_no_override_is_refused(flag):
  assert refusal(lambda: override(CONFIG, ROOT, [flag])) == f"{flag}: expected --config.KEY=VALUE"


FLAGS = [("method.head.margin", ["0.1", ".25", "default"]), ("method.head", ["arcface", "cosface"]),
         ("method.local.epochs", ["1", "7", "default"]), ("seed", ["3", "0"]),
         ("method.aggregate.noise_multiplier", ["None", "2", "0"]),
         ("method.local.drift", ["none", "fedprox", "default"]), ("rounds", ["1", "9"])]


@pytest.mark.parametrize("seed", range(40))
def test_the_last_of_several_wins_and_the_order_of_different_keys_does_not_matter(seed):
  draw = random.Random(seed)
  chosen = [(key, draw.choice(values)) for key, values in draw.choices(FLAGS, k=8)]
  last = dict(chosen)
  shuffled = draw.sample(sorted(last.items()), len(last))
  many = overridden(*(f"{key}={value}" for key, value in chosen))
  few = overridden(*(f"{key}={value}" for key, value in shuffled))
  assert many.config == few.config
  assert sorted(many.dropped) == sorted(few.dropped)
  for key, value in last.items():
    found = many.config
    for name in key.split("."):
      found = found.get(name, {}) if isinstance(found, dict) else found
    if value == "default":
      assert found == {}
    else:
      found = found["name"] if isinstance(found, dict) else found
      assert str(found) in (value, str(float(value)) if value[0] in ".0123456789" else value)


# Help

HELP = """\
method=dp_fedemb (or centralized, fedavg)
  DP-FedEmb, in small.
  start_head             a text ['per_client']
  warm                   a head or None: arcface, cosface, linear [None]

method.backbone=lenet
  A small backbone.
  embedding_dim          a whole number, at least 1 [128]
  widths                 a mapping, each entry a number [{}]
  notes                  a mapping, each entry a value [{}]

method.head=cosface (or arcface, linear)
  Large-margin cosine head.
  margin                 a number in [0, 1), traced [0.2]: taken from the true class's cosine
  scale                  a number above 0, traced [16.0]: of all cosines

method.local=local_steps
"""


def test_help_lists_what_can_be_said_grouped_by_section():
  text = options.describe(method(), "method")
  assert text.startswith(HELP)
  assert "\n\nmethod.local.drift=fedprox (or none)\n  Proximal term.\n  weight " in text
  assert options.describe(Head) == (
      "  arcface                Additive angular margin head.\n"
      "  cosface                Large-margin cosine head.\n"
      "  linear                 Logits without a margin.")
  assert options.describe(cosface) == "\n".join(
      line.replace("method.head=", "").replace("0.2", "0.35") for line in HELP.splitlines()[11:15])


def test_help_of_a_config_names_its_sections_and_what_can_stand_there():
  text = options.describe(options.signature(ROOT)).splitlines()
  assert text[:3] == ["  method                 a method: centralized, dp_fedemb, fedavg",
                      "  rounds                 a whole number, at least 1",
                      "  seed                   a whole number"]
  assert text[4:7] == ["privacy=budget", "  A target epsilon.",
                       "  epsilon                a number above 0"]
  assert "evaluation=evaluation" in text and max(map(len, text)) <= 100
