"""A run in a folder, used where the images that it was trained on are not."""

import shutil

import numpy as np
import pytest
from PIL import Image

import fedjax_face as ff
from fedjax_face import options
from fedjax_face.data.sets import Data
from tests.runs.test_fit import SHORT, OneLayer, method, sources

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
