import numpy as np
import pytest

from fedjax_face.data.photographs import split_by_person
from fedjax_face.data.regions.boxes import iou
from fedjax_face.data.rendering.clutter import clutter
from fedjax_face.data.rendering.cutout import cut_out
from fedjax_face.data.rendering.identity import sample_identities
from fedjax_face.data.rendering.synthetic_scenes import synthetic_scenes
from fedjax_face.data.rendering.variation import Variation, sample_shots
from fedjax_face.draws import Draws

SIZE, SEED = 56, 5       # the largest picture of a person is as large, so one size is compiled
SOME = dict(num_people=12, faces=(1, 3), face_side=(.25, .5), circle=4)
STILL = Variation(yaw=0., pitch=0., roll=0., shift=0., scale=0., glasses=0., hat=0., fringe=0.)


@pytest.fixture(scope="module")
def scenes():
  return synthetic_scenes(16, SIZE, SEED, **SOME)


def test_shapes_and_ranges(scenes):
  assert scenes.images.shape == (16, SIZE, SIZE, 3) and scenes.num_landmarks == 21
  faces = np.bincount(scenes.image, minlength=16)
  assert faces.min() >= 1 and faces.max() <= 3 and scenes.num_faces > 20
  assert scenes.known.all() and set(scenes.gender) == {0, 1}
  side = scenes.box[:, 2] / SIZE
  assert side.min() > .24 and side.max() < .52
  np.testing.assert_allclose(scenes.box[:, 2], scenes.box[:, 3], rtol=1e-5)
  centre = scenes.box[:, :2] + .5 * scenes.box[:, 2:]
  assert (centre > 0).all() and (centre < SIZE).all()


def test_scenes_do_not_depend_on_their_number_and_differ_by_seed(scenes):
  few = synthetic_scenes(3, SIZE, SEED, **SOME)
  np.testing.assert_array_equal(few.images, scenes.images[:3])
  for field in ("image", "person", "box", "landmarks", "visible", "pose", "gender"):
    np.testing.assert_array_equal(getattr(few, field), getattr(scenes, field)[:few.num_faces])
  other = synthetic_scenes(3, SIZE, SEED + 1, **SOME)
  assert (np.abs(other.images.astype(int) - few.images).mean((1, 2, 3)) > 5).all()


def test_visible_landmarks_are_in_the_scene_and_near_the_box(scenes):
  seen = scenes.landmarks[scenes.visible]
  assert (seen >= 0).all() and (seen <= SIZE).all()
  relative = (scenes.landmarks - scenes.box[:, None, :2]) / scenes.box[:, None, 2:]
  assert relative.min() > -.35 and relative.max() < 1.35
  assert .5 < scenes.visible.mean() < .95


def test_faces_are_not_hidden_by_each_other(scenes):
  for number in range(len(scenes)):
    boxes = scenes.box[scenes.faces_of(number)]
    assert (iou(boxes, boxes) - np.eye(len(boxes))).max() < .5


def test_people_are_those_of_synthetic_faces(scenes):
  gender = sample_identities(SEED, np.arange(12)).gender
  np.testing.assert_array_equal(scenes.gender, gender[scenes.person])


def test_circles_let_scenes_be_split_by_person(scenes):
  for number in range(len(scenes)):
    person = scenes.person[scenes.faces_of(number)]
    assert len(set(person // 4)) == 1 and len(set(person)) == len(person)
  train, test = split_by_person(scenes, .2, Draws.of(0))
  assert len(train) and len(test)


def test_without_anything_worn_only_people_in_front_hide_features():
  scenes = synthetic_scenes(24, SIZE, 2, **SOME | dict(faces=(4, 4)), variation=STILL)
  features = np.delete(np.arange(21), [12, 16])      # ears may be under hair
  hidden = 0
  for number in range(len(scenes)):
    faces = scenes.faces_of(number)       # from the front to the back
    for row in range(faces.start, faces.stop):
      points = scenes.landmarks[row, features]
      inside = ((points > 0) & (points < SIZE)).all(-1)
      lost = points[inside & ~scenes.visible[row, features]]
      hidden += len(lost)
      front = scenes.box[faces.start:row, None]
      behind = ((np.abs(lost[:, 0] - front[..., 0] - .5 * front[..., 2]) < 1.1 * front[..., 2])
                & (lost[:, 1] > front[..., 1] - .6 * front[..., 3]))
      assert behind.any(0).all()
  assert hidden


def test_cutouts_cover_the_face_and_not_the_corner():
  people = sample_identities(0, np.arange(4))
  shots = sample_shots(0, np.arange(4), np.zeros(4, int), STILL)
  cutouts = cut_out(people, shots._replace(scale=np.float32(.7) * shots.scale), SIZE)
  nose = cutouts.landmarks[:, 14].astype(int)
  assert (cutouts.opacity[np.arange(4), nose[:, 1], nose[:, 0]] > 250).all()
  assert (cutouts.opacity[:, :4, :4] < 20).all() and (cutouts.colour[:, :4, :4] < 20).all()
  assert .2 < (cutouts.opacity > 128).mean() < .8


def test_clutter_is_drawn_from_the_generator():
  first, again, other = (clutter(48, np.random.default_rng(seed)) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert first.shape == (48, 48, 3) and 0 <= first.min() and first.max() <= 255
  assert np.abs(first - other).mean() > 5 and first.std() > 10


@pytest.mark.parametrize("changes, message", [
    (dict(num_scenes=0), "num_scenes must be at least 1"),
    (dict(size=20), "size must be at least 48"),
    (dict(faces=(2, 1)), "fewest <= most"),
    (dict(faces=(1, 5)), r"circle \(4\)"),
    (dict(num_people=3), r"num_people must be at least circle \(4\), got 3"),
    (dict(face_side=(0., .5)), "face_side"),
])
def test_bad_arguments_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    synthetic_scenes(**(dict(num_scenes=1, size=SIZE, seed=0, num_people=8) | changes))
