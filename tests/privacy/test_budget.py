"""Runs on the same people add up in one file: entered before they release, once, up to a limit."""

import fcntl
import json
import math
import multiprocessing
import pathlib

import dp_accounting
import pytest

from fedjax_face.privacy import accounting, budget, groups
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.budget import Budget, Entry
from fedjax_face.privacy.ledger import Ledger, Release, non_private

REPLACE, ADD = Adjacency.REPLACE_ONE, Adjacency.ADD_OR_REMOVE_ONE
DELTA = 1e-5


def entry(run="a", multiplier=4.0, rounds=1, adjacency=REPLACE, data="faces", leak=False,
          digest="00ff"):
  ledger = Ledger()
  ledger.record(Release("backbone", "person", adjacency, dp_accounting.GaussianDpEvent(multiplier),
                        "everyone"), rounds)
  if leak:
    ledger.record(non_private("heads", "person", adjacency, "everyone", "in clear"))
  return Entry(run, data, digest, DELTA, {"name": run, "started": "2026-01-01"}, ledger)


def gaussian(multiplier, adjacency=REPLACE, delta=DELTA):
  return accounting.epsilon(dp_accounting.GaussianDpEvent(multiplier), delta, adjacency).best


@pytest.fixture
def path(tmp_path):
  return tmp_path / "budget.json"


def test_runs_compose(path):
  for name in ("a", "b"):
    budget.enter(Budget(path), entry(name))
  said = budget.statement(path)
  assert said["total"]["person"] == pytest.approx(gaussian(4 / math.sqrt(2)), abs=1e-3)
  assert [run["epsilon"]["person"] for run in said["runs"]] == pytest.approx([gaussian(4)] * 2)
  assert said["total"]["person"] < 2 * gaussian(4)


def test_a_run_that_goes_on_counts_once_and_more_rounds_replace_fewer(path):
  budget.enter(Budget(path), entry())
  budget.enter(Budget(path), entry())
  assert len(json.loads(path.read_text())["runs"]) == 1
  budget.enter(Budget(path), entry(rounds=4))
  assert budget.statement(path)["total"]["person"] == pytest.approx(gaussian(2.0), abs=1e-3)


def test_a_run_beyond_the_limit_is_refused_and_the_file_stays_as_it_was(path):
  limited = Budget(path, 1.2 * gaussian(4.0))
  budget.enter(limited, entry())
  before = path.read_bytes()
  for other in (entry("b"), entry("b", multiplier=1000, leak=True)):
    with pytest.raises(ValueError, match="no room for this run.*each person .*nothing was") as e:
      budget.enter(limited, other)
    assert "\n" not in str(e.value) and path.read_bytes() == before
  budget.enter(Budget(path), entry("c", multiplier=100.0))   # the file's own limit, with room
  with pytest.raises(ValueError, match="has no room for this run"):
    budget.enter(Budget(path), entry("b"))


def test_a_first_run_beyond_the_limit_leaves_no_file(path):
  with pytest.raises(ValueError, match="has no room for this run"):
    budget.enter(Budget(path, 0.01), entry())
  assert not path.exists()


def test_another_limit_or_data_set_is_refused(path):
  budget.enter(Budget(path, 8.0), entry())
  with pytest.raises(ValueError, match=r"has the limit 8.0, not 9.0"):
    budget.enter(Budget(path, 9.0), entry("b"))
  with pytest.raises(ValueError, match="budget of 'faces', but this run trains on 'writers'"):
    budget.enter(Budget(path), entry("b", data="writers", digest="11aa"))
  assert len(json.loads(path.read_text())["runs"]) == 1


def test_a_data_set_is_known_by_its_content_or_the_name_that_is_given(path):
  budget.enter(Budget(path), entry())
  budget.enter(Budget(path), entry("b", data="moved"))  # the same content in another folder
  grown = entry("c", data="moved", digest="11aa")
  with pytest.raises(ValueError, match="if the people are the same, --privacy_budget_data=faces"):
    budget.enter(Budget(path), grown)
  budget.enter(Budget(path, data="faces"), grown)
  held = json.loads(path.read_text())
  assert held["data"] == "faces" and [run["run"] for run in held["runs"]] == ["a", "b", "c"]
  other = path.with_name("named.json")
  budget.enter(Budget(other, data="staff"), entry())
  assert json.loads(other.read_text())["data"] == "staff"


def test_a_refused_run_leaves_no_lock_and_a_folder_is_no_budget(path):
  with pytest.raises(ValueError, match="has no room for this run"):
    budget.enter(Budget(path, 0.01), entry())
  assert not list(path.parent.iterdir())
  with pytest.raises(OSError, match="is a folder: expected a file"):
    budget.enter(Budget(path.parent), entry())
  path.write_text("{}")
  with pytest.raises(ValueError, match="it lacks 'version'"):
    budget.enter(Budget(path), entry())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "runs": [{}]}'])
def test_a_damaged_file_stops_the_run(path, text):
  path.write_text(text)
  with pytest.raises(ValueError, match="no readable privacy budget") as error:
    budget.enter(Budget(path), entry())
  assert "\n" not in str(error.value) and path.read_text() == text


def test_a_file_that_another_process_holds_is_named(path):
  budget.enter(Budget(path), entry())
  with open(path.with_name("budget.json.lock"), "a") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="is locked by another process"):
      budget.enter(Budget(path), entry("b"), patience=0.1)
  budget.enter(Budget(path), entry("b"))
  assert len(json.loads(path.read_text())["runs"]) == 2


def _enter(path, name):
  budget.enter(Budget(pathlib.Path(path)), entry(name), patience=60)


def test_runs_that_start_together_all_count(path):
  context = multiprocessing.get_context("spawn")
  running = [context.Process(target=_enter, args=(str(path), name)) for name in "abc"]
  for process in running:
    process.start()
  for process in running:
    process.join()
  assert {run["run"] for run in json.loads(path.read_text())["runs"]} == set("abc")


def test_what_has_no_guarantee_makes_the_total_infinite(path):
  budget.enter(Budget(path), entry())
  budget.enter(Budget(path), entry("b", leak=True))
  assert budget.statement(path)["total"] == {"person": "infinite"}


def test_two_adjacencies_have_a_total_under_replace_one():
  runs = [{"ledger": entry(adjacency=of).ledger.to_json()} for of in (REPLACE, ADD)]
  total = budget.totals(runs, DELTA)["person"]
  exact = gaussian(1 / math.hypot(1 / 4, 2 / 4))  # of removing one and adding another
  assert exact < total < 2 * exact
  assert total == pytest.approx(
      gaussian(4, delta=DELTA / 2) + 2 * gaussian(4, ADD, delta=1e-6), rel=0.1)


def test_a_run_that_began_elsewhere_is_not_in_the_file(path):
  budget.enter(Budget(path), entry())
  budget.require_entered(path, "a")
  for run, where in (("b", path), ("a", path.with_name("other.json"))):
    with pytest.raises(ValueError, match="does not hold this run"):
      budget.require_entered(where, run)


def covering(rounds, covers):
  ledger = Ledger()
  ledger.record(Release("model", "person", ADD, dp_accounting.GaussianDpEvent(4.0), "everyone",
                        covers), rounds)
  return {"ledger": ledger.to_json()}


@pytest.mark.parametrize("covers", [5, 10])
def test_no_event_covers_rounds_of_two_runs(covers):
  two = budget.totals([covering(5, covers)] * 2, DELTA)["person"]
  assert two == pytest.approx(gaussian(4 / math.sqrt(2), ADD), abs=1e-3)


def of_images(run, most, adjacency=ADD):
  ledger = Ledger()
  ledger.record(Release("model", "image", adjacency, dp_accounting.GaussianDpEvent(20.0),
                        "everyone"))
  return Entry(run, "faces", "00ff", DELTA, {"name": run}, ledger, most)


def test_runs_by_image_add_to_the_person_by_group_privacy(path):
  budget.enter(Budget(path), of_images("a", {"image": 3}))
  group = lambda delta: groups.group_epsilon(dp_accounting.GaussianDpEvent(20.0), 1, 3, delta)
  assert budget.statement(path)["total"] == pytest.approx(
      {"image": gaussian(20, ADD), "person": group(DELTA)})
  budget.enter(Budget(path), entry("b", adjacency=ADD))
  assert budget.statement(path)["total"] == pytest.approx(
      {"person": group(DELTA / 2) + gaussian(4, ADD, DELTA / 2)})


@pytest.mark.parametrize("added", [
    of_images("b", {}), of_images("b", {"image": 3}, REPLACE), of_images("b", {"region": 3})])
def test_images_of_who_knows_how_many_are_no_bound_for_a_person_and_refused_under_a_limit(
    path, added):
  budget.enter(Budget(path, 5.0), entry("a", adjacency=ADD))
  with pytest.raises(ValueError, match="has no room for this run"):
    budget.enter(Budget(path), added)
  budget.enter(Budget(path.with_name("other")), added)
  assert budget.statement(path.with_name("other"))["total"]["person"] == "infinite"


def test_what_is_private_stays_in_the_file(path):
  budget.enter(Budget(path), of_images("a", {"image": 3}))
  said = json.dumps(budget.statement(path))
  assert "00ff" in path.read_text() and "00ff" not in said and "units_per_person" not in said
