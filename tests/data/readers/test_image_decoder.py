import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from fedjax_face.data.readers import file_bytes, image_decoder
from fedjax_face.data.readers.image_decoder import check_whole, decode_image, image_size, is_image
from fedjax_face.data.sources import data_root
from tests.data.readers.pictures import FORMS, SIDE, drawn, grey, png, saved, turned

COLOUR = Image.fromarray(drawn())


@pytest.mark.parametrize("name", FORMS)
def test_every_form_shows_the_picture_upright(name):
  content, shown, tolerance = FORMS[name]
  pixels = decode_image(content)
  assert pixels.dtype == np.uint8 and pixels.shape == (SIDE, 24, 3)
  np.testing.assert_allclose(pixels.astype(int), shown, atol=tolerance)
  shades = decode_image(content, channels=1)
  expected = np.asarray(Image.fromarray(shown).convert("L"))[..., None]
  np.testing.assert_allclose(shades.astype(int), expected, atol=tolerance + 1)
  assert image_size(content) == (24, SIDE) and is_image(content)
  check_whole(content)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_pixels_as_stored_are_turned_neither_by_us_nor_by_pillow(kind, orientation):
  content = turned(orientation, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else
                                         {"lossless": True} if kind == "WEBP" else {}))
  stored, upright = decode_image(content, upright=False), decode_image(content)
  np.testing.assert_allclose(upright.astype(int), drawn(), atol=8)
  transpose = image_decoder._UPRIGHT.get(orientation)
  again = Image.fromarray(stored) if transpose is None else Image.fromarray(stored).transpose(
      transpose)
  np.testing.assert_array_equal(np.asarray(again), upright)
  assert stored.shape[:2] == ((24, SIDE) if orientation >= 5 else (SIDE, 24))
  assert image_size(content, upright=False) == stored.shape[1::-1]


def _black(side):
  """A valid PNG in black and white of side x side pixels and few bytes."""
  return png(np.zeros((side, side // 8), np.uint8), 1, 0, (side, side))


REFUSED = {
    "nothing": (b"", "empty file"),
    "text": (b"Not found", "not an image"),
    "a web page": (b"<html></html>", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not read; save it as BMP"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript is not read"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(16), "HEIC is not read"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(16), "AVIF is not read"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not read"),
    "half a jpeg": (saved(COLOUR, "JPEG")[:-200], "broken image"),
    "half a png": (saved(COLOUR, "PNG")[:-40], "broken image"),
    "half a tiff": (saved(COLOUR, "TIFF")[:700], "broken image"),
    "half a webp": (saved(COLOUR, "WEBP")[:-20], "broken image"),
    "a header of a jpeg": (b"\xff\xd8\xff\xe0", "broken image"),
    "a large png without pixels": (
        png(np.zeros((1, 1), np.uint8), 8, 0, (30_000, 30_000)), "30000 x 30000 pixels; expected"),
    "floats beyond 1": (saved(Image.fromarray(grey().astype(np.float32)), "TIFF"),
                        "floats that are not all from 0 to 1"),
    "floats that are no numbers": (
        saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "floats that are not"),
    "integers of 32 bits": (
        saved(Image.fromarray(grey().astype(np.int32) << 20), "TIFF"), "integers of 32 bits"),
    "another colour space": (
        saved(Image.fromarray(drawn(), "LAB"), "TIFF"), "colours of the kind LAB")}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_in_one_line(name, monkeypatch):
  def start(*arguments, **options):
    raise AssertionError("a program was started for an image")

  monkeypatch.setattr(subprocess, "Popen", start)
  content, message = REFUSED[name]
  for read in (decode_image, check_whole):
    with pytest.raises(ValueError, match=message) as error:
      read(content)
    assert "\n" not in str(error.value)


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
  content = _black(13_000)
  assert len(content) < 100_000 and not decode_image(_black(800)).any()
  monkeypatch.setattr(image_decoder, "eight_bits", None)
  for read in (decode_image, image_size, check_whole):
    with pytest.raises(ValueError, match="13000 x 13000 pixels; expected at most 89,000,000"):
      read(content)


def test_more_bytes_than_an_image_may_have_are_refused(monkeypatch):
  monkeypatch.setattr(image_decoder, "MOST_IMAGE_BYTES", 100)
  with pytest.raises(ValueError, match="more than 100 bytes"):
    decode_image(saved(COLOUR, "BMP"))
  assert file_bytes.words(256 * 2**20) == "256 MiB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("most, size", [(None, (64, 48)), (3072, (64, 48)), (3071, (32, 24)),
                                        (100, (11, 8)), (1, (1, 1))])
def test_a_large_image_is_made_smaller_by_a_whole_number(kind, most, size):
  content = saved(COLOUR.transpose(Image.Transpose.ROTATE_90).resize((64, 48)), kind)
  height, width = decode_image(content, most_pixels=most).shape[:2]
  assert (width, height) == size if kind == "PNG" or not most or most > 100 else (
      0 < width * height <= most)


@pytest.mark.filterwarnings("ignore")  # Pillow's, about notes beside the pixels
def test_damage_gives_pixels_or_one_line_and_nothing_else():
  rng = np.random.default_rng(0)
  for content, *_ in FORMS.values():
    for _ in range(12):
      damaged = bytearray(content)
      for place in rng.integers(2, len(damaged), 4):
        damaged[place] = rng.integers(256)
      damaged = bytes(damaged[:rng.integers(8, len(damaged) + 1)])
      for read in (decode_image, image_size, check_whole):
        try:
          read(damaged)
        except ValueError as error:
          assert "\n" not in str(error)


@pytest.mark.parametrize("notes", [b"", b"eXIf"])
def test_broken_pixels_are_found_wherever_the_notes_of_a_png_are(notes):
  content = turned(6, "PNG") if notes else saved(COLOUR, "PNG")
  start = content.index(b"IDAT") + 4
  broken = content[:start + 4] + bytes(9) + content[start + 13:]
  with pytest.raises(ValueError, match="broken image"):
    decode_image(broken)


@pytest.mark.parametrize("kind, cut", [("JPEG", 1), ("JPEG", 100), ("PNG", 9), ("PNG", 100)])
def test_what_is_cut_off_is_found_without_its_pixels(kind, cut, monkeypatch):
  content = saved(Image.effect_noise((64, 64), 90), kind)
  monkeypatch.setattr(image_decoder, "eight_bits", None)
  check_whole(content)
  check_whole(content + b"a film that a telephone appends" * 1000)
  with pytest.raises(ValueError, match="cut off"):
    check_whole(content[:-cut])


def test_the_given_cases_are_read_right():
  cases = data_root().parent / "cases"
  if not (cases / "image-forms.json").exists():
    pytest.skip("no cases/image-forms beside the data folder")
  told = json.loads((cases / "image-forms.json").read_text())

  def right(name, case):
    try:
      pixels = decode_image((cases / "image-forms" / name).read_bytes())
    except ValueError:
      return "refuse" in (case["expect"], case["may"])
    return case["expect"] == "pixels" and any(
        all(np.abs(pixels[top:bottom, left:right].mean((0, 1)) - reading[probe]).max()
            <= case["tolerance"] for probe, (left, top, right, bottom) in told["probes"].items())
        for reading in case["readings"].values())

  assert not [name for name, case in told["files"].items() if not right(name, case)]


def test_damage_inside_a_png_is_seen_without_decoding_those_that_are_whole(monkeypatch):
  content = bytearray(saved(COLOUR, "PNG"))
  at = content.index(b"IDAT") - 4
  end = at + 8 + int.from_bytes(content[at:at + 4], "big")
  damaged, of_another_sum = bytearray(content), bytearray(content)
  damaged[(at + end) // 2] ^= 255
  of_another_sum[end] ^= 255
  with pytest.raises(ValueError, match="broken image"):
    check_whole(bytes(damaged))
  check_whole(bytes(of_another_sum))  # whose pixels are read all the same
  np.testing.assert_array_equal(decode_image(bytes(of_another_sum)), decode_image(bytes(content)))
  monkeypatch.setattr(image_decoder, "decode_image", None)
  check_whole(bytes(content))
