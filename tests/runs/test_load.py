"""A run in a folder, used where the images that it was trained on are not."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.data.sets import Data
from tests.runs.test_fit import SHORT, OneLayer, method, sources

BACKBONE = {"method.backbone": OneLayer()}
GIVEN = {"method.backbone": OneLayer(), "start.method.backbone": OneLayer()}


def folder(place, people=8, images=3):
  """Portraits of noise."""
  rng = np.random.default_rng(0)
  for person in range(people):
    (place / f"p{person}").mkdir(parents=True)
    for image in range(images):
      pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
      Image.fromarray(pixels).save(place / f"p{person}" / f"{image}.png")
  return place


def of_folder(place):
  return ff.folder(str(place), size=8, evaluation=0.4, grayscale=True)


@pytest.fixture(scope="module")
def gone(tmp_path_factory):
  """(run, images to embed) of a finished run whose folder of images is gone since."""
  place = tmp_path_factory.mktemp("gone")
  images = folder(place / "images")
  run = ff.fit(method(), of_folder(images), workdir=place / "run", **SHORT)
  pixels = run.sources.evaluation.images
  shutil.move(images, place / "elsewhere")
  return run, pixels


def test_a_run_is_used_without_its_images(gone):
  run, images = gone
  found = ff.load(run.workdir, given={"method.backbone": OneLayer()})
  np.testing.assert_array_equal(found.embed(images), run.embed(images))
  assert (found.epsilon, found.statement) == (run.epsilon, run.statement)
  assert found.rounds == 4 and found.facts.num_persons == run.facts.num_persons
  others = ff.faces(images, np.arange(len(images)) // 3, name="others")
  again = found.evaluate(["recall_all_pairs"], data=others)
  assert again.keys() == {"recall_all_pairs@far=0.1", "recall_all_pairs/auc"}
  with pytest.raises(ValueError, match=r"expected uint8 \[N, 8, 8, 1\]"):
    found.embed(images[:, :4])


def test_its_own_people_need_them_and_it_says_so(gone):
  run, _ = gone
  found = ff.load(run.workdir, given={"method.backbone": OneLayer()})
  for ask in (found.evaluate, lambda: found.references, lambda: found.sources):
    with pytest.raises(FileNotFoundError) as raised:
      ask()
    said = str(raised.value)
    assert "images" in said and "data=" in said and "\n" not in said


def test_data_that_lie_elsewhere_are_given_and_compared(gone):
  run, _ = gone
  given = {"method.backbone": OneLayer()}
  moved = of_folder(run.workdir.parent / "elsewhere")
  found = ff.load(run.workdir, options.made(moved).sources, given)
  assert found.evaluate().keys() == run._made.evaluator.outcome(run._state).metrics.keys()
  train = run.sources.train
  with pytest.raises(ValueError, match=f"is of a run on other data: person '{train.names[0]}' "
                                       "trains there and not here"):
    ff.load(run.workdir, run.sources._replace(train=train.select(train.label > 0)), given)


def test_images_that_change_between_a_kill_and_a_resume_are_refused(tmp_path):
  images = folder(tmp_path / "images")

  def stop(done, metrics):
    raise KeyboardInterrupt

  call = lambda **more: ff.fit(method(), of_folder(images), workdir=tmp_path / "run",
                               **SHORT | more)
  with pytest.raises(KeyboardInterrupt):
    call(callbacks=[stop])
  trains = sorted(ff.load(tmp_path / "run", given={"method.backbone": OneLayer()}).facts.names)
  one = images / trains[0] / "1.png"
  before = one.read_bytes()
  Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(one)
  with pytest.raises(ValueError, match=f"train: image 2 of person '{trains[0]}' differs"):
    call()
  one.unlink()
  with pytest.raises(ValueError, match=f"person '{trains[0]}' has 3 images there and 2 here"):
    call()
  one.write_bytes(before)
  interrupted = ff.load(tmp_path / "run", given={"method.backbone": OneLayer()})
  assert "unfinished" in interrupted.statement or "not finished" in interrupted.statement
  assert call().rounds == 4


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
  """A run on sets that were made by hand, which starts from public people."""
  place = tmp_path_factory.mktemp("by_hand") / "run"
  return ff.fit(method(), sources(), start=ff.pretrain(ff.centralized(), rounds=1),
                workdir=place, **SHORT)


def test_data_made_by_hand_are_asked_for_where_they_are_needed(by_hand):
  found = ff.load(by_hand.workdir, given=GIVEN)
  images = sources().evaluation.images
  np.testing.assert_array_equal(found.embed(images), by_hand.embed(images))
  assert found.statement == by_hand.statement
  with pytest.raises(ValueError, match=r"made by hand, and are needed here: fedjax_face.load\(WORK"
                                       r"DIR, data=Sources\(...\)\)"):
    found.evaluate()
  whole = ff.load(by_hand.workdir, sources(), GIVEN)
  assert list(whole.references) == ["public start", "untrained", "raw pixels"]


def test_all_that_was_made_by_hand_is_asked_for_at_once(by_hand):
  with pytest.raises(ValueError) as raised:
    ff.load(by_hand.workdir)
  assert str(raised.value) == (
      "method.backbone (OneLayer), start.method.backbone (OneLayer): made by hand, so that "
      "config.json does not hold them; give them: fedjax_face.load(WORKDIR, "
      "given={'method.backbone': ..., 'start.method.backbone': ...})")


def test_points_from_public_people_are_read_when_a_method_is_bound_to_them(tmp_path):
  silos = {"clients": ff.silos(partition=ff.partitions.random(num_silos=2))}
  chosen = ff.privacyface(
      backbone=OneLayer(), local=ff.local_steps(epochs=1), **silos, exchange=ff.clusters(
          mechanism=ff.mechanisms.anchor_table(clusters=1), noise_multiplier=1.0))
  run = ff.fit(chosen, sources(), rounds=1, start=ff.pretrain(ff.centralized(), rounds=1),
               evaluation=SHORT["evaluation"], workdir=tmp_path / "run")
  images = sources().evaluation.images
  with pytest.raises(ValueError, match="data: the sets of this run were made by hand"):
    ff.load(run.workdir, given=GIVEN)
  found = ff.load(run.workdir, sources(), GIVEN)
  np.testing.assert_array_equal(found.embed(images), run.embed(images))


def test_a_public_set_is_read_without_the_private_one(tmp_path):
  data = ff.folder(str(tmp_path / "gone"), public=ff.public_sets.synthetic_faces(
      people=3, images_per_person=2))
  assert isinstance(options.made(data), Data)
  assert options.made(data).public.num_persons == 3
  with pytest.raises(FileNotFoundError):
    _ = options.made(data).sources


def test_a_finished_run_says_what_its_checkpoint_holds(gone, tmp_path):
  place = shutil.copytree(gone[0].workdir, tmp_path / "run")
  before = ff.load(place, given=BACKBONE)
  said, course = before.statement, before.metrics
  assert said == (place / "PRIVACY.md").read_text() and before.finished
  (place / "PRIVACY.md").write_text("epsilon 0.1")
  (place / "privacy.json").unlink()
  (place / "summary.json").write_text("{}")
  (place / "metrics.csv").write_text("round,loss\n0,1\n")
  after = ff.load(place, given=BACKBONE)
  assert after.statement == said and (after.rounds, after.epsilon) == (4, before.epsilon)
  np.testing.assert_equal(after.metrics, course)
  assert after.summary == before.summary and set(after.figures()) == {"training", "roc", "det"}
  (derived,) = place.glob("checkpoints/*/derived.json")
  derived.unlink()  # as if killed just before it was written
  anew = ff.load(place, given=BACKBONE)
  assert anew.summary is None and "stopped before" not in anew.statement
  numbers = said[said.index("# For researchers"):said.index("## How")]
  assert numbers and numbers in anew.statement  # the noise of the run, though no file says it


@pytest.fixture
def killed(tmp_path):
  """A folder with a checkpoint after 2 of 4 rounds, of a process that died in the fourth."""
  def die(done, metrics):
    if done == 4:
      raise KeyboardInterrupt

  images = folder(tmp_path / "images")
  with pytest.raises(KeyboardInterrupt):
    ff.fit(method(), of_folder(images), workdir=tmp_path / "run", callbacks=[die], **SHORT)
  shutil.rmtree(images)
  return tmp_path / "run"


def count(place, rounds):
  said = json.loads((place / "resolved.json").read_text())
  (place / "resolved.json").write_text(json.dumps(said | {"counted": rounds}))


def test_rows_are_those_of_the_checkpoint_and_not_of_a_torn_file(killed):
  before = ff.load(killed, given=BACKBONE).metrics
  assert before["round"].tolist() == [0, 1, 2]
  with open(killed / "metrics.csv", "a") as file:
    file.write("1")  # of "12,..."
  found = ff.load(killed, given=BACKBONE)
  assert found.rounds == 2
  np.testing.assert_equal(found.metrics, before)


def test_a_killed_run_counts_what_it_may_have_released_since(killed, gone):
  count(killed, 2)
  least = ff.load(killed, given=BACKBONE)
  count(killed, 4)
  most = ff.load(killed, given=BACKBONE)
  assert (least.rounds, least.counted, most.rounds, most.counted) == (2, 2, 2, 4)
  assert 0 < least.epsilon < most.epsilon == gone[0].epsilon  # four rounds of the same budget
  assert [times for _, times in most.ledger.entries] == [4]
  assert "2 rounds and not finished, 4 counted as released" in repr(most)
  (killed / "PRIVACY.md").unlink()
  (killed / "privacy.json").write_text('{"best": 0.1}')
  assert "This run has not finished" in most.statement and ": 4 rounds." in most.statement
  assert "people of" in most.statement and "who do not train" in most.statement
  (killed / "resolved.json").unlink()  # what may have been run is not known: to the next checkpoint
  assert ff.load(killed, given=BACKBONE).counted == 4


def test_what_is_gone_or_of_another_run_is_named_with_the_way_out(killed):
  path, inputs = killed / "config.json", killed / "inputs.json"
  text = path.read_text()
  path.write_text(text.replace('"seed": 0', '"seed": 1'))
  assert path.read_text() != text
  with pytest.raises(ValueError, match="config.json is not that of its checkpoints: put it back"):
    ff.load(killed, given=BACKBONE)
  path.unlink()
  with pytest.raises(FileNotFoundError, match="is gone: put it back, or start the run again"):
    ff.load(killed, given=BACKBONE)
  path.write_text(text)
  inputs.unlink()
  with pytest.raises(FileNotFoundError, match="inputs.json is gone.*put it back"):
    ff.load(killed, given=BACKBONE)


def test_what_only_the_statement_says_is_taken_where_it_counts_enough(killed):
  (killed / "inputs.json").rename(killed / "aside")
  run = ff.load
  with pytest.raises(FileNotFoundError, match="inputs.json"):
    run(killed, given=BACKBONE)
  (killed / "aside").rename(killed / "inputs.json")
  (killed / "privacy_budget.json").write_text('{"run": "1"}')  # its file is not known here
  found = run(killed, given=BACKBONE)
  written = json.loads((killed / "privacy.json").read_text())
  written["units"][0]["epsilon"]["best"] = 0.125
  written["budget"] = {"data": "ours", "delta": 1e-3, "limit": None, "total": {"person": 9.5},
                       "runs": [{"epsilon": {"person": 9.5}, "name": "one", "algorithm": "x",
                                 "started": "today", "revision": "r", "run": "1"}]}
  (killed / "privacy.json").write_text(json.dumps(written))
  assert "Running total of ours" in found.statement and "0.125" not in found.statement
  written["ledger"]["entries"][0]["times"] = 1
  (killed / "privacy.json").write_text(json.dumps(written))
  with pytest.raises(ValueError, match="privacy.json says less than the run has released") as said:
    _ = found.statement
  assert "\n" not in str(said.value)


def test_the_generator_of_whoever_loads_does_not_matter(by_hand):
  expected = {words: {name: metric.value for name, metric in of.items()}
              for words, of in by_hand.references.items()}
  with jax.threefry_partitionable(False):
    found = ff.load(by_hand.workdir, sources(), GIVEN).references
  assert expected == {words: {name: metric.value for name, metric in of.items()}
                      for words, of in found.items()}


def test_fit_on_a_finished_run_reads_no_images_and_writes_nothing(gone):
  run, images = gone
  files = lambda: {path: path.stat().st_mtime_ns for path in run.workdir.rglob("*")
                   if path.is_file() and path.name != "lock"}
  before = files()
  again = ff.fit(method(), of_folder(run.workdir.parent / "images"), workdir=run.workdir, **SHORT)
  assert files() == before and again.finished and math.isfinite(again.epsilon)
  np.testing.assert_array_equal(again.embed(images), run.embed(images))
