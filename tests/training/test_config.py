import pytest

from fedjax_face.training import config
from tests.experiments import tiny_config


def changed(**changes):
  given = tiny_config.get_config()
  with given.unlocked():
    for name, value in changes.items():
      *path, last = name.split("__")
      section = given
      for part in path:
        section = section[part]
      section[last] = value
  return given


def test_a_whole_config_is_accepted():
  config.validate(tiny_config.get_config())
  config.validate(tiny_config.get_config("pretrain"))


@pytest.mark.parametrize("changes, message", [
    ({"modle": 1}, r"config.modle is not known \(did you mean 'model'\?\); accepted are algorithm"),
    ({"rounds": 0}, "config.rounds=0: expected a whole number, at least 1"),
    ({"seed": -1}, "config.seed=-1"),
    ({"training__checkpoint_every": 0}, "config.training.checkpoint_every=0"),
    ({"training__resident": "maybe"}, "resident='maybe': expected auto, true or false"),
    ({"evaluation__batch_size": 0}, "config.evaluation.batch_size=0"),
    ({"privacy__delta": 1.0}, r"config.privacy.delta=1.0: expected a number in \(0, 1\)"),
])
def test_refusals_name_the_key(changes, message):
  with pytest.raises(ValueError, match=message):
    config.validate(changed(**changes))


def test_a_missing_section_is_named():
  given = tiny_config.get_config()
  with given.unlocked():
    del given.privacy
  with pytest.raises(ValueError, match="config has no 'privacy'"):
    config.validate(given)


def test_tuples_and_lists_are_the_same_after_json(tmp_path):
  given = tiny_config.get_config()
  config.record(given, tmp_path)
  config.check_same_run(given, tmp_path)
  with pytest.raises(ValueError, match=r"evaluation.fars \(there \[0.1\], now \[0.2\]\)"):
    config.check_same_run(changed(evaluation__fars=(0.2,)), tmp_path)


def test_digest_ignores_only_the_number_of_rounds():
  digest = config.digest(tiny_config.get_config())
  assert digest == config.digest(changed(rounds=99))
  assert digest != config.digest(changed(hparams__clip_norm=2.0))
