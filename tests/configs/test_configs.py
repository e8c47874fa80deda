"""Every variant of every config, and whatever it is compared with, is a call of `fit`."""

import functools
import importlib
import json
import pathlib
import re

import ml_collections
import pytest

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.runs import asked
from fedjax_face.runs.asked import Asked

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIANTS = {
    "dp_fedemb": ("synthetic", "heads", "femnist", "lfw", "folder", "digiface", "emnist", "gld",
                  "inaturalist"),
    "dp_fedemb_rates": ("synthetic", "orl", "femnist", "lfw", "lfw64"),
    "fedgc": ("synthetic", "lfw", "folder", "casia"),
    "fedproto": ("femnist", "synthetic", "folder"),
    "privacyface": ("synthetic", "silos36", "lfw", "folder", "bupt"),
    "composed": ("synthetic", "folder"),
    "dp_hyperface": ("synthetic", "faces", "faces_lfw", "listing", "aflw"),
    "dp_activations": ("synthetic", "lfw", "folder", "vgg_face")}
OF_ATTACKS = ("activation_attacks", "leak_back")  # for experiments.attack, of another structure
EVERY = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
COMPARED = [("dp_fedemb", "synthetic"), ("dp_fedemb", "heads"), ("dp_fedemb", "femnist"),
            ("dp_fedemb", "lfw"), ("fedgc", "synthetic"), ("fedgc", "lfw"),
            ("privacyface", "synthetic"), ("privacyface", "silos36"), ("privacyface", "lfw"),
            ("dp_hyperface", "synthetic"), ("dp_hyperface", "faces"),
            ("dp_hyperface", "faces_lfw"), ("dp_activations", "synthetic"),
            ("dp_activations", "lfw"),
            *(("dp_fedemb_rates", variant) for variant in VARIANTS["dp_fedemb_rates"])]


PLACES = {"folder": ("data.path",), "listing": ("data.sources.mine.path",),
          "gld": ("data.path",), "inaturalist": ("data.path",),
          "digiface": ("data.data_dir",), "casia": ("data.path",),
          "bupt": ("data.path", "data.public.path", "method.clients.partition.path")}
"""Variants whose data the reader has to name."""


def load(name):
  return importlib.import_module(f"configs.{name}")


def config_of(name, variant):
  """The config of a variant, with a name for the places that it leaves open."""
  config = load(name).get_config(variant)
  given = {place: "HERE" for place in PLACES.get(variant, ())}
  return ml_collections.ConfigDict(asked.changed(config, given)) if given else config


def record(config):
  """What config.json would say; refused where noise is asked for twice, or cannot be had."""
  call = Asked.of_config(config)
  asked.check_noise(call.method, call.privacy)
  parts = [options.argument(call.method, name) for name in ("aggregate", "gradient", "activations")
           if name in options.record(call.method).arguments]
  adds_noise = any("noise_multiplier" in options.record(part).arguments for part in parts)
  assert adds_noise or call.privacy.epsilon is None
  return call.record


@functools.cache
def settings(name, variant):
  """Name of a compared setting -> its record."""
  module = load(name)
  return {setting: record(asked.changed(module.get_config(variant), values))
          for setting, values in module.get_comparison(variant).items()}


def test_every_config_file_is_listed():
  files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
  assert files == set(VARIANTS) | set(OF_ATTACKS)


@pytest.mark.parametrize("name, variant", EVERY)
def test_variant_is_a_call_of_fit_and_survives_json(name, variant):
  config = config_of(name, variant)
  said = ff.from_config(config)
  assert {"method", "data", "rounds"} <= said.keys()
  assert ff.from_config(json.loads(json.dumps(config.to_dict()))) == said
  assert record(config)["method"]["name"] == config.method.name


@pytest.mark.parametrize("name, variant", [
    pair for pair in EVERY if pair[1] in PLACES])
def test_where_the_data_are_is_asked_for_at_once(name, variant):
  for said in ({}, {PLACES[variant][0]: ""}):
    with pytest.raises(ValueError, match=PLACES[variant][0].rpartition(".")[2]):
      Asked.of_config(asked.changed(load(name).get_config(variant), said))


@pytest.mark.parametrize("name, variant", EVERY)
def test_no_two_sections_and_no_two_calls_share_values(name, variant):
  def sections(section):
    for value in section.values():
      if hasattr(value, "values"):
        yield value
        yield from sections(value)
  config = load(name).get_config(variant)
  before = json.dumps(config.to_dict())
  inside = list(sections(config))
  assert len({id(section) for section in inside}) == len(inside)
  for section in (config, *inside):
    section.own = 1
  assert json.dumps(load(name).get_config(variant).to_dict()) == before


@pytest.mark.parametrize("name", VARIANTS)
def test_an_unknown_variant_is_refused_with_the_names(name):
  with pytest.raises(ValueError, match=f"{name} has no variant 'none'") as refusal:
    load(name).get_config("none")
  assert all(variant in str(refusal.value) for variant in VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_default_is_the_first_variant(name):
  module = load(name)
  assert module.get_config().to_dict() == module.get_config(VARIANTS[name][0]).to_dict()


# What is compared

def test_every_other_variant_is_compared_with_nothing():
  for name, variant in set(EVERY) - set(COMPARED):
    if hasattr(load(name), "get_comparison"):
      with pytest.raises(ValueError, match=f"nothing is compared with '{variant}'"):
        load(name).get_comparison(variant)


@pytest.mark.parametrize("name, variant", COMPARED)
def test_compared_settings_are_calls_of_fit_and_differ(name, variant):
  found = [json.dumps(said, sort_keys=True) for said in settings(name, variant).values()]
  assert len(set(found)) == len(found) > 1


@pytest.mark.parametrize("name, variant", COMPARED)
def test_settings_that_others_are_held_against_are_compared(name, variant):
  module, found = load(name), settings(name, variant)
  if hasattr(module, "get_gap"):
    assert set(module.get_gap(variant)) <= found.keys()
  if hasattr(module, "get_non_private"):
    assert module.get_non_private(variant) in found
    assert found[module.get_non_private(variant)]["privacy"]["epsilon"] is None
  if hasattr(module, "get_equivalence"):
    reference = found[module.get_equivalence(variant)["reference"]]
    assert set(module.get_equivalence(variant)["margins"]) <= set(
        reference["evaluation"]["headline"])


@pytest.mark.parametrize("name, variant", COMPARED)
def test_settings_share_data_start_and_network(name, variant):
  base = record(load(name).get_config(variant))
  for said in settings(name, variant).values():
    assert (said["data"], said["start"]) == (base["data"], base["start"])
    network = "network" if "network" in said["method"] else "backbone"
    assert said["method"][network] | {"frozen": None} == base["method"][network] | {"frozen": None}


@pytest.mark.parametrize("name, variant", [
    pair for pair in COMPARED if pair[0] in ("fedgc", "privacyface")])
def test_other_methods_of_silos_train_the_same_silos_in_the_same_way(name, variant):
  base, others = record(load(name).get_config(variant))["method"], set()
  same = ("learning_rate", "momentum", "head_learning_rate_scale", "optimizer", "flip")
  for said in settings(name, variant).values():
    method = said["method"]
    others.add(method["name"])
    assert method["head"] == base["head"]
    assert method.get("clients", base["clients"]) == base["clients"]
    assert [method["local"][key] for key in same] == [base["local"][key] for key in same]
    if "server" in method:
      assert (method["aggregate"], method["server"]) == (base["aggregate"], base["server"])
    if "start_head" in method:
      assert method["start_head"] == base["start_head"]
  assert {"fedpe", "fedavg", name} <= others


# What the docstrings say

def overrides(text):
  """What docstrings tell to add to a command, a list of flags for each; (A, B) are other values."""
  found = []
  for line in text.replace("\\\n", " ").splitlines():
    flags = re.findall(r"--config\.[^\s`]+", line)
    if flags:
      others = re.search(r"\(([\w, ]+)\)$", line)
      values = [word for word in (others[1].split(", ") if others else ()) if word.isidentifier()]
      key = flags[-1].partition("=")[0]
      found += [flags, *([*flags[:-1], f"{key}={value}"] for value in values)]
  return found


def documented():
  for name, variant in EVERY:
    module = load(name)
    own = getattr(getattr(module, variant, None), "__doc__", None) or ""
    yield from ((name, variant, flags) for flags in overrides(own))
    if variant == VARIANTS[name][0]:
      yield from ((name, variant, flags) for flags in overrides(module.__doc__))


@pytest.mark.parametrize("name, variant, flags", list(documented()))
def test_documented_overrides_are_taken_and_change_something(name, variant, flags):
  config = config_of(name, variant)
  assert record(asked.overridden(config, flags).config) != record(config)


def test_documented_overrides_are_found():
  found = {(name, " ".join(flags)) for name, _, flags in documented()}
  assert ("fedgc", "--config.method=fedpe --config.method.local.drift=scaffold") in found
  assert ("privacyface", "--config.method.exchange.mechanism=exponential_caps") in found
  assert ("dp_fedemb", "--config.data.path=PHOTOGRAPHS") in found
  assert {name for name, _ in found} == set(VARIANTS) - {"dp_fedemb_rates"}


# For experiments.attack

@pytest.mark.parametrize("name", OF_ATTACKS)
def test_configs_of_attacks_name_an_attack(name):
  from fedjax_face.attacks.attack import ATTACKS
  assert load(name).get_config().attack in ATTACKS


def test_an_unknown_variant_of_leak_back_is_refused_with_the_names():
  with pytest.raises(ValueError, match="no variant 'none': synthetic, noised"):
    load("leak_back").get_config("none")


def test_attacks_on_activations_are_on_a_variant_of_its_config():
  config = load("activation_attacks").get_config("lfw")
  assert config.variant == "lfw" and config.config == "configs/dp_activations.py"
  assert set(config.cuts) == set(load("dp_activations").CUTS)
