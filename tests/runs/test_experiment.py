"""What a run says before it starts: who is not covered, what was skipped."""

import functools
import warnings

import pytest

from fedjax_face.data import sources as data_sources
from fedjax_face.data.readers import decode
from fedjax_face.runs import records
from fedjax_face.runs.asked import Asked, changed
from tests.experiments import tiny_call


@functools.cache
def sources():
  return Asked.of_config(tiny_call.get_config("pretrain")).sources()


def alone(**values):
  """Without pre-training."""
  config = tiny_call.get_config("pretrain")
  del config["start"]
  return Asked.of_config(changed(config, values))


def test_the_people_who_evaluate_are_named_as_not_protected():
  made = sources()
  said = alone().experiment(sources=made).ledger.not_covered
  people = len(set(made.evaluation.person.tolist()))
  named = f"is evaluated on {people} people of {made.evaluation.name} who do not train"
  assert any(named in sentence for sentence in said)
  other = made._replace(evaluates_training_people=True)
  said = alone().experiment(sources=other).ledger.not_covered
  assert not any("do not train" in sentence for sentence in said)


def test_metrics_that_a_third_party_receives_are_in_the_statement(monkeypatch):
  monkeypatch.setattr(records, "require_trackers", lambda wandb: None)  # as if it were installed
  said = []
  for project in ("", "faces"):
    built = alone(**{"compute.wandb": project}).experiment(sources=sources())
    said.append([s for s in built.ledger.not_covered if "Weights & Biases, a third party" in s])
  assert [len(sentences) for sentences in said] == [0, 1]


def test_files_that_were_skipped_are_said_once(monkeypatch):
  line, held = "here: skipped 1: a: not an image", sources()

  def load(section, seed):
    warnings.warn(line, decode.SkippedFiles, stacklevel=1)
    warnings.warn("another matter", stacklevel=1)
    return held._replace(notes=(line,))

  monkeypatch.setattr(data_sources, "load", load)
  said = []
  with pytest.warns(UserWarning) as warned:
    alone().experiment(None, said.append)
  assert said.count(line) == 1
  assert [str(w.message) for w in warned if w.category is UserWarning] == ["another matter"]
  assert not any(w.category is decode.SkippedFiles for w in warned)
