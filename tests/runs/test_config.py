"""The record of a config in a workdir, and whether two configs are one run."""

import pytest

from fedjax_face.runs import config
from fedjax_face.runs.asked import Asked, changed
from fedjax_face.runs.run import recorded
from tests.experiments import tiny_call


def record(**values):
  return Asked.of_config(changed(tiny_call.get_config(), {
      name.replace("__", "."): value for name, value in values.items()})).record


@pytest.mark.parametrize("values, message", [
    ({"rounds": 0}, "rounds=0: expected a whole number, at least 1"),
    ({"seed": -1}, "seed=-1"),
    ({"compute__checkpoint_every": 0}, "compute.checkpoint_every=0: expected .* at least 1"),
    ({"compute__resident": "maybe"}, "compute.resident=maybe: expected one of auto, true, false"),
    ({"evaluation__batch_size": 0}, "evaluation.batch_size=0"),
    ({"privacy__delta": 1.0}, r"privacy.delta=1.0: expected a number in \(0, 1\)"),
    ({"evaluation": {"name": "face_tasks"}}, "dp_fedemb learns embeddings: expected protocols"),
    ({"modle": 1}, "modle"),
])
def test_refusals_name_the_key(values, message):
  with pytest.raises(ValueError, match=message):
    record(**values)


@pytest.mark.parametrize("name", ["method", "data", "rounds"])
def test_a_missing_section_is_named(name):
  given = tiny_call.get_config()
  with given.unlocked():
    del given[name]
  with pytest.raises(ValueError, match=f"the config says no {name}"):
    Asked.of_config(given)


def test_tuples_and_lists_are_the_same_after_json(tmp_path):
  config.record(record(), tmp_path)
  config.check_same_run(record(), tmp_path)
  with pytest.raises(ValueError, match=r"method.aggregate.clip_norm \(there 1.0, now 2.0\)"):
    config.check_same_run(record(method__aggregate__clip_norm=2.0), tmp_path)


def test_the_rounds_may_grow_and_how_a_run_is_judged_and_carried_out_is_free(tmp_path):
  digest = config.digest(record())
  free = ({"rounds": 99}, {"evaluation__fars": (0.2,)}, {"compute__rounds_per_dispatch": 1})
  for values in free:
    assert digest == config.digest(record(**values)), values
  config.record(record(), tmp_path)
  for values in free:
    config.check_same_run(record(**values), tmp_path)
  with pytest.raises(ValueError, match="rounds"):
    config.check_same_run(record(rounds=5), tmp_path)
  for values in ({"method__aggregate__clip_norm": 2.0}, {"data__people": 9}, {"seed": 1},
                 {"privacy__delta": 1e-4}):
    assert digest != config.digest(record(**values)), values


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"rounds": "many"}', "\0", "[" * 10_000])
def test_a_record_of_another_form_is_named(text, tmp_path):
  (tmp_path / "config.json").write_text(text)
  for read in (lambda: config.check_same_run(record(), tmp_path), lambda: recorded(tmp_path)):
    with pytest.raises(ValueError, match=r"config.json is (not|of another form)"):
      read()


def test_it_is_known_where_a_run_was_judged_otherwise(tmp_path):
  config.record(record(), tmp_path)
  assert config.judged_otherwise(record(rounds=99), tmp_path) == []
  assert config.judged_otherwise(record(evaluation__fars=(0.2,)), tmp_path) == ["fars"]
