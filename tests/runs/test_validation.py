"""People who validate judge the course of training; who evaluates is looked at when it ends."""

import json
import types

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.runs import figures, inputs
from fedjax_face.runs.asked import Asked
from fedjax_face.runs.experiment import ledger_before
from tests.runs.test_fit import SHORT, OneLayer, method, photographs

GIVEN = {"method.backbone": OneLayer()}
JUDGED = SHORT | {"evaluation": ff.protocols(fars=(0.1,), bootstrap=10, every=2, headline=(
    "recall_all_pairs@far=0.1",))}
OWN, WATCHED = "recall_all_pairs@far=0.1", "validation/recall_all_pairs@far=0.1"


def sources(seed=0):
  return photographs(24).split(evaluation=0.3, validation=0.3, seed=seed)


@pytest.fixture(scope="module")
def seen():
  return []


@pytest.fixture(scope="module")
def run(tmp_path_factory, seen):
  return ff.fit(method(), sources(), workdir=tmp_path_factory.mktemp("runs") / "run",
                callbacks=(lambda rounds, metrics: seen.append(metrics),), **JUDGED)


def test_the_course_is_of_who_validates_and_the_end_of_who_evaluates(run, seen):
  known = ~np.isnan(run.metrics[WATCHED])
  assert run.metrics["round"][known].tolist() == [0, 2, 4]
  assert np.flatnonzero(~np.isnan(run.metrics[OWN])).tolist() == [4]
  assert WATCHED in seen[0] and OWN not in seen[0]
  assert run.summary["metrics"].keys() == {OWN, "recall_all_pairs/auc"}
  validates = run.sources.validation
  again = run.evaluate(["recall_all_pairs"], data=validates)[OWN]
  assert again.value == pytest.approx(run.metrics[WATCHED][-1])


def test_the_statement_says_who_validates(run):
  people = run.sources.validation.num_persons
  assert f"judged on {people} further people of mine, without noise" in " ".join(
      run.statement.split())


def test_who_validates_and_trains_too_is_not_called_further_people():
  """Where labels are held out, contributors of images may train and validate."""
  made = sources()._replace(evaluates_training_people=True)
  ledger = ledger_before(types.SimpleNamespace(training={}), made,
                         types.SimpleNamespace(not_covered=()))
  said = " ".join(ledger.not_covered)
  assert "judged on other images of people who train" in said and "further people" not in said


def test_the_figure_is_of_the_course(run):
  titles = [axes.get_title("left") for axes in figures.of_run(run.workdir, (OWN,))["training"].axes]
  assert any(title.startswith("Validation") for title in titles)


def test_other_people_who_validate_are_other_data(run):
  made = sources()
  inputs.require_same(made, run.workdir)
  with pytest.raises(ValueError, match="there is a validation set there and none here"):
    inputs.require_same(made._replace(validation=None), run.workdir)
  assert inputs.recorded(run.workdir).validation.num_persons == made.validation.num_persons
  loaded = ff.load(run.workdir, data=made, given=GIVEN)
  assert loaded.evaluate()[OWN] == run.evaluate()[OWN]


def test_a_folder_of_a_version_before_has_nobody_who_validates(tmp_path):
  made = sources()._replace(validation=None)
  inputs.record(made, tmp_path)
  said = json.loads((tmp_path / inputs.INPUTS).read_text())
  del said["validation"]
  (tmp_path / inputs.INPUTS).write_text(json.dumps(said))
  inputs.require_same(made, tmp_path)
  assert inputs.recorded(tmp_path).validation is None


def test_too_few_people_who_validate_are_refused_before_anything_trains():
  whole = sources()
  alone = whole.validation.select(whole.validation.person == 0)
  asked = Asked.of(method(), whole._replace(validation=alone), rounds=1, seed=0, start=None,
                   privacy=SHORT["privacy"], evaluation=None, compute=ff.compute())
  with pytest.raises(ValueError, match="data.validation: evaluation: 1 person"):
    asked.experiment()
