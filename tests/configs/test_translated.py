"""Every config, every setting that is compared and every pre-training is the call of a method."""

import copy

import pytest

from fedjax_face import options
from fedjax_face.algorithms import registry
from fedjax_face.method import Method
from fedjax_face.training.experiment import _pretraining_config
from tests.configs.test_configs import EVERY, load


def settings(pair):
  """Name -> config, of the variant itself, its comparison and their pre-training."""
  whole = load(pair[0]).get_config(pair[1])
  made = {"itself": whole}
  compare = getattr(load(pair[0]), "get_comparison", None)
  try:
    compared = compare(pair[1]) if compare else {}
  except ValueError:  # nothing is compared with this variant
    compared = {}
  for name, overrides in compared.items():
    made[name] = copy.deepcopy(whole)
    with made[name].unlocked(), made[name].ignore_type():
      made[name].update_from_flattened_dict(overrides)
  return made | {f"pre-training of {name}": _pretraining_config(config)
                 for name, config in made.items() if config.get("pretrain")}


@pytest.mark.parametrize("pair", EVERY, ids=":".join)
def test_is_the_call_of_a_method(pair):
  for name, config in settings(pair).items():
    section = registry.SECTIONS[config.algorithm](config)
    method = options.build(Method, section, "method")
    assert options.build(Method, options.call(method), "method") == method, name
    assert options.call(method)["name"] == config.algorithm
