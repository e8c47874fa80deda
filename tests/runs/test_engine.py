"""Interrupting a run anywhere and starting it again gives the uninterrupted run, bit for bit."""

import csv
import dataclasses
import fnmatch
import json
import shutil
import types

import jax
import ml_collections
import numpy as np
import pytest

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.evaluation.metric import Metric
from fedjax_face.privacy import budget as budgets
from fedjax_face.privacy.adjacency import Adjacency
from fedjax_face.privacy.budget import Budget
from fedjax_face.privacy.ledger import Ledger, non_private
from fedjax_face.runs import (
  checkpoint,
  config,
  derived,
  engine,
  loop,
  outputs,
  records,
  resumed,
  run_statement,
  streams,
  training_set,
)
from fedjax_face.runs.evaluator import Outcome
from fedjax_face.runs.experiment import Experiment
from fedjax_face.runs.mesh import clients_mesh
from tests.runs.interruption import Killed, interrupt
from tests.runs.toys import IMAGES, toy_algorithm

PEOPLE = np.arange(len(IMAGES), dtype=np.int32)


class ToyEvaluator:
  def values(self, state):
    return {"first@": float(np.asarray(state.weights)[0])}

  def outcome(self, state):
    value = self.values(state)["first@"]
    return Outcome({"first@": Metric.resampled(value, value + np.array([-1., 0., 1.]))})


def options(**changes):
  return ml_collections.ConfigDict({
      "algorithm": "toy", "rounds": 10, "seed": 0, "data": {}, "model": {},
      "privacy": {"delta": 1e-3, "noise_seed": 11}, "hparams": {},
      "evaluation": {"every": 4, "bootstrap": 0, "batch_size": 8},
      "training": {"rounds_per_dispatch": 3, "checkpoint_every": 4}} | changes)


def record_of(given):
  """What config.json says of a toy: how it is carried out is under its name there."""
  said = given.to_dict()
  return said | {"compute": said.pop("training")}


class Made:
  """What makes the experiment of a run here."""


def run(given, workdir, sources=None, budget=None):
  """Runs, or continues, the toy in a folder; gives summary.json and privacy.json."""
  return engine.carry_on(record_of(given), given.rounds, workdir, lambda: Made.build(
      given, workdir, print, sources), budget)


@pytest.fixture(autouse=True)
def toy_experiment(monkeypatch):
  algorithm = toy_algorithm()

  def build(given, workdir, say, sources=None, public_stages=None):
    train = FaceDataset("toys", IMAGES, PEOPLE, PEOPLE)
    sources = sources or types.SimpleNamespace(notes=(), train=train,
                                               evaluation=train, evaluates_training_people=False)
    ledger = Ledger()
    ledger.declare_not_covered("the loss")
    return Experiment(given, clients_mesh(jax.devices()[:1]), sources, build.algorithm, ledger,
                      ToyEvaluator(), True, record=record_of(given))

  build.algorithm = algorithm
  monkeypatch.setattr(Made, "build", staticmethod(build), raising=False)
  return build


def statement_of(workdir):
  """privacy.json without its date and the digest under the run's own key."""
  said = json.loads((workdir / "privacy.json").read_text())
  del said["run"]["written"], said["run"]["data"]["digest"]
  return json.dumps(said)


def outcome_of(workdir):
  """Everything that must not depend on interruptions."""
  template = jax.eval_shape(toy_algorithm().init, jax.random.key(0))
  last = checkpoint.restore(workdir / "checkpoints", template, pytest.fail)
  state = jax.tree.map(lambda a: a.tobytes(), last.state._replace(
      key=np.asarray(jax.random.key_data(last.state.key))))
  return (state, json.dumps(last.ledger), last.round, (workdir / "metrics.csv").read_bytes(),
          statement_of(workdir), (workdir / "config.json").read_bytes(),
          *(json.loads((workdir / "summary.json").read_text())[name]
            for name in ("metrics", "references", "gains")))


MOMENTS = [
    *((records.CsvFile, "write_rows", call) for call in (1, 2, 4, 6)),  # the first is of round 0
    (checkpoint, "save", 1), (checkpoint, "save", 2), (checkpoint, "save", 3),
    (checkpoint, "_write", 1), (checkpoint, "_write", 2), (checkpoint, "_write", 3),
    (config, "record", 1), (engine.references, "references", 1),
    (derived, "keep", 1), (derived, "write", 1), (resumed, "record", 1),
    *((run_statement, "write", call) for call in (1, 2, 3))]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  return tmp_path_factory.mktemp("runs") / "whole"


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("owner, name, call", MOMENTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_killed_and_started_again_is_bit_identical(
    tmp_path, uninterrupted, monkeypatch, owner, name, call, before):
  if not uninterrupted.exists():
    run(options(), uninterrupted)
  with monkeypatch.context() as patch:
    interrupt(patch, owner, name, call, before)
    with pytest.raises(Killed):
      run(options(), tmp_path / "w")
  run(options(), tmp_path / "w")
  assert outcome_of(tmp_path / "w") == outcome_of(uninterrupted)


def test_ledger_counts_every_round_once_and_csv_has_one_row_each(tmp_path):
  run(options(), tmp_path)
  ledger = Ledger.from_json(json.loads((tmp_path / "privacy.json").read_text())["ledger"])
  assert [times for _, times in ledger.entries] == [10]
  rows = (tmp_path / "metrics.csv").read_text().splitlines()
  assert [row.split(",")[0] for row in rows] == ["round", *map(str, range(11))]
  column = rows[0].split(",").index("first@")
  evaluated = [row.split(",")[0] for row in rows[1:] if row.split(",")[column]]
  assert evaluated == ["0", "4", "8", "10"]


def start_of_the_toy():
  """The first weight of the state that a run is given."""
  return float(loop.initial_state(toy_algorithm(), 0, clients_mesh(jax.devices()[:1])).weights[0])


def test_the_start_is_evaluated_before_the_first_round_and_held_against_the_end(tmp_path):
  summary, _ = run(options(), tmp_path)
  with open(tmp_path / "metrics.csv", newline="") as file:
    first = next(csv.DictReader(file))
  start = start_of_the_toy()
  assert (first["round"], float(first["first@"]), first["loss"]) == ("0", start, "")
  assert summary["references"]["start"]["words"] == "untrained start"
  assert summary["references"]["start"]["metrics"]["first@"]["value"] == start
  gain = summary["metrics"]["first@"]["value"] - start
  assert gain != 0
  assert summary["gains"]["first@"] == pytest.approx(dict.fromkeys(("value", "low", "high"), gain))


def test_a_finished_training_evaluates_its_start_once(tmp_path, monkeypatch):
  seen = []
  values = ToyEvaluator.values
  monkeypatch.setattr(ToyEvaluator, "values",
                      lambda self, state: seen.append(int(state.rounds)) or values(self, state))
  run(options(), tmp_path)
  assert seen == [0, 4, 8, 10, 0]  # the last is the reference of summary.json
  (tmp_path / "summary.json").unlink()
  run(options(), tmp_path)
  assert seen == [0, 4, 8, 10, 0] and (tmp_path / "summary.json").exists()
  (tmp_path / "checkpoints" / "00000010" / derived.DERIVED).unlink()  # as of an earlier version
  run(options(), tmp_path)
  assert seen[5:] == [10, 0]


def test_tensorboard_has_a_step_0(tmp_path):
  accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
  run(options(), tmp_path)
  events = accumulator.EventAccumulator(str(tmp_path))
  events.Reload()
  assert [event.step for event in events.Scalars("first_")] == [0, 4, 8, 10]  # has no "@"


SECRET = {"privacy": {"delta": 1e-3, "noise_seed": None}}


def interrupted(given, workdir, monkeypatch, call):
  with monkeypatch.context() as patch:
    interrupt(patch, records.CsvFile, "write_rows", call, True)
    with pytest.raises(Killed):
      run(given, workdir)


@pytest.mark.parametrize("call", [1, 2, 4], ids=[
    "before_the_first_round", "before_the_first_checkpoint", "after_it"])
def test_roots_of_an_interrupted_run_are_kept_and_those_of_a_finished_one_are_not(
    tmp_path, monkeypatch, call):
  given, folder = options(**SECRET), tmp_path / "secrets"
  kept = lambda: [(folder / name).read_text() for name in ("noise", "participation")]
  interrupted(given, tmp_path, monkeypatch, call)
  first = kept()
  assert len(set(first)) == 2 and {len(bytes.fromhex(root)) for root in first} == {32}
  assert folder.stat().st_mode & 0o777 == 0o700
  assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
  for path in (tmp_path / "checkpoints").rglob("*"):
    assert path.is_dir() or not any(
        held in path.read_bytes() for root in first
        for held in (root.strip().encode(), bytes.fromhex(root), bytes.fromhex(root)[:8])), path
  interrupted(given, tmp_path, monkeypatch, call)
  assert kept() == first
  run(given, tmp_path)
  assert not folder.exists()
  said = json.loads((tmp_path / "privacy.json").read_text())
  assert said["noise_keys"] == "operating_system"
  for path in tmp_path.rglob("*"):
    assert path.is_dir() or first[0].strip().encode() not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["noise", "participation"])
def test_a_lost_root_stops_a_run_that_was_begun(tmp_path, monkeypatch, name):
  interrupted(options(**SECRET), tmp_path, monkeypatch, 4)
  lost = tmp_path / "secrets" / name
  kept = lost.read_text()
  lost.unlink()
  with pytest.raises(ValueError, match=f"secrets/{name} is missing: .*second release") as error:
    run(options(**SECRET), tmp_path)
  assert "\n" not in str(error.value)
  lost.write_text(kept)
  lost.chmod(0o600)
  run(options(**SECRET), tmp_path)


def test_roots_are_lost_with_their_folder_and_not_drawn_anew(tmp_path, monkeypatch):
  interrupted(options(**SECRET), tmp_path, monkeypatch, 1)
  shutil.rmtree(tmp_path / "secrets")
  with pytest.raises(ValueError, match="secrets/noise is missing"):
    run(options(**SECRET), tmp_path)
  assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("place, mode", [
    ("secrets", 0o755), ("secrets/noise", 0o644), ("secrets/participation", 0o640)])
def test_roots_that_others_can_read_are_refused(tmp_path, monkeypatch, place, mode):
  interrupted(options(**SECRET), tmp_path, monkeypatch, 4)
  (tmp_path / place).chmod(mode)
  with pytest.raises(ValueError, match=f"{place} is open to others.*mode {mode:04o}"):
    run(options(**SECRET), tmp_path)


def test_a_damaged_root_is_refused(tmp_path, monkeypatch):
  interrupted(options(**SECRET), tmp_path, monkeypatch, 4)
  (tmp_path / "secrets/noise").write_text("00ff\n")
  with pytest.raises(ValueError, match="secrets/noise is damaged: expected 64 hexadecimal"):
    run(options(**SECRET), tmp_path)


def test_a_run_killed_between_its_last_checkpoint_and_the_removal_leaves_no_roots(
    tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    interrupt(patch, engine.secret_roots, "remove", 1, True)
    with pytest.raises(Killed):
      run(options(**SECRET), tmp_path)
  assert (tmp_path / "secrets").exists()
  run(options(**SECRET), tmp_path)
  assert not (tmp_path / "secrets").exists()


def test_rounds_that_are_added_later_have_roots_of_their_own(tmp_path, monkeypatch):
  seen = []
  obtain = engine.secret_roots.obtain
  monkeypatch.setattr(engine.secret_roots, "obtain",
                      lambda *given: seen.append(obtain(*given)) or seen[-1])
  run(options(rounds=4, **SECRET), tmp_path)
  run(options(rounds=8, **SECRET), tmp_path)
  assert len({root for roots in seen for root in roots}) == 4


def test_a_pinned_run_keeps_no_secret_and_follows_from_its_seeds(tmp_path, toy_experiment):
  experiment = toy_experiment(options(), None, print)
  roots = resumed.roots(experiment, tmp_path, must_exist=True)
  assert roots == (streams.public_root(11), streams.public_root(0))
  assert not (tmp_path / "secrets").exists()


def test_who_takes_part_follows_from_a_root_of_its_own(tmp_path, toy_experiment):
  given = options(**SECRET)
  first, second = (resumed.roots(toy_experiment(given, None, print), tmp_path / name, False)
                   for name in ("a", "b"))
  assert len({*first, *second, streams.public_root(0)}) == 5


def test_where_nothing_is_promised_the_seed_alone_decides_who_takes_part(
    toy_experiment, tmp_path):
  given = options(privacy={"delta": 1e-3, "noise_seed": None})
  built, promising = toy_experiment(given, None, print), toy_algorithm()
  silent = non_private("weights", "person", Adjacency.REPLACE_ONE, "everyone", "no noise")
  with_releases = lambda *releases: built._replace(
      algorithm=dataclasses.replace(promising, releases=releases))
  for experiment, nothing in ((with_releases(silent), True),
                              (with_releases(silent, *promising.releases), False),
                              (with_releases(*promising.releases), False)):
    assert run_statement.claims_nothing(experiment) == nothing
    assert run_statement.noise_keys(experiment) == ("none" if nothing else "operating_system")
    roots = resumed.roots(experiment, tmp_path / str(nothing), False)
    assert (roots.participation == streams.public_root(0)) == nothing


def test_participation_that_anybody_can_compute_is_noticed(toy_experiment, tmp_path, monkeypatch):
  monkeypatch.setattr(resumed, "roots", lambda *given: streams.Roots(
      streams.secret_root(), streams.public_root(0)))
  with pytest.raises(AssertionError):
    test_where_nothing_is_promised_the_seed_alone_decides_who_takes_part(toy_experiment, tmp_path)
  with pytest.raises(AssertionError):
    test_who_takes_part_follows_from_a_root_of_its_own(tmp_path, toy_experiment)


def test_another_noise_multiplier_than_that_of_the_releases_is_refused(toy_experiment):
  algorithm = toy_experiment.algorithm
  with pytest.raises(ValueError, match="noise_multiplier=9.0, but the releases"):
    next(loop.train(algorithm, IMAGES, rounds=1, seed=0, noise_root=streams.public_root(1),
                    cohort_root=streams.public_root(0),
                    hparams=algorithm.hparams | {"noise_multiplier": 9.0}))


def test_a_finished_run_is_not_run_again(tmp_path, toy_experiment, monkeypatch):
  first = run(options(), tmp_path)
  monkeypatch.setattr(Made, "build", lambda *_: pytest.fail("built again"))
  assert run(options(), tmp_path) == first


def test_another_config_is_refused_by_its_keys_and_touches_nothing(tmp_path):
  run(options(), tmp_path)
  before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
  with pytest.raises(ValueError, match=r"seed \(there 0, now 1\); only rounds may grow"):
    run(options(seed=1), tmp_path)
  with pytest.raises(ValueError, match=r"rounds \(there 10, now 9\)"):
    run(options(rounds=9), tmp_path)
  assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_checkpoints_without_their_config_are_still_recognised(tmp_path):
  run(options(), tmp_path)
  (tmp_path / "config.json").unlink()
  (tmp_path / "summary.json").unlink()
  with pytest.raises(ValueError, match="belong to another config"):
    run(options(seed=1), tmp_path)


def test_rounds_may_grow_unless_the_mechanism_depends_on_them(tmp_path, toy_experiment):
  run(options(rounds=6), tmp_path)
  summary, _ = run(options(rounds=10), tmp_path)
  assert summary["rounds"] == 10
  assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 12
  other = toy_experiment.algorithm.releases[0].__class__(
      **{**vars(toy_experiment.algorithm.releases[0]), "note": "another noise"})
  toy_experiment.algorithm = type(toy_experiment.algorithm)(
      **{**vars(toy_experiment.algorithm), "releases": (other,)})
  with pytest.raises(ValueError, match="rounds cannot grow here"):
    run(options(rounds=12), tmp_path)


def test_non_finite_parameters_stop_the_run_and_are_not_saved(tmp_path, toy_experiment):
  toy_experiment.algorithm = toy_algorithm(blow_up_at=6)
  with pytest.raises(loop.NonFiniteState, match="rounds 7-8"):
    run(options(), tmp_path)
  assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == "00000004"
  assert (tmp_path / "PRIVACY.md").exists()
  assert json.loads((tmp_path / "summary.json").read_text())["status"].startswith("stopped: ")


def test_an_evaluation_never_writes_over_what_training_measured(tmp_path, monkeypatch):
  monkeypatch.setattr(ToyEvaluator, "values", lambda self, state: {"loss": 0.0})
  with pytest.raises(RuntimeError, match="training and evaluation both call a metric loss"):
    run(options(), tmp_path)


def test_what_a_run_leaves_is_in_the_table_of_files(tmp_path, monkeypatch):
  """Every name in a workdir is matched by a pattern of its statement, half-way and at the end."""
  folder = tmp_path / "w"

  def missing():
    files = json.loads((folder / "privacy.json").read_text())["files"]
    patterns = [pattern for file in files for pattern in file["pattern"].split(", ")]
    return {path.name for path in folder.iterdir()
            if not any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns)}

  interrupted(options(**SECRET), folder, monkeypatch, 4)
  assert not missing() and (folder / "secrets").exists()
  assert folder.stat().st_mode & 0o777 == 0o700
  run(options(**SECRET), folder)
  assert not missing() and "| secrets |" not in (folder / "PRIVACY.md").read_text()


def test_a_run_that_is_killed_has_a_statement_of_the_most_that_it_can_have_released(
    tmp_path, monkeypatch):
  given, epsilons = options(**SECRET), []
  for call, counted in ((2, 4), (4, 8), (6, 10)):  # dispatches end at 3, 4, 6, 8, 9, 10
    folder = tmp_path / str(call)
    interrupted(given, folder, monkeypatch, call)
    said, text = json.loads((folder / "privacy.json").read_text()), (
        folder / "PRIVACY.md").read_text()
    assert "**This run has not finished.**" in text and f" {counted} rounds" in text
    assert (said["run"]["status"], said["run"]["counted"]) == ("unfinished", counted)
    assert [entry["times"] for entry in said["ledger"]["entries"]] == [counted]
    epsilons.append(said["units"][0]["epsilon"]["best"])
  _, late = run(given, folder)
  assert late["run"]["status"] == "finished" and "counted" not in late["run"]
  assert epsilons[0] < epsilons[1] < epsilons[2] == late["units"][0]["epsilon"]["best"]
  assert "has not finished" not in (folder / "PRIVACY.md").read_text()


def test_a_third_party_that_joins_later_is_in_the_statement(tmp_path, monkeypatch):
  sent = []
  monkeypatch.setattr(records, "require_trackers", lambda project: None)
  monkeypatch.setattr(outputs, "WeightsAndBiases", lambda *given: types.SimpleNamespace(
      write=lambda done, values: sent.append(done), flush=lambda: None,
      close=lambda: None))
  run(options(rounds=4), tmp_path)
  said = lambda: [line for line in json.loads((tmp_path / "privacy.json").read_text())[
      "not_covered"] if "a third party" in line]
  assert not said()
  given = options(rounds=8)
  given.training.wandb = "faces"
  run(given, tmp_path)
  assert sent == [5, 6, 7, 8] and len(said()) == 1


BUDGET = "budget.json"
RESTART = {"training": {"rounds_per_dispatch": 3, "checkpoint_every": 4,
                        "restart_same_noise": True}}


def totals(folder):
  return budgets.statement(folder / BUDGET)


def test_a_run_is_entered_before_it_releases_and_once(tmp_path, monkeypatch):
  budget = Budget(tmp_path / BUDGET)
  with monkeypatch.context() as patch:
    interrupt(patch, engine.secret_roots, "obtain", 1, True)
    with pytest.raises(Killed):
      run(options(**SECRET), tmp_path / "w", budget=budget)
  first = totals(tmp_path)
  assert len(first["runs"]) == 1 and not (tmp_path / "w/secrets").exists()
  with pytest.raises(ValueError, match="is entered in a privacy budget: give --privacy_budget"):
    run(options(**SECRET), tmp_path / "w")
  _, privacy = run(options(**SECRET), tmp_path / "w", budget=budget)
  assert totals(tmp_path) == first == privacy["budget"]
  unit, = privacy["units"]
  assert first["total"]["person"] == pytest.approx(unit["epsilon"]["best"])
  assert "Running total of toys, one run(s)" in (tmp_path / "w/PRIVACY.md").read_text()
  assert run(options(**SECRET), tmp_path / "w", budget=budget)[1] == privacy
  run(options(**SECRET, rounds=12), tmp_path / "w", budget=budget)
  assert len(totals(tmp_path)["runs"]) == 1
  assert totals(tmp_path)["total"]["person"] > first["total"]["person"]


def test_an_exhausted_budget_stops_the_run_before_anything_is_written(tmp_path):
  cost = run(options(**SECRET), tmp_path / "a")[1]["units"][0]["epsilon"]["best"]
  budget = Budget(tmp_path / BUDGET, 1.1 * cost)
  run(options(**SECRET), tmp_path / "b", budget=budget)
  before = (tmp_path / BUDGET).read_bytes()
  with pytest.raises(ValueError, match="has no room for this run") as error:
    run(options(**SECRET), tmp_path / "c", budget=budget)
  assert "\n" not in str(error.value)
  assert not (tmp_path / "c").exists() and (tmp_path / BUDGET).read_bytes() == before


def test_a_run_that_begins_again_is_in_the_budget_once(tmp_path, monkeypatch):
  budget = Budget(tmp_path / BUDGET)
  given = options(**SECRET, **RESTART)
  with monkeypatch.context() as patch:
    interrupt(patch, records.CsvFile, "write_rows", 4, True)
    with pytest.raises(Killed):
      run(given, tmp_path / "w", budget=budget)
  shutil.rmtree(tmp_path / "w" / "checkpoints")
  run(given, tmp_path / "w", budget=budget)
  assert len(totals(tmp_path)["runs"]) == 1


def test_a_delta_as_large_as_a_share_of_one_person_is_said_while_it_runs(tmp_path, capfd):
  """Of 12 people, a delta of 1/12 does not exclude that one is revealed outright."""
  run(options(privacy={"delta": 0.1, "noise_seed": 11}), tmp_path / "large")
  assert "delta = 0.1 is not below 1/12" in " ".join("".join(capfd.readouterr()).split())
  run(options(privacy={"delta": 1e-3, "noise_seed": 11}), tmp_path / "small")
  assert "is not below" not in "".join(capfd.readouterr())


def test_a_refused_run_leaves_every_budget_as_it_is(tmp_path, toy_experiment):
  """Rounds that cannot grow, given the file of the run or another one."""
  budget = Budget(tmp_path / BUDGET)
  run(options(**SECRET), tmp_path / "w", budget=budget)
  before = (tmp_path / BUDGET).read_bytes()
  release, = toy_experiment.algorithm.releases
  toy_experiment.algorithm = dataclasses.replace(
      toy_experiment.algorithm, releases=(dataclasses.replace(release, note="other noise"),))
  for path in (BUDGET, "other.json"):
    with pytest.raises(ValueError, match="rounds cannot grow here"):
      run(options(**SECRET, rounds=12), tmp_path / "w", budget=Budget(tmp_path / path))
  assert (tmp_path / BUDGET).read_bytes() == before and not (tmp_path / "other.json").exists()


def test_a_run_goes_on_in_the_budget_that_it_was_entered_in_alone(tmp_path):
  run(options(**SECRET), tmp_path / "w", budget=Budget(tmp_path / BUDGET))
  with pytest.raises(ValueError, match="does not hold this run, which has begun"):
    run(options(**SECRET, rounds=12), tmp_path / "w", budget=Budget(tmp_path / "other.json"))
  assert not (tmp_path / "other.json").exists()
  assert (tmp_path / BUDGET).stat().st_mode & 0o777 == 0o600


def test_known_noise_counts_as_none_in_the_budget(tmp_path):
  run(options(), tmp_path / "w", budget=Budget(tmp_path / BUDGET))
  assert totals(tmp_path)["total"] == {"person": "infinite"}
  with pytest.raises(ValueError, match="has no room for this run"):
    run(options(), tmp_path / "v", budget=Budget(tmp_path / "limited.json", 1e6))


def test_a_run_that_finished_without_a_budget_is_in_none(tmp_path):
  run(options(), tmp_path / "w")
  with pytest.raises(ValueError, match="has finished without --privacy_budget"):
    run(options(), tmp_path / "w", budget=Budget(tmp_path / BUDGET))


def of(images):
  people = PEOPLE[:len(images)]
  return types.SimpleNamespace(
      notes=(), evaluates_training_people=False,
      evaluation=types.SimpleNamespace(name="others", person=PEOPLE),
      train=FaceDataset("toys", images, people, people))


def test_statements_of_neighbours_differ_in_nothing_but_what_they_declare(tmp_path):
  neighbours = {"whole": IMAGES, "replaced": np.where(np.arange(12)[:, None, None, None] == 3,
                                                      np.uint8(7), IMAGES), "removed": IMAGES[:-1]}
  for name, images in neighbours.items():
    run(options(rounds=1), tmp_path / name, of(images))
  assert statement_of(tmp_path / "whole") == statement_of(tmp_path / "replaced")
  whole, removed = (json.loads(statement_of(tmp_path / name)) for name in ("whole", "removed"))
  for number in ("people", "images"):
    assert whole["run"]["data"].pop(number) == removed["run"]["data"].pop(number) + 1
    assert any(f"the number of {number}" in sentence for sentence in whole["not_covered"])
  assert whole == removed


def test_only_who_holds_the_key_can_compute_the_digest_and_it_outlives_the_run(
    tmp_path, monkeypatch):
  interrupted(options(), tmp_path / "a", monkeypatch, 4)
  path = tmp_path / "a" / training_set.KEY
  key = path.read_text()
  assert path.stat().st_mode & 0o777 == 0o600 and len(bytes.fromhex(key)) == 32
  digests = [run(options(), tmp_path / name)[1]["run"]["data"]["digest"] for name in "ab"]
  assert path.read_text() == key and digests[0] != digests[1]
  train = of(IMAGES).train
  assert training_set.described(train, bytes.fromhex(key))["digest"] == digests[0]
  assert training_set.described(train)["digest"] not in digests


def test_a_key_of_the_digest_that_others_can_read_is_refused(tmp_path):
  training_set.key(tmp_path)
  (tmp_path / training_set.KEY).chmod(0o644)
  with pytest.raises(ValueError, match="is open to others than its owner"):
    training_set.key(tmp_path)
