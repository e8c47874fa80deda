"""A whole flat config as the arguments of `fit`."""

import copy
import json

from ml_collections import ConfigDict

from fedjax_face import options
from fedjax_face.data import closed_set, sources
from fedjax_face.data.regions import sources as region_sources
from fedjax_face.data.sets import Data
from fedjax_face.options import register
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.settings import Evaluation
from tests.flat import registry

FACE_TASKS = ("dp_hyperface", "face_detector", "hyperface")
_LOAD = {"embeddings": sources.load, "face_tasks": region_sources.load,
         "classes": closed_set.load}
_NAMES = {"embeddings": "protocols", "face_tasks": "face_tasks", "classes": "classification"}


@register.data
def flat_data(*, section: str, feeds: str, seed: int) -> Data:
  """A data section as `sources.load`, `region_sources.load` or `closed_set.load` take it."""
  said = json.loads(section)
  public = (lambda: region_sources.load_public(said)[0]) if feeds == "face_tasks" else None
  return Data(lambda: _LOAD[feeds](said, seed), feeds=feeds, public=public)


def feeds_of(config):
  """What the method of a flat config learns."""
  if config.algorithm in FACE_TASKS:
    return "face_tasks"
  return "classes" if config.algorithm == "dp_activations" else "embeddings"


def nested(config):
  """The arguments of `fit`, as a config says them."""
  config, feeds = ConfigDict(config), feeds_of(config)
  data = config.data.to_dict() if hasattr(config.data, "to_dict") else config.data
  said = {
      "method": registry.SECTIONS[config.algorithm](config),
      "data": {"name": "tests.flat.calls:flat_data", "section": json.dumps(data), "feeds": feeds,
               "seed": config.seed},
      "rounds": config.rounds, "seed": config.seed,
      "privacy": {"epsilon": config.privacy.epsilon, "delta": config.privacy.delta,
                  "unit": config.privacy.get("unit") or config.get("cohort", {}).get("unit"),
                  "noise_seed": config.privacy.get("noise_seed")},
      "evaluation": evaluation(config.evaluation, feeds),
      "compute": config.training.to_dict()}
  said["compute"]["resident"] = str(said["compute"]["resident"]).lower()
  if config.get("pretrain"):
    own = pretraining(config)
    said["start"] = {"name": "pretrain", "method": registry.SECTIONS[own.algorithm](own),
                     "rounds": own.rounds, "public": config.pretrain.get("public", False)}
  return said


def evaluation(section, feeds):
  """The section of how a model is judged."""
  own = section.to_dict()
  if feeds == "embeddings":
    own["names"] = own.pop("protocols")
    own["flip"] = {False: "none"}.get(own.get("flip", False), own.get("flip"))
  elif feeds == "face_tasks":
    own["detections"] = own.pop("detection")
  return {"name": _NAMES[feeds], **own}


def pretraining(config):
  """The config with the algorithm and the values of its `pretrain` section."""
  own = copy.deepcopy(config)
  own.unlock()
  for name in ("split", "rehearsal"):
    if name in own:
      del own[name]
  own.algorithm = config.pretrain.get("algorithm", "centralized")
  own.rounds = config.pretrain.rounds
  for section in ("hparams", "cohort", "local", "model"):
    for name, value in (config.pretrain.get(section) or {}).items():
      own[section][name] = value
  own.privacy.epsilon = own.hparams.noise_multiplier = None
  return own


def judged(config):
  """What evaluators read."""
  return options.made(options.build(
      Evaluation, evaluation(config.evaluation, feeds_of(config)), "evaluation")).section()


def asked(config):
  """The same, checked."""
  return Asked.of_config(nested(config))


def build(config, workdir=None, say=print, **given):
  """The experiment of a flat config."""
  return asked(config).experiment(workdir, say, **given)


def run(config, workdir, account=None, **given):
  """Runs a flat config in a folder; gives summary.json and privacy.json."""
  import pathlib

  from fedjax_face.runs import fit
  from fedjax_face.runs.records import read_json
  place = pathlib.Path(workdir).absolute()
  fit.carried_out(asked(config), place, print, account=account, **given)
  return read_json(place / "summary.json"), read_json(place / "privacy.json")
