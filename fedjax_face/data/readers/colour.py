"""From the colours of an image file, whatever form, to 8 bits of red, green and blue, or grey."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageChops, ImageCms

GROUND = 128
"""Grey level behind pixels that are not opaque: zero for a network, see `pixels.normalise`."""

_PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "La", "PA", "RGBA", "RGBa")
_WIDE = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_LARGEST_PROFILE = 2**20  # bytes
_COLOURS = np.indices((6, 6, 6), np.uint8).reshape(3, 1, -1).transpose(1, 2, 0) * np.uint8(51)
_ROUNDING = 2  # grey levels by which a profile of sRGB itself may move a colour


def eight_bits(image: Image.Image, mode: str) -> Image.Image:
  """An image of mode 'L' or 'RGB'.

  Sixteen bits are scaled by 1/257 and floats from 0 to 1 by 255; a profile of the colours is
  applied; what is not opaque lies over mid grey, so that no hidden colour shows.

  Args:
    image: decoded, of any mode.
    mode: 'L' or 'RGB'.

  Raises:
    ValueError: numbers whose scale is not known, or a colour space that is not converted.
  """
  if image.mode in _WIDE:
    return _scaled(image).convert(mode)
  if image.mode not in _PLAIN:
    raise ValueError(f"colours of the kind {image.mode}, which are not converted")
  if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
    image = ImageChops.invert(image)  # Pillow takes all inks for Adobe's, which are inverted
  if image.has_transparency_data:
    opaque = _in_srgb(image.convert("RGBA"), image.info)
    ground = Image.new("RGBA", image.size, (GROUND, GROUND, GROUND, 255))
    return Image.alpha_composite(ground, opaque).convert(mode)
  if image.mode in ("1", "L"):
    return image.convert(mode)
  return _in_srgb(image.convert("RGB"), image.info).convert(mode)


def _scaled(image: Image.Image) -> Image.Image:
  """Grey of mode 'L' from 16 bits, or from floats from 0 to 1."""
  pixels = np.asarray(image)
  if image.mode == "F":
    if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
      raise ValueError("floats that are not all from 0 to 1; save it with 8 or 16 bits")
    grey = np.rint(pixels * np.float32(255)).astype(np.uint8)
  elif image.mode == "I" and (image.format not in ("PNG", "PPM") or pixels.min(initial=0) < 0):
    raise ValueError("integers of 32 bits or with a sign; save it with 8 or 16 bits")
  else:
    grey = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
  hidden = image.info.get("transparency")
  if isinstance(hidden, int):
    grey[pixels == hidden] = GROUND
  return Image.fromarray(grey)


def _in_srgb(image: Image.Image, info: dict) -> Image.Image:
  """Red, green and blue, perhaps with opacity, through the profile that came with them."""
  profile = info.get("icc_profile")
  if not isinstance(profile, bytes) or not 0 < len(profile) <= _LARGEST_PROFILE:
    return image
  to_srgb = _transform(profile, image.mode)
  if to_srgb is None:
    return image
  try:
    found = to_srgb.apply(image)
  except (ValueError, OSError, ImageCms.PyCMSError):
    return image
  return found


@functools.lru_cache(8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
  """From the colours of a profile to sRGB; None where they are that already, or unknown."""
  try:
    given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if given.profile.xcolor_space.strip() != "RGB":
      return None
    to_srgb = ImageCms.ImageCmsTransform(given, _SRGB, mode, mode,
                                         ImageCms.Intent.PERCEPTUAL)
    tried = to_srgb.apply(Image.fromarray(_COLOURS).convert(mode)).convert("RGB")
  except (ValueError, OSError, TypeError, ImageCms.PyCMSError):
    return None
  moved = np.abs(np.asarray(tried).astype(int) - _COLOURS).max()
  return to_srgb if moved > _ROUNDING else None
