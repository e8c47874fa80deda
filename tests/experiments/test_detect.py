"""Files in, JSON and pictures out, with a network that finds bright squares."""

import json
import os

import numpy as np
import pytest
from PIL import ExifTags, Image

from experiments import detect
from fedjax_face.data.regions.proposals import grid_proposer
from fedjax_face.evaluation.detection import DetectionOptions, eyes_rule
from fedjax_face.models.hyperface import TaskOutputs
from fedjax_face.runs import detect as detection
from fedjax_face.runs import detector
from fedjax_face.runs.face_tasks import Detector

OPTIONS = DetectionOptions(size=16, batch_size=8, refinements=0)
PROPOSER = grid_proposer((.5,), stride=1.)
BOX_RULE = eyes_rule(0, 1)
POINTS = np.array([[.3, .4], [.7, .4], [.5, .6], [.35, .8], [.65, .8]], np.float32)


class BrightSquares:
  """A region is a face where it is white; notes the shapes that it is called with."""

  def __init__(self):
    self.shapes = set()

  def __call__(self, images):
    self.shapes.add(images.shape)
    count, white = len(images), images.mean((1, 2, 3)) > 200
    score = np.where(white, 4., -4.)
    return TaskOutputs(
        detection=np.stack([0 * score, score], -1), landmarks=np.tile(POINTS, (count, 1, 1)),
        visibility=np.ones((count, 5)), pose=np.full((count, 3), .1),
        gender=np.stack([np.zeros(count), np.ones(count)], -1))


@pytest.fixture
def squares(monkeypatch):
  """Replaces the network of a run; gives the one that was loaded."""
  network = BrightSquares()
  monkeypatch.setattr(detector, "load_detector",
                      lambda workdir: Detector(network, PROPOSER, BOX_RULE, OPTIONS))
  return network


def write(path, *faces, size=(64, 64), **options):
  """A dark picture (width, height) with white squares of half its side at (column, row)."""
  pixels = np.zeros((size[1], size[0], 3), np.uint8)
  side = min(size) // 2
  for column, row in faces:
    pixels[row * side:(row + 1) * side, column * side:(column + 1) * side] = 255
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels).save(path, **options)
  return path


def run(tmp_path, *arguments):
  return detect.main([f"--workdir={tmp_path / 'run'}", "--compilation_cache=off",
                      *map(str, arguments)])


def test_a_photograph_gives_json_and_a_picture(tmp_path, squares, capsys):
  photo = write(tmp_path / "photo.png", (1, 0))
  assert run(tmp_path, photo) == 0
  found = json.loads((tmp_path / "run/detections/photo.png.json").read_text())
  assert (found["image"], found["width"], found["height"]) == (str(photo), 64, 64)
  (face,) = found["faces"]
  np.testing.assert_allclose(face["box"], [32, 0, 32, 32], atol=1e-4)
  np.testing.assert_allclose(face["landmarks"], POINTS * 32 + [32, 0], rtol=1e-5)
  assert face["score"] == pytest.approx(1 / (1 + np.exp(-4)), rel=1e-5)
  assert face["female"] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-5)
  assert face["visibility"] == [1.] * 5 and face["pose"] == pytest.approx([.1] * 3)
  with Image.open(tmp_path / "run/detections/photo.png.png") as drawn:
    assert drawn.width == drawn.height
  assert capsys.readouterr().out.startswith(f"{photo}: 1 face, ")
  assert squares.shapes == {(8, 16, 16, 3)}


def test_a_folder_is_searched_and_no_face_is_said(tmp_path, squares, capsys):
  write(tmp_path / "in/b/none.png")
  write(tmp_path / "in/a.JPG", (0, 0), (1, 1))
  (tmp_path / "in/notes.txt").write_text("no image")
  out = tmp_path / "in/found"
  for _ in range(2):  # the second time the drawn pictures are there
    assert run(tmp_path, f"--out={out}", tmp_path / "in") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "a.JPG: 2 faces, " in lines[0] and "none.png: no face found, " in lines[1]
  assert json.loads((out / "b/none.png.json").read_text())["faces"] == []
  assert (out / "b/none.png.png").exists()
  assert len(json.loads((out / "a.JPG.json").read_text())["faces"]) == 2


def test_flags_may_follow_and_several_things_keep_apart(tmp_path, squares):
  for folder in ("one", "two"):
    write(tmp_path / folder / "x.png", (0, 0))
  out = tmp_path / "out"
  assert run(tmp_path, tmp_path / "one", tmp_path / "two", f"--out={out}") == 0
  assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.json")) == [
      "one/x.png.json", "two/x.png.json"]


def test_python_is_given_what_was_found(tmp_path, squares):
  photo, said, wrong = write(tmp_path / "photo.png", (1, 0)), [], []
  (tmp_path / "junk.jpg").write_bytes(b"junk")
  found = detection.detect(tmp_path / "run", [photo, tmp_path / "junk.jpg"], tmp_path / "out",
                           say=said.append, complain=wrong.append)
  (face,) = found.faces.pop(photo)
  np.testing.assert_allclose(face.box, [32, 0, 32, 32], atol=1e-4)
  assert not found.faces and len(said) == 1 and wrong == [f"error: {found.mistakes[0]}"]
  assert (tmp_path / "out/photo.png.json").exists() and not (tmp_path / "run").exists()


def test_bad_images_are_named_and_do_not_stop_the_others(tmp_path, squares, capsys):
  folder = tmp_path / "in"
  write(folder / "good.png", (0, 0))
  write(folder / "small.png", size=(40, 15))
  (folder / "junk.jpg").write_bytes(b"junk")
  (folder / "empty.png").write_bytes(b"")
  cut = write(folder / "cut.png", (0, 0)).read_bytes()
  (folder / "cut.png").write_bytes(cut[:len(cut) // 2])
  assert run(tmp_path, folder) == 2
  said = capsys.readouterr()
  assert [line.split(": ")[0] for line in said.out.splitlines()] == [str(folder / "good.png")]
  wrong = said.err.splitlines()
  assert len(wrong) == 4 and all(line.startswith("error: ") for line in wrong)
  assert f"error: {folder / 'small.png'}: 40 x 15 pixels; expected at least 16 x 16" in said.err
  assert "junk.jpg: not an image" in said.err and "empty.png: empty file" in said.err
  assert "cut.png: broken image" in said.err
  assert [p.name for p in (tmp_path / "run/detections").glob("*.json")] == ["good.png.json"]


@pytest.mark.parametrize("arguments, message", [
    ([], "no photograph given"),
    (["absent.jpg"], "absent.jpg: no such file or folder"),
    (["empty"], "empty: no image in this folder; expected BMP, "),
    (["photo.png", "other/photo.png"], "would both be written to"),
    (["photo.png", "--oot=x"], "oot"),
])
def test_mistakes_are_one_line(tmp_path, squares, capsys, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "empty").mkdir()
  for name in ("photo.png", "other/photo.png"):
    write(tmp_path / name)
  assert run(tmp_path, *arguments) == 2
  said = capsys.readouterr().err.strip().splitlines()
  assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]
  assert not squares.shapes


def test_every_picture_of_a_folder_is_read_or_named(tmp_path, squares, capsys):
  folder = tmp_path / "in"
  write(folder / "a\n.png", (0, 0))
  write(folder / "plain.png", (0, 0)).rename(folder / "plain")
  write(folder / ".hidden.png")
  write(folder / "@eaDir" / "plain.png")
  (folder / "loop").symlink_to(".")
  (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(16))
  (folder / "logo.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
  (folder / "README").write_text("no picture")
  os.mkfifo(folder / "pipe.jpg")
  assert run(tmp_path, folder) == 2
  said = capsys.readouterr()
  assert [line.split(": ")[0] for line in said.out.splitlines()] == [
      str(folder / r"a\n.png"), str(folder / "plain")]
  assert [line.removeprefix(f"error: {folder}/").partition("; ")[0]
          for line in said.err.splitlines()] == [
      "logo.png: PostScript is not read", "phone.heic: HEIC is not read",
      "pipe.jpg: no regular file"]


def test_a_link_to_itself_costs_itself_only(tmp_path, squares, capsys):
  folder = tmp_path / "in"
  write(folder / "a.png", (0, 0))
  (folder / "round.png").symlink_to("round.png")
  assert run(tmp_path, folder) == 2
  said = capsys.readouterr()
  assert said.out.startswith(f"{folder}/a.png: ") and "symbolic links" in said.err


def test_no_photograph_is_the_current_folder(tmp_path, squares, capsys):
  assert run(tmp_path, "") == 2
  assert "a photograph is empty; expected the name of a file or folder" in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_faces_on_a_large_photograph_are_in_pixels_of_the_file(tmp_path, squares, monkeypatch,
                                                               ending):
  monkeypatch.setattr(detection, "_MOST_PIXELS", 64 * 64)
  photo = write(tmp_path / f"photo.{ending}", (1, 0), size=(256, 256))
  assert detection.read_upright(photo, 16).image.shape == (64, 64, 3)
  (face,) = detection.detect(tmp_path / "run", photo, tmp_path / "out").faces[photo]
  np.testing.assert_allclose(face.box, [128, 0, 128, 128], atol=1e-3)
  np.testing.assert_allclose(face.landmarks, POINTS * 128 + [128, 0], rtol=1e-4)
  found = json.loads((tmp_path / f"out/photo.{ending}.json").read_text())
  assert (found["width"], found["height"]) == (256, 256) and found["faces"][0]["box"][2] > 127


def test_a_run_is_required(capsys):
  assert detect.main(["photo.png"]) == 2
  assert "--workdir is required" in capsys.readouterr().err


def test_a_photograph_twice_is_found_once_the_same(tmp_path, squares):
  first, second = (write(tmp_path / "in" / name, (0, 1)) for name in ("a.png", "b.png"))
  assert run(tmp_path, first.parent) == 0
  faces = [json.loads((tmp_path / f"run/detections/{path.name}.json").read_text())["faces"]
           for path in (first, second)]
  assert faces[0] == faces[1] != []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_the_camera_says(tmp_path, orientation):
  upright = np.zeros((16, 24, 3), np.uint8)
  upright[:8, :8] = 255
  stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
            5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(
                1, 0, 2), 8: np.rot90(upright, -1)}[orientation]
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "turned.png", exif=exif)
  np.testing.assert_array_equal(detection.read_upright(tmp_path / "turned.png", 16).image, upright)


def test_a_broken_orientation_leaves_the_photograph_as_it_is(tmp_path):
  pixels = np.zeros((16, 24, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "photo.jpg", exif=b"Exif\x00\x00junk that is no TIFF")
  assert detection.read_upright(tmp_path / "photo.jpg", 16).image.shape == (16, 24, 3)
