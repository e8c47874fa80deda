"""What the command line does to a config: numbers, unsetting a number, one-line mistakes."""

import pytest
from absl import flags

from experiments import command_line


def parsed(*overrides, variant="femnist"):
  arguments = ["train", f"--config=configs/dp_fedemb.py:{variant}", *overrides]
  values = flags.FlagValues()
  command_line.define_config(values, arguments)
  command_line.parse(values, arguments)
  return values.config


def test_a_number_can_be_set_and_unset():
  config = parsed("--config.privacy.epsilon=None", "--config.hparams.noise_multiplier=0.5")
  assert config.privacy.epsilon is None
  assert config.hparams.noise_multiplier == 0.5
  assert parsed().privacy.epsilon == 8.0


@pytest.mark.parametrize("overrides", [
    ("--config.privacy.aggregator=mean", "--config.privacy.epsilon=None"),
    ("--config.algorithm=fedavg", "--config.cohort.classes=all"),
    ("--config.algorithm=centralized", "--config.privacy.epsilon=None"),
])
def test_the_overrides_that_the_config_file_advertises_are_accepted(overrides):
  config = parsed(*overrides, variant="lfw")
  for override in overrides:
    path, value = override.removeprefix("--config.").split("=")
    section, _, name = path.rpartition(".")
    holder = config[section] if section else config
    assert str(holder[name]) == value


def test_unsetting_a_key_that_does_not_exist_names_it():
  with pytest.raises(ValueError, match="epsilom"):
    parsed("--config.privacy.epsilom=None")
