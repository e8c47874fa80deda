"""From a config's data section to training, evaluation and public regions."""

import copy
import dataclasses

import numpy as np
import pytest

from fedjax_face.data.photographs import GENDER, POSE
from fedjax_face.data.readers.decode import ReadReport
from fedjax_face.data.regions import cutting as regions
from fedjax_face.data.regions import sources as region_sources
from tests.data.test_photographs import make_photographs

REGIONS = {"size": 8, "positives_per_face": 2, "negatives_per_image": 2, "jittered_per_face": 4}
COUNT = 12  # photographs


def pairs(*, first=0, skipped=()):
  """Photographs of 24 pixels; two neighbours show one person, `first` and on."""
  number = np.arange(COUNT)
  return make_photographs(number, first + number // 2, size=24, name="pairs"), ReadReport(
      "pairs", skipped=tuple(skipped))


def ungendered(*, count=8, first=100):
  """Photographs filled with the numbers `first` and on."""
  number = np.arange(first + count)
  known = np.ones((len(number), 5), bool)
  known[:, GENDER] = False
  return make_photographs(number, size=24, name="ungendered", known=known).select(
      number[first:]), None


@pytest.fixture(autouse=True)
def made_sources(monkeypatch):
  monkeypatch.setitem(region_sources.SOURCES, "pairs", pairs)
  monkeypatch.setitem(region_sources.SOURCES, "ungendered", ungendered)


def section(**changes):
  return {"sources": {"one": {"name": "pairs"}}, "regions": dict(REGIONS),
          "proposer": {"name": "random", "count": 30, "scales": [.15, .5], "aspects": [.9, 1.1]},
          "test_fraction": .25, "split": "person"} | changes


def numbers(region_set):
  """Which photographs the regions show; a photograph is filled with its number."""
  return set(region_set.regions.images[:, 0, 0, 0].tolist())


def test_photographs_of_a_person_stay_on_one_side():
  loaded = region_sources.load(section(), 0)
  train, evaluation = numbers(loaded.train), numbers(loaded.evaluation)
  assert train | evaluation == set(range(COUNT)) and not train & evaluation
  assert {n // 2 for n in train}.isdisjoint(n // 2 for n in evaluation)
  assert len(evaluation) in (2, 4, 6)  # whole people of two photographs each
  assert loaded.public is None and loaded.notes == ()
  assert loaded.not_covered == (region_sources.SPLIT_BY_PERSON,)


def test_a_split_by_image_may_part_them():
  parted = [region_sources.load(section(split="image"), seed) for seed in range(4)]
  assert all(numbers(loaded.evaluation) and numbers(loaded.train) for loaded in parted)
  assert any({n // 2 for n in numbers(loaded.train)} & {n // 2 for n in numbers(loaded.evaluation)}
             for loaded in parted)


def test_the_seed_decides_the_split_and_nothing_else():
  first, again, other = (region_sources.load(section(), seed) for seed in (0, 0, 5))
  for left, right in zip(first.train.regions, again.train.regions, strict=True):
    np.testing.assert_array_equal(left, right)
  assert numbers(first.evaluation) != numbers(other.evaluation)
  both = [region_sources._joined([loaded.train, loaded.evaluation]).regions
          for loaded in (first, other)]
  boxes = [{tuple(row) for row in np.column_stack([r.images[:, 0, 0, 0], r.box]).tolist()}
           for r in both]
  assert boxes[0] == boxes[1]


def test_targets_and_face_boxes_belong_to_the_regions():
  train = region_sources.load(section(), 0).train
  assert set(train.targets) == {"face", "landmarks", "visible", "pose", "gender", "known"}
  assert all(len(field) == len(train.images) for field in train.targets.values())
  on_face = train.regions.face == 1
  assert on_face.any() and not on_face.all()
  np.testing.assert_array_equal(train.face_box[on_face], np.tile([4, 4, 8, 8], (on_face.sum(), 1)))
  np.testing.assert_array_equal(train.face_box[~on_face], train.regions.box[~on_face])


def test_a_set_knows_the_frame_of_its_landmarks():
  made = region_sources.load(with_regions(frame="centre") | {
      "public": {"sources": {"other": {"name": "ungendered"}}}}, 0)
  assert [side.frame for side in (made.train, made.evaluation, made.public)] == ["centre"] * 3
  assert region_sources.load(section(), 0).train.frame == "corner"


def test_a_mixture_masks_what_a_source_lacks_and_never_confuses_people():
  both = section(sources={"one": {"name": "pairs"}, "two": {"name": "ungendered", "count": 8}})
  loaded = region_sources.load(both, 0)
  assert loaded.train.name == "pairs+ungendered" and len(loaded.train.photographs) == 2
  for side in (loaded.train, loaded.evaluation):
    own = [len(photographs) for photographs in side.photographs]
    known = side.regions.known[side.regions.face == 1]
    assert known[:, GENDER].any() and not known[:, GENDER].all() and known[:, POSE].all()
    assert len(np.unique(side.regions.image)) == sum(own)
    gendered = {bool(side.regions.known[side.regions.person == person, GENDER].all())
                for person in np.unique(side.regions.person) if person >= 0}
    assert gendered == {True, False}


def test_a_source_may_have_regions_of_its_own():
  own = section(sources={"one": {"name": "pairs"},
                         "two": {"name": "ungendered", "regions": {"negatives_per_image": 0}}})
  train = region_sources.load(own, 0).train
  gendered = train.regions.known[:, GENDER]
  first = train.regions.image <= train.regions.image[gendered].max()
  assert (train.regions.face[~first] == 1).all() and (train.regions.face[first] == 0).any()


def test_a_public_set_is_whole_and_said_to_be_public():
  public = {"sources": {"others": {"name": "ungendered", "count": 5}}}
  loaded = region_sources.load(section(public=public), 0)
  assert loaded.public.name == "ungendered" and numbers(loaded.public) == set(range(100, 105))
  note, unchecked = loaded.notes
  assert unchecked == ("data.public.others (ungendered) and data.sources.one (pairs): "
                       "whether they share a person cannot be checked")
  assert f"ungendered: {len(loaded.public.images)} regions are taken as public" in note
  alone, notes, sentences = region_sources.load_public(section(public=public))
  np.testing.assert_array_equal(alone.images, loaded.public.images)
  assert notes == loaded.notes
  assert (region_sources.SPLIT_BY_PERSON, *sentences) == loaded.not_covered
  assert region_sources.load_public(section()) == (None, (), ())


def test_the_statement_says_that_public_people_may_be_private():
  public = {"sources": {"others": {"name": "ungendered"}}}
  _, sentence = region_sources.load(section(public=public), 0).not_covered
  assert sentence == ("data.public.others (ungendered) and data.sources.one (pairs): "
                      "whether they share a person cannot be checked; whoever is in both is not "
                      "protected on public photographs.")


def test_a_public_photograph_that_is_private_is_refused():
  public = {"sources": {"fine": {"name": "ungendered"},
                        "others": {"name": "ungendered", "first": 10, "count": 3}}}
  with pytest.raises(ValueError, match="photograph 0 of data.public.others is photograph "
                                       "10 of data.sources.one, pixel for pixel"):
    region_sources.load(section(public=public), 0)
  region_sources.load_public(section(public=public))  # of private sources it reads nothing


def test_private_sources_are_of_different_photographs_and_people(tmp_path, monkeypatch):
  both = section(sources={"one": {"name": "pairs"}, "two": {"name": "ungendered"}})
  _, sentence = region_sources.load(both, 0).not_covered
  assert sentence.startswith("data.sources.one, data.sources.two: epsilon assumes that no person")
  both["sources"]["two"]["first"] = 4
  with pytest.raises(ValueError, match="photograph 0 of data.sources.two is photograph 4 of "):
    region_sources.load(both, 0)
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  twice = section(sources={"one": {"name": "utkface"}, "two": {"name": "utkface", "limit": 2}})
  with pytest.raises(ValueError, match="data.sources.one and data.sources.two are both utkface in"):
    region_sources.load(twice, 0)


def test_a_private_set_is_not_public_whatever_it_is_called(tmp_path, monkeypatch):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  both = section(sources={"mine": {"name": "aflw2000"}},
                 public={"sources": {"theirs": {"name": "aflw2000", "limit": 3}}})
  for load in (region_sources.load_public, lambda given: region_sources.load(given, 0)):
    with pytest.raises(ValueError, match="data.public.theirs and data.sources.mine are "
                                         "both aflw2000 in "):
      load(both)


def strangers(*, count=8):
  return dataclasses.replace(ungendered(count=count)[0], name="strangers",
                             persons_known=False), None


def test_it_is_said_where_evaluation_may_show_people_who_train(monkeypatch):
  monkeypatch.setitem(region_sources.SOURCES, "strangers", strangers)
  by_image = region_sources.load(section(split="image"), 0)
  assert by_image.notes == () and by_image.train.persons_known
  assert "evaluation photographs may show people who train" in by_image.not_covered[0]
  assert by_image.evaluates_training_people
  assert not region_sources.load(section(), 0).evaluates_training_people
  both = section(sources={"one": {"name": "pairs"}, "two": {"name": "strangers"}})
  by_person = region_sources.load(both, 0)
  assert by_person.notes == ("strangers: who is who is not known; data.split=person keeps "
                             "photographs apart there, not people",)
  assert by_person.not_covered[1].startswith("strangers: evaluation photographs may show people")
  assert not by_person.train.persons_known and by_person.evaluates_training_people
  assert len(by_person.train.units("image")) == len(by_person.train.images)
  with pytest.raises(ValueError, match="method.units.unit=person: strangers does not say"):
    by_person.train.units("person")


def test_groups_of_regions_share_nobody():
  side = region_sources.load(section(), 0).train
  shown = side.regions.images[:, 0, 0, 0] // 2  # a person is on two neighbours
  assert len(set(side.group)) == len(set(shown)) == len(set(zip(side.group, shown, strict=True)))


def test_what_a_reader_left_out_is_noted():
  bad = [("a.jpg", "not an image")]
  loaded = region_sources.load(section(sources={"one": {"name": "pairs", "skipped": bad}}), 0)
  assert loaded.notes == ("pairs: skipped 1: a.jpg: not an image",)


def test_cached_regions_are_cut_once(tmp_path, monkeypatch):
  cuts = []

  def counted(*args):
    cuts.append(1)
    return regions.extract_regions(*args)

  monkeypatch.setattr(region_sources, "extract_regions", counted)
  cached = section(cache=str(tmp_path / "regions"))
  first, again = (region_sources.load(copy.deepcopy(cached), 0) for _ in range(2))
  assert len(cuts) == 1
  for left, right in zip(first.train.regions, again.train.regions, strict=True):
    np.testing.assert_array_equal(left, right)
  for change in ({"regions": REGIONS | {"size": 9}},
                 {"proposer": {"name": "grid", "scales": [.3, .5]}},
                 {"sources": {"one": {"name": "pairs", "first": 1}}}):
    region_sources.load(cached | change, 0)
  assert len(cuts) == 4
  region_sources.load(cached, 3)  # another split of the same regions
  assert len(cuts) == 4


def test_regions_of_another_data_root_are_cut_again(tmp_path, monkeypatch):
  keys = []
  monkeypatch.setattr(region_sources, "cached_regions",
                      lambda folder, key, make: keys.append(key) or make())
  monkeypatch.setattr(region_sources.face_tasks, "read_aflw2000",
                      lambda root, limit: pairs())
  own = section(cache=str(tmp_path), sources={"one": {"name": "aflw2000"}})
  for root in ("first", "second", "second"):
    monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path / root))
    region_sources.load(own, 0)
  assert keys[0]["place"] == str((tmp_path / "first" / "aflw2000_3d").resolve())
  assert keys[0] != keys[1] == keys[2]


def with_regions(**changes):
  return section(regions=REGIONS | changes)


@pytest.mark.parametrize("wrong, message", [
    (section(sources={}), "data.sources names no source"),
    (section(sources={"one": {"name": "celebs"}}),
     "data.sources.one.name is 'celebs'; expected one of synthetic_scenes, .*celeb_a, the300w_lp"),
    (section(sources={"one": {"name": "pairs", "second": 1}}),
     "data.sources.one.second is not known; accepted: first, skipped"),
    (section(sources={"one": {"name": "synthetic_scenes"}}),
     "data.sources.one.num_scenes is required"),
    (section(sources={"one": {"name": "pairs", "regions": {"sise": 3}}}),
     "data.sources.one.regions.sise is not known; accepted: size, "),
    (section(sources={"one": {"name": "pairs", "regions": {"frame": "centre"}}}),
     "data.sources.one.regions.frame='centre': expected that of data.regions, 'corner'"),
    (with_regions(size=0), "size is 0"),
    (with_regions(positives=2), "regions.positives is not known"),
    (section(regions={"size": 8}), "regions.positives_per_face is required"),
    (section(proposer={"name": "sliding"}), "data.proposer.name is 'sliding'; expected one of"),
    (section(proposer={"name": "random", "counts": 2}), "data.proposer.counts is not known"),
    (section(split="fold"), "data.split='fold': expected one of person, image"),
    (section(folds=3), "data.folds is not known; accepted: sources, regions, "),
    ({k: v for k, v in section().items() if k != "split"}, "data.split is required"),
    (section(public={"sources": {}}), "data.public.sources names no source"),
    (section(public={"name": "pairs"}), "data.public.name is not known; accepted: sources"),
    (section(test_fraction=1.), "test fraction is 1.0"),
])
def test_mistakes_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    region_sources.load(wrong, 0)


@pytest.mark.parametrize("name, options", [("random", {"count": 5}), ("grid", {"scales": [.5]})])
def test_proposers_by_name(name, options):
  propose = region_sources.proposer({"name": name} | options)
  boxes = propose(np.zeros((20, 20, 3), np.uint8), np.random.default_rng(0))
  assert boxes.shape[1] == 4 and len(boxes)


def test_every_reader_says_what_is_not_there(tmp_path, monkeypatch):
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  readers = {name: {} for name in ("aflw2000", "lfw_originals", "lfw_aligned", "utkface", "aflw")}
  readers |= {name: {"data_dir": str(tmp_path)} for name in ("celeb_a", "the300w_lp")}
  readers["listing"] = {"path": str(tmp_path / "list.csv")}
  assert set(readers) | {"synthetic_scenes"} == set(region_sources.SOURCES) - {"pairs",
                                                                               "ungendered"}
  for name, options in readers.items():
    with pytest.raises(FileNotFoundError) as absent:
      region_sources.load(section(sources={"one": {"name": name} | options}), 0)
    assert str(tmp_path) in str(absent.value), name


def test_other_people_of_lfw_are_asked_for_by_name(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(region_sources.face_tasks, "read_lfw_aligned",
                      lambda root, **options: asked.append(options))
  read = region_sources.SOURCES["lfw_aligned"]
  for people in ("all", "others"):
    read(root=str(tmp_path), people=people, limit=3)
  assert asked == [{"limit": 3, "not_in": ""},
                   {"limit": 3, "not_in": "lfw-250x250-originals-600.zip"}]
  with pytest.raises(ValueError, match="people='other': expected all, or others"):
    read(root=str(tmp_path), people="other")


def test_other_photographs_of_a_source_have_other_regions(tmp_path, monkeypatch):
  """As where the files of a source are replaced: the cache must not give back the old ones."""
  asked = section(sources={"pairs": {"name": "pairs"}}, cache=str(tmp_path))
  read = region_sources.SOURCES["pairs"]
  first = region_sources.load(asked, 0).train.images
  again = region_sources.load(asked, 0).train.images
  np.testing.assert_array_equal(first, again)

  def inverted():
    photographs, report = read()
    return dataclasses.replace(photographs, images=255 - photographs.images), report

  monkeypatch.setitem(region_sources.SOURCES, "pairs", inverted)
  assert (region_sources.load(asked, 0).train.images != first).any()


def test_scenes_of_other_worlds_have_other_names(monkeypatch):
  asked = []

  def rendered(*args, **options):
    asked.append((args, options))
    return make_photographs([0, 1], size=24, name="scenes")

  monkeypatch.setattr(region_sources, "synthetic_scenes", rendered)
  options = {"num_scenes": 2, "size": 48, "num_people": 4, "faces": [1, 2], "face_side": [.4, .5],
             "circle": 4}
  names = [region_sources.SOURCES["synthetic_scenes"](seed=seed, **options)[0].name
           for seed in (1, 2)]
  assert names == ["scenes_world1", "scenes_world2"]
  assert asked[0] == ((2, 48, 1), {"num_people": 4, "faces": (1, 2), "face_side": (.4, .5),
                                   "circle": 4})


def test_aflw_goes_from_its_folder_to_regions(tmp_path, monkeypatch):
  made = pytest.importorskip("tests.data.readers.test_aflw_builder")
  monkeypatch.setenv("FEDJAX_FACE_DATA", str(tmp_path))
  made.write(tmp_path / "aflw", made.PHOTOS, made.FACES)
  loaded = region_sources.load(section(sources={"own": {"name": "aflw", "root": ""}}), 0)
  assert loaded.train.name == "aflw"
  assert sum(len(part.photographs[0]) for part in (loaded.train, loaded.evaluation)) == 3
  assert loaded.train.targets["landmarks"].shape[1:] == (21, 2)
  assert not isinstance(loaded.train.photographs[0].images, (list, np.ndarray))  # still encoded


def test_a_limit_on_what_is_read_is_said_in_the_statement():
  """Who leaves the source lets the next one in."""
  said = region_sources._capped({"one": {"name": "scenes"}, "two": {"name": "aflw", "limit": 5}})
  assert len(said) == 1 and said[0].startswith("data.sources.two.limit=5 lets in the first")
