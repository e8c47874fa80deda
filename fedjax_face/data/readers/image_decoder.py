"""One encoded image to uint8 pixels: the one decoder of all readers and of `detect`.

Read are BMP, GIF, JPEG, PNG, PBM with its family, TIFF and WebP, told by their first bytes and not
by the name of the file; nothing else of Pillow is started, so no file is run as a program
(PostScript). Of an animation or a stack the first picture counts.

Pixels stand upright, as the camera says in EXIF. Sets whose boxes and landmarks were marked on the
pixels as stored ask for these (`upright=False`): picture and marks are then turned neither.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import (
  BmpImagePlugin,
  ExifTags,
  GifImagePlugin,
  Image,
  ImageFile,
  JpegImagePlugin,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

from fedjax_face.data.readers.colour import eight_bits
from fedjax_face.data.readers.file_bytes import MOST_IMAGE_BYTES, words

FORMATS = "BMP, GIF, JPEG, PNG, PPM, TIFF or WebP"

MOST_PIXELS = 89_000_000
"""Of an image as stored; one with more is not decoded."""

_MODES = {1: "L", 3: "RGB"}
_OPENERS: Sequence[tuple[tuple[bytes, ...], Callable[[io.BytesIO], ImageFile.ImageFile]]] = (
    ((b"\xff\xd8\xff",), JpegImagePlugin.JpegImageFile),
    ((b"\x89PNG\r\n\x1a\n",), PngImagePlugin.PngImageFile),
    ((b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    ((b"RIFF",), WebPImagePlugin.WebPImageFile),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImagePlugin.TiffImageFile),
    (tuple(b"P%d" % number for number in range(1, 7)) + (b"Pf",), PpmImagePlugin.PpmImageFile),
    ((b"BM",), BmpImagePlugin.BmpImageFile))
_NOT_READ = (
    (b"ftypavi", 4, "AVIF"), (b"ftyphe", 4, "HEIC"), (b"ftypmif1", 4, "HEIC"), (b"8BPS", 0, "PSD"),
    (b"jP  ", 4, "JPEG 2000"), (b"\xff\x4f\xff\x51", 0, "JPEG 2000"), (b"JXL ", 4, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"), (b"%!", 0, "PostScript"), (b"%PDF", 0, "PDF"), (b"<svg", 0, "SVG"))
_NOTES_OF_PNG = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_UPRIGHT = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90}
_STORED = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def decode_image(content: bytes, size: int | None = None, channels: int = 3, *,
                 upright: bool = True, most_pixels: int | None = None) -> np.ndarray:
  """Decodes one image.

  Args:
    content: the bytes of the file.
    size: height and width to scale to (the aspect ratio is not kept); None = as stored.
    channels: 1 (grey) or 3 (RGB).
    upright: turned as EXIF says; False = the pixels as stored, for those who have marks on them.
    most_pixels: an image with more is made smaller by a whole number until it has no more.

  Returns:
    uint8 [H, W, channels].

  Raises:
    ValueError: the bytes are no image that is read, are cut off, or hold too many pixels.
  """
  if channels not in _MODES:
    raise ValueError(f"channels is {channels}; expected 1 or 3")
  with _opened(content) as image:
    try:
      turn = _orientation(image)
      if size is not None:
        image.draft(None, (size, size))  # JPEG: decoded small, for a share of time and memory
      elif (factor := _reduction(image.size, most_pixels)) > 1:
        image.draft(None, (max(image.width // factor, 1), max(image.height // factor, 1)))
      image.load()
      pixels = eight_bits(image, _MODES[channels])
      if size is None:
        pixels = pixels.reduce(_reduction(pixels.size, most_pixels))
      pixels = _turned(pixels, turn, image.format == "TIFF", upright)
    except ValueError:
      raise
    except Exception as error:  # a hostile file can raise anything
      raise _broken(error) from None
  if size is not None and pixels.size != (size, size):
    pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
  return np.asarray(pixels, np.uint8).reshape(pixels.height, pixels.width, channels)


def image_size(content: bytes, *, upright: bool = True) -> tuple[int, int]:
  """(width, height) that `decode_image` gives, from the header of an image.

  Raises:
    ValueError: the bytes are no image that is read, or hold too many pixels.
  """
  with _opened(content) as image:
    if image.format == "PNG" and not any(note in content for note in _NOTES_OF_PNG):
      return image.size
    try:
      lies = _orientation(image) >= 5
    except Exception as error:  # a hostile file can raise anything
      raise _broken(error) from None
    turned = lies and upright != (image.format == "TIFF")  # whose size Pillow has turned
    return (image.height, image.width) if turned else image.size


def check_whole(content: bytes) -> None:
  """Refuses an image that is cut off or damaged, before anybody needs its pixels.

  Of a JPEG the segments, and of a PNG the chunks with their check sums, are read up to the mark of
  the end, which takes a small share of the time; others are decoded, as is a PNG with a wrong sum,
  which may be whole all the same. Damage inside the coded pixels of a JPEG is not seen.

  Raises:
    ValueError: the bytes are no image that is read, are cut off, or hold too many pixels.
  """
  with _opened(content) as image:
    has_end = {"JPEG": _jpeg_has_end, "PNG": _png_has_end}.get(image.format or "")
  if has_end is not None and not has_end(content):
    raise ValueError("broken image (it is cut off)")
  if has_end is None or (has_end is _png_has_end and not _png_sums_fit(content)):
    decode_image(content)


def is_image(head: bytes) -> bool:
  """Whether the first bytes of a file are those of an image that is read."""
  return any(head.startswith(starts) for starts, _ in _OPENERS)


def _opened(content: bytes) -> ImageFile.ImageFile:
  """An image whose header is read."""
  if not content:
    raise ValueError("empty file")
  if len(content) > MOST_IMAGE_BYTES:
    raise ValueError(f"more than {words(MOST_IMAGE_BYTES)}")
  opener = next((opener for starts, opener in _OPENERS if content.startswith(starts)), None)
  if opener is None:
    other = next((name for start, at, name in _NOT_READ if content.startswith(start, at)), "")
    raise ValueError(f"{other} is not read; save it as {FORMATS}" if other else "not an image")
  try:
    image = opener(io.BytesIO(content))
  except Exception as error:  # a hostile file can raise anything
    raise _broken(error) from None
  if not 0 < image.width * image.height <= MOST_PIXELS:
    image.close()
    raise ValueError(f"{image.width} x {image.height} pixels; expected at most {MOST_PIXELS:,}")
  return image


def _broken(error: Exception) -> ValueError:
  """What is said of an image that cannot be decoded."""
  return ValueError(f"broken image ({' '.join(str(error).split()) or type(error).__name__})")


def _orientation(image: ImageFile.ImageFile) -> int:
  """How the camera was held, as EXIF numbers it; 1, upright, where that cannot be read.

  The notes of a PNG may follow its pixels, which Pillow would decode here without an error.
  """
  if image.format == "PNG":
    image.load()
  try:
    found = image.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # a broken note beside a good picture
    return 1
  return found if isinstance(found, int) and found in _UPRIGHT else 1


def _turned(pixels: Image.Image, turn: int, turned_by_pillow: bool, upright: bool) -> Image.Image:
  """Pixels upright, or as stored; Pillow turns TIFF, and no other format, as it decodes."""
  if turn == 1 or upright == turned_by_pillow:
    return pixels
  return pixels.transpose((_UPRIGHT if upright else _STORED)[turn])


def _reduction(size: tuple[int, int], most_pixels: int | None) -> int:
  """The least whole number by which sides are divided so that no more pixels remain."""
  factor = 1
  while most_pixels and -(-size[0] // factor) * -(-size[1] // factor) > max(most_pixels, 1):
    factor += 1
  return factor


def _png_has_end(content: bytes) -> bool:
  """Whether the chunks of a PNG lead to the one of its end."""
  place = 8
  while place + 8 <= len(content):
    if content[place + 4:place + 8] == b"IEND":
      return True
    place += 12 + struct.unpack_from(">I", content, place)[0]
  return False


def _png_sums_fit(content: bytes) -> bool:
  """Whether the chunks of a PNG that has an end are those that were written."""
  view, place = memoryview(content), 8
  while place + 12 <= len(content):
    end = place + 8 + struct.unpack_from(">I", content, place)[0]
    if end + 4 > len(content) or zlib.crc32(view[place + 4:end]) != struct.unpack_from(
        ">I", content, end)[0]:
      return False
    if view[place + 4:place + 8] == b"IEND":
      return True
    place = end + 4
  return False


def _jpeg_has_end(content: bytes) -> bool:
  """Whether the segments of a JPEG lead to the mark of its end."""
  place = 2
  while 0 <= place < len(content) - 1:
    mark = content[place + 1]
    if content[place] != 0xff:
      return False
    if mark == 0xd9:
      return True
    if mark == 0xff or mark == 0x01 or 0xd0 <= mark <= 0xd8:
      place += 1 if mark == 0xff else 2
      continue
    if place + 4 > len(content):
      return False
    place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    if mark == 0xda:
      place = _next_mark(content, place)
  return False


def _next_mark(content: bytes, place: int) -> int:
  """Where the coded pixels after a place end; -1: they do not."""
  while (place := content.find(b"\xff", place)) >= 0:
    following = content[place + 1:place + 2]
    if following and following != b"\0" and not b"\xd0" <= following <= b"\xd7":
      return place
    place += 1
  return -1
