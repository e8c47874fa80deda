"""Every variant of every config has the structure that the programs read."""

import importlib
import json
import pathlib

import pytest

import fedjax_face as ff
from fedjax_face.training import config as configs

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIANTS = {
    "dp_fedemb": ("synthetic", "heads", "femnist", "lfw", "folder", "digiface", "emnist", "gld",
                  "inaturalist"),
    "dp_fedemb_rates": ("synthetic", "orl", "femnist", "lfw", "lfw64"),
    "fedgc": ("synthetic", "lfw", "casia"),
    "privacyface": ("synthetic", "silos36", "lfw", "bupt"),
    "composed": ("synthetic",),
    "dp_hyperface": ("synthetic", "faces", "faces_lfw", "aflw"),
    "dp_activations": ("synthetic", "lfw")}
CALLS = {"fedproto": ("femnist", "synthetic")}  # the arguments of `fit`
OF_ATTACKS = ("activation_attacks", "leak_back")  # for experiments.attack, of another structure
EVERY = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


def load(name):
  return importlib.import_module(f"configs.{name}")


def test_every_config_file_is_listed():
  files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
  assert files == set(VARIANTS) | set(CALLS) | set(OF_ATTACKS)


@pytest.mark.parametrize("name, variant", [(n, v) for n, vs in CALLS.items() for v in vs])
def test_a_call_is_taken_by_fit_and_survives_json(name, variant):
  config = load(name).get_config(variant)
  said = ff.from_config(config)
  assert ff.from_config(json.loads(json.dumps(config.to_dict()))) == said
  with pytest.raises(ValueError, match="fedproto has no variant 'other'"):
    load(name).get_config("other")


@pytest.mark.parametrize("name, variant", EVERY)
def test_variant_is_valid_and_survives_json(name, variant):
  config = load(name).get_config(variant)
  configs.validate(config)
  assert config.data.get("name") or config.data.sources
  json.dumps(configs.as_dict(config))


@pytest.mark.parametrize("name, variant", EVERY)
def test_variants_have_the_names_of_the_first(name, variant):
  """Only `data` and what comes before training differ, so an override works on every variant."""
  module = load(name)
  own = ("data.", "pretrain.", "rehearsal.")
  names = lambda config: {key for key in configs.flatten(config) if not key.startswith(own)}
  assert names(module.get_config(variant)) == names(module.get_config(VARIANTS[name][0]))


@pytest.mark.parametrize("name, variant", EVERY)
def test_variant_asks_for_noise_in_one_way(name, variant):
  config = load(name).get_config(variant)
  adds_noise = ("gaussian", "adaptive", "correlated")
  if config.privacy.get("aggregator") in adds_noise or config.algorithm in (
      "dp_hyperface", "dp_activations"):
    assert (config.privacy.epsilon is None) != (config.hparams.noise_multiplier is None)


@pytest.mark.parametrize("name, variant", EVERY)
def test_a_locked_variant_refuses_unknown_names(name, variant):
  config = load(name).get_config(variant).lock()
  with pytest.raises(KeyError):
    config.hparams["clip_nrm"] = 1.0
  with pytest.raises(TypeError):
    config.rounds = "many"


@pytest.mark.parametrize("name, variant", EVERY)
def test_calls_do_not_share_values(name, variant):
  module = load(name)
  module.get_config(variant).hparams.clip_norm = 123.0
  assert module.get_config(variant).hparams.clip_norm != 123.0


@pytest.mark.parametrize("name", VARIANTS)
def test_an_unknown_variant_is_refused_with_the_names(name):
  with pytest.raises(ValueError, match="no variant 'none'") as refusal:
    load(name).get_config("none")
  assert all(variant in str(refusal.value) for variant in VARIANTS[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_the_default_is_the_first_variant(name):
  module = load(name)
  assert configs.as_dict(module.get_config()) == configs.as_dict(
      module.get_config(VARIANTS[name][0]))


@pytest.mark.parametrize("name", OF_ATTACKS)
def test_configs_of_attacks_name_an_attack(name):
  from experiments.attack import ATTACKS
  assert load(name).get_config().attack in ATTACKS


def test_an_unknown_variant_of_leak_back_is_refused_with_the_names():
  with pytest.raises(ValueError, match="no variant 'none': synthetic, noised"):
    load("leak_back").get_config("none")


def test_attacks_on_activations_are_on_a_variant_of_its_config():
  config = load("activation_attacks").get_config("lfw")
  assert config.variant == "lfw" and config.config == "configs/dp_activations.py"
  assert set(config.cuts) == set(load("dp_activations").CUTS)
