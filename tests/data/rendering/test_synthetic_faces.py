from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from fedjax_face.data.rendering.geometry import face_field
from fedjax_face.data.rendering.identity import sample_identities
from fedjax_face.data.rendering.landmarks import LANDMARK_NAMES, landmark_points, outline
from fedjax_face.data.rendering.renderer import rotation
from fedjax_face.data.rendering.synthetic_faces import (
  RenderedImages,
  contact_sheet,
  rendered_faces,
  synthetic_faces,
)
from fedjax_face.data.rendering.variation import STREET, STUDIO, Variation, sample_shots
from tests import rendered

SIZE, SEED = 28, 3
FRONTAL = Variation(yaw=0., pitch=0., roll=0., shift=0., scale=0., glasses=0., hat=0., fringe=0.)


@pytest.fixture(scope="module")
def faces():
  return synthetic_faces(6, 10, SIZE, SEED)


@pytest.fixture(scope="module")
def frontal():
  return synthetic_faces(12, 2, SIZE, SEED, variation=FRONTAL)


def test_shapes_types_and_order(faces):
  assert faces.images.shape == (60, SIZE, SIZE, 3) and faces.images.dtype == np.uint8
  np.testing.assert_array_equal(faces.label, np.repeat(np.arange(6), 10))
  np.testing.assert_array_equal(faces.person, faces.label)
  assert faces.landmarks.shape == (60, 21, 2) and faces.visible.shape == (60, 21)
  assert faces.pose.shape == (60, 3) and faces.box.shape == (60, 4)
  assert len(LANDMARK_NAMES) == len(set(LANDMARK_NAMES)) == 21
  for person in range(6):
    assert len(set(faces.gender[faces.person == person])) == 1


def test_skin_tone_is_of_the_person_and_larger_for_darker_skin(faces):
  tone = faces.attributes["skin_tone"]
  assert tone.shape == (60,) and (0 < tone).all() and (tone < 1).all()
  by_person = tone.reshape(6, 10)
  assert (by_person == by_person[:, :1]).all()
  skin = sample_identities(SEED, np.arange(6)).paint.skin
  darkest, fairest = by_person[:, 0].argmax(), by_person[:, 0].argmin()
  assert (skin[darkest] < skin[fairest]).all()
  mean = faces.images.reshape(6, -1).mean(1)
  assert mean[darkest] < mean[fairest]


def test_an_image_depends_on_seed_person_and_number_only(faces):
  later = synthetic_faces(2, 4, SIZE, SEED, first_person=3, workers=1)
  rows = np.concatenate([np.arange(30, 34), np.arange(40, 44)])
  for field in ("images", "landmarks", "visible", "pose", "gender", "box"):
    np.testing.assert_array_equal(getattr(later, field), getattr(faces, field)[rows])


@pytest.mark.parametrize("rows", [
    np.array([[7, 0, 0], [59, 7, 31]]), np.array([], np.int64), slice(58, 60), np.int64(4)])
def test_images_rendered_on_demand_are_those_of_the_whole_set(faces, rows):
  images = RenderedImages(6, 10, SIZE, SEED)
  assert (images.shape, images.dtype, len(images)) == (faces.images.shape, np.uint8, 60)
  np.testing.assert_array_equal(images[rows], faces.images[rows])


def test_people_rendered_on_demand_are_a_data_set_of_the_same_people(faces):
  grey = rendered_faces(3, 10, SIZE, SEED, first_person=2, grayscale=True)
  np.testing.assert_array_equal(grey.label, np.repeat(np.arange(3), 10))
  whole = synthetic_faces(3, 10, SIZE, SEED, first_person=2, grayscale=True)
  np.testing.assert_array_equal(np.asarray(grey.images), whole.images)
  np.testing.assert_array_equal(grey.select(np.array([4, 2])).images, whole.images[[4, 2]])


def test_a_million_people_cost_no_pictures():
  people = rendered_faces(1_000_000, 2, SIZE, SEED, grayscale=True)
  assert people.images.shape == (2_000_000, SIZE, SIZE, 1)
  assert people.images[np.array([1_999_999])].shape == (1, SIZE, SIZE, 1)


def test_in_the_studio_the_same_people_face_the_camera_without_hats():
  person, number = np.repeat(np.arange(40), 5), np.tile(np.arange(5), 40)
  street, studio = (sample_shots(SEED, person, number, domain) for domain in (STREET, STUDIO))
  assert np.rad2deg(abs(studio.pose)).max() <= 15 < np.rad2deg(abs(street.pose)).max()
  assert street.hat.any() and not studio.hat.any()
  assert studio.exposure.std() < .6 * street.exposure.std()
  np.testing.assert_array_equal(street.background, studio.background)
  faces = synthetic_faces(3, 2, SIZE, SEED, variation=STUDIO)
  late = rendered_faces(3, 2, SIZE, SEED, variation=STUDIO)
  np.testing.assert_array_equal(late.images[:], faces.images)
  assert (faces.images != synthetic_faces(3, 2, SIZE, SEED).images).any()
  np.testing.assert_array_equal(faces.gender, synthetic_faces(3, 2, SIZE, SEED).gender)


def test_other_seeds_people_and_numbers_give_other_images(faces):
  other = synthetic_faces(6, 10, SIZE, SEED + 1)
  assert np.all(np.abs(faces.images.astype(int) - other.images).mean((1, 2, 3)) > 2)
  flat = faces.images.reshape(60, -1).astype(int)
  gap = np.abs(flat[:, None] - flat[None]).mean(-1) + 255 * np.eye(60)
  assert gap.min() > 2


def test_people_differ_in_many_dimensions():
  shape = np.stack(sample_identities(0, np.arange(300)).shape, -1)
  spread = (shape - shape.mean(0)) / shape.std(0)
  assert np.linalg.matrix_rank(np.cov(spread.T)) >= 25
  distance = np.linalg.norm(spread[:, None] - spread[None], axis=-1) + 100 * np.eye(300)
  assert distance.min() > 3


def test_frontal_landmarks_are_ordered_and_visible(frontal):
  at = {name: frontal.landmarks[:, i] for i, name in enumerate(LANDMARK_NAMES)}
  left_to_right = ["left_ear", "left_eye_left_corner", "left_eye_centre", "left_eye_right_corner",
                   "nose_centre", "right_eye_left_corner", "right_eye_centre",
                   "right_eye_right_corner", "right_ear"]
  x = np.stack([at[name][:, 0] for name in left_to_right], -1)
  assert np.all(np.diff(x, axis=-1) > 0)
  top_to_bottom = ["left_brow_centre", "left_eye_centre", "nose_centre", "mouth_centre",
                   "chin_centre"]
  y = np.stack([at[name][:, 1] for name in top_to_bottom], -1)
  assert np.all(np.diff(y, axis=-1) > 0)
  centre_line = [LANDMARK_NAMES.index(n) for n in ("nose_centre", "mouth_centre", "chin_centre")]
  np.testing.assert_allclose(frontal.landmarks[:, centre_line, 0], SIZE / 2, atol=1e-3)
  assert np.all(frontal.visible[:, 6:12]) and np.all(frontal.visible[:, 17:20])


def test_landmarks_lie_on_the_surface_of_the_head():
  people = sample_identities(SEED, np.arange(50))
  shots = sample_shots(SEED, np.arange(50), np.zeros(50, int), Variation())
  points = landmark_points(people.shape, shots, *outline(people.shape, shots))
  assert np.abs(jax.vmap(face_field)(people.shape, shots, points)).max() < 1e-3


def test_the_pupil_is_where_the_landmark_says():
  close = synthetic_faces(4, 4, 128, SEED, variation=FRONTAL)
  darker = []
  for image, (x, y) in zip(close.images.astype(float).mean(-1),
                           np.floor(close.landmarks[:, 7]).astype(int), strict=True):
    cheek = image[y + 16:y + 20, x - 2:x + 3].mean()
    darker.append(image[y - 3:y + 4, x - 3:x + 4].min() < .7 * cheek)
  assert np.mean(darker) > .8


def test_turned_heads_hide_the_far_side():
  turned = synthetic_faces(60, 2, SIZE, SEED, variation=dataclasses.replace(FRONTAL, yaw=45.))
  yaw = turned.pose[:, 2]
  nose_from_eyes = turned.landmarks[:, 14, 0] - turned.landmarks[:, [7, 10], 0].mean(-1)
  far = np.abs(yaw) > np.deg2rad(20)
  np.testing.assert_array_equal(np.sign(nose_from_eyes[far]), -np.sign(yaw[far]))
  far_ear = np.where(yaw > 0, turned.visible[:, 12], turned.visible[:, 16])
  assert not far_ear[np.abs(yaw) > np.deg2rad(30)].any()


def test_dark_lenses_and_the_image_border_hide_landmarks(faces):
  worn = synthetic_faces(20, 2, SIZE, SEED, variation=dataclasses.replace(FRONTAL, glasses=1.))
  eyes = worn.visible[:, 6:12]
  hidden = ~eyes.any(-1)
  assert 0 < hidden.mean() < .5 and np.all(eyes[~hidden])
  inside = np.all((faces.landmarks >= 0) & (faces.landmarks < SIZE), -1)
  assert not np.any(faces.visible & ~inside)


def test_rotation_signs_and_handedness():
  nose, right = np.array([0, 0, 1.]), np.array([1., 0, 0])
  turn = np.asarray(rotation(np.float32([.2, .3, .4])))
  np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
  assert np.linalg.det(turn) == pytest.approx(1)
  assert np.asarray(rotation(np.float32([0, .3, 0])) @ nose)[1] > 0
  assert np.asarray(rotation(np.float32([0, 0, .3])) @ nose)[0] < 0
  assert np.asarray(rotation(np.float32([.3, 0, 0])) @ right)[1] < 0


def test_mirroring_a_head_changes_the_signs_of_roll_and_yaw():
  mirror = np.diag([-1., 1, 1])
  turn, turned_back = rotation(np.float32([.2, .3, .4])), rotation(np.float32([-.2, .3, -.4]))
  np.testing.assert_allclose(mirror @ turn @ mirror, turned_back, atol=1e-6)


def test_the_box_holds_the_inner_landmarks(faces):
  x, y, w, h = faces.box.T[:, :, None]
  inner = np.r_[6:12, 13:16, 17:20]
  px, py = faces.landmarks[:, inner, 0], faces.landmarks[:, inner, 1]
  assert np.all((px > x) & (px < x + w) & (py > y) & (py < y + h))
  np.testing.assert_allclose(faces.box[:, 2], faces.box[:, 3])


def test_small_grey_images_have_the_grey_of_the_colour_ones():
  grey = synthetic_faces(2, 3, SIZE, SEED, grayscale=True)
  colour = synthetic_faces(2, 3, SIZE, SEED)
  assert grey.images.shape == (6, SIZE, SIZE, 1)
  luma = colour.images @ np.array([.299, .587, .114])
  assert np.abs(luma - grey.images[..., 0]).max() <= .51


@pytest.mark.parametrize("arguments, message", [
    (dict(num_people=0), "num_people"), (dict(images_per_person=0), "images_per_person"),
    (dict(size=27), "size"), (dict(size=228), "size"), (dict(seed=-1), "seed"),
    (dict(first_person=-1), "first_person"), (dict(workers=0), "workers")])
def test_bad_arguments_are_named(arguments, message):
  good = dict(num_people=1, images_per_person=1, size=28, seed=0)
  with pytest.raises(ValueError, match=message):
    synthetic_faces(**(good | arguments))


def test_contact_sheet_places_images_row_by_row():
  images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 2, 1), np.uint8)
  sheet = contact_sheet(images, 2)[..., 0]
  np.testing.assert_array_equal(sheet, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 0, 0], [2, 2, 0, 0]])
  with pytest.raises(ValueError, match="columns"):
    contact_sheet(images, 0)
  with pytest.raises(ValueError, match="images"):
    contact_sheet(images[0], 1)


def test_where_jax_knows_no_processor_pictures_are_the_same(monkeypatch):
  """As with JAX_PLATFORMS=cuda, where they are rendered on the device."""
  render = lambda: rendered.render(np.zeros(2, int), np.arange(2), SIZE, SEED, True, 1, STREET)[0]
  before = render()
  def no_processor(**_):
    raise RuntimeError("Unknown backend cpu")
  monkeypatch.setattr(jax, "local_devices", no_processor)
  np.testing.assert_array_equal(render().image, before.image)
