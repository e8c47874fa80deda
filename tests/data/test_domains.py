"""What rendered photographs are like, as parts of a config."""

import dataclasses

import numpy as np
import pytest

import fedjax_face as ff
from fedjax_face.data import public_sets, sources
from fedjax_face.data.rendering.identity import sample_identities
from fedjax_face.data.rendering.synthetic_faces import coarse
from fedjax_face.data.rendering.variation import STREET, STUDIO, Variation, sample_shots
from fedjax_face.options import OptionError

PEOPLE, NUMBERS = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)


def test_defaults_are_the_named_ranges():
  assert ff.domains.street().variation == STREET and ff.domains.studio().variation == STUDIO
  assert set(dataclasses.asdict(STREET)) == set(ff.domains.street().variation.__dict__)


@pytest.mark.parametrize("changed,field,largest", [
    (dict(noise=.1), "noise", .1), (dict(blur=.8), "blur", .8),
    (dict(resolution=.3), "resolution", 1)])
def test_a_range_widens_what_is_drawn_and_nothing_else(changed, field, largest):
  plain, other = (sample_shots(1, PEOPLE, NUMBERS, of) for of in (STREET, Variation(**changed)))
  for name, before, after in zip(plain._fields, plain, other, strict=True):
    if name != field:
      np.testing.assert_array_equal(before, after)
  drawn = getattr(other, field)
  assert not np.array_equal(drawn, getattr(plain, field)) and .8 * largest < drawn.max() <= largest


def test_people_are_of_the_tone_and_age_that_is_asked_for():
  everybody = sample_identities(1, np.arange(60))
  fair = sample_identities(1, np.arange(60), skin_tone=(0., .2), age=(0., .3))
  old = sample_identities(1, np.arange(60), age=(.7, 1.))
  assert fair.paint.skin.mean() > 1.3 * everybody.paint.skin.mean()
  assert fair.paint.wrinkles.mean() < everybody.paint.wrinkles.mean() < old.paint.wrinkles.mean()
  np.testing.assert_array_equal(fair.shape.nose_out, everybody.shape.nose_out)


def test_a_coarse_camera_loses_what_is_fine_and_keeps_the_rest():
  images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
  images[..., :14, :] //= 4
  seen = coarse(images, np.array([1., .5, .25]))
  np.testing.assert_array_equal(seen[0], images[0])
  rough = np.abs(np.diff(seen.astype(int), axis=1)).mean((1, 2, 3))
  assert rough[0] > 1.5 * rough[1] > 2 * rough[2]
  assert (seen[2, :, :12].mean() < 50) and (seen[2, :, 16:].mean() > 100)
  assert coarse(images, np.ones(3)) is images


@pytest.mark.parametrize("options,words", [
    (dict(skin_tone=(.5, .2)), "skin_tone=.*two numbers, 0 <= least"), (dict(age=(.1,)), "age="),
    (dict(yaw=120.), "yaw=120"), (dict(resolution=0.), "resolution=0")])
def test_ranges_that_are_none_are_refused(options, words):
  with pytest.raises(OptionError, match=words):
    ff.domains.street(**options)


def test_both_sides_of_a_set_have_domains_of_their_own(monkeypatch):
  asked = []
  from fedjax_face.data.rendering import synthetic_faces
  def render(people, each, size, seed, *, variation, **others):
    asked.append((seed, variation))
    person = np.repeat(np.arange(people, dtype=np.int32), each)
    return ff.FaceDataset("made", np.zeros((len(person), size, size, 1), np.uint8), person, person)
  monkeypatch.setattr(synthetic_faces, "synthetic_faces", render)
  data = ff.synthetic_faces(people=2, evaluation=2, public=2, domain=ff.domains.street(yaw=60.),
                            public_domain="street")
  assert data.sources.public.name.endswith("world2") and asked == [
      (0, Variation(yaw=60.)), (0, Variation(yaw=60.)), (2, STREET)]
  del asked[:]
  section = public_sets.synthetic_faces(people=2, domain=ff.domains.studio(noise=.05)).section
  assert sources.whole_set("data.public", dict(section))[0].name.endswith("_studio")
  assert asked[0][1] == dataclasses.replace(STUDIO, noise=.05)
