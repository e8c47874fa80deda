"""A small picture that shows how it was read, in the forms in which pictures arrive."""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image, ImageCms

SIDE = 32


def drawn():
  """uint8 [32, 24, 3]: four corners of different colours, so that every turn is seen."""
  pixels = np.empty((SIDE, 24, 3), np.uint8)
  pixels[:16, :12], pixels[:16, 12:] = (220, 30, 40), (30, 160, 60)
  pixels[16:, :12], pixels[16:, 12:] = (40, 60, 200), (230, 210, 50)
  return pixels


def grey():
  """`drawn` as Pillow makes it grey, uint8 [32, 24]."""
  return np.asarray(Image.fromarray(drawn()).convert("L"))


def saved(image, kind, **options):
  stream = io.BytesIO()
  image.save(stream, kind, **options)
  return stream.getvalue()


def turned(orientation, kind="JPEG", **options):
  """The picture as a camera stores it that is held so, with the note that says so."""
  back = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
          4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
          6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_270}.get(orientation)
  image = Image.fromarray(drawn())
  exif = Image.Exif()
  exif[ExifTags.Base.Orientation] = orientation
  return saved(image.transpose(back) if back is not None else image, kind, exif=exif, **options)


def png(pixels, bits, colours, size=None):
  """A PNG of numbers that Pillow does not write, 16 bits of RGB, or that says another size."""
  def chunk(name, content):
    return (struct.pack(">I", len(content)) + name + content
            + struct.pack(">I", zlib.crc32(name + content)))
  height, width = size or pixels.shape[:2]
  rows = b"".join(b"\0" + row.tobytes() for row in pixels)
  return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits,
                                                            colours, 0, 0, 0))
          + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def without_adobe(content):
  """A JPEG without the note that its inks are inverted, and with inks that are not."""
  start = content.index(b"\xff\xee")
  length = struct.unpack_from(">H", content, start + 2)[0]
  return content[:start] + content[start + 2 + length:]


def swapped_profile():
  """A profile of colours in which red is blue: sRGB with the places of these two exchanged."""
  profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
  red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
  profile[red:red + 4], profile[blue:blue + 4] = b"bXYZ", b"rXYZ"
  return bytes(profile)


def forms():
  """name -> (bytes, what they show uint8 [H, W, 3], largest difference of a pixel)."""
  picture, colour = drawn(), Image.fromarray(drawn())
  shades = np.repeat(grey()[..., None], 3, -1)
  other = Image.fromarray(255 - picture)
  clear = np.dstack([picture, np.full((SIDE, 24), 255, np.uint8)])
  clear[:16, :12, 3] = 0
  over_grey = picture.copy()
  over_grey[:16, :12] = 128
  wide = grey().astype(np.uint16) * 257
  key = Image.fromarray(wide)
  keyed = shades.copy()
  keyed[:16, :12] = 128
  black = np.where(grey() > 100, 255, 0).astype(np.uint8)
  palette = colour.convert("P", palette=Image.Palette.ADAPTIVE)
  found = {
      "bmp": (saved(colour, "BMP"), picture, 0),
      "png": (saved(colour, "PNG"), picture, 0),
      "png in black and white": (saved(Image.fromarray(black).convert("1"), "PNG"),
                                 np.repeat(black[..., None], 3, -1), 0),
      "png with a palette": (saved(palette, "PNG"), picture, 0),
      "png with 16 bits of grey": (saved(key, "PNG"), shades, 0),
      "png with 16 bits of colour": (png(picture.astype(">u2") * 257, 16, 2), picture, 0),
      "png with opacity": (saved(Image.fromarray(clear), "PNG"), over_grey, 0),
      "png with grey and opacity": (
          saved(Image.fromarray(clear).convert("LA"), "PNG"), keyed, 0),
      "png with a clear colour": (
          saved(colour, "PNG", transparency=(220, 30, 40)), over_grey, 0),
      "png with a clear shade of 16 bits": (
          saved(key, "PNG", transparency=int(wide[0, 0])), keyed, 0),
      "png with a clear colour of the palette": (
          saved(palette, "PNG", transparency=palette.getpixel((0, 0))), over_grey, 0),
      "png of several frames": (saved(colour, "PNG", save_all=True, append_images=[other]),
                                picture, 0),
      "png that is turned": (turned(6, "PNG"), picture, 0),
      "png whose red is blue": (
          saved(Image.fromarray(picture[..., ::-1].copy()), "PNG", icc_profile=swapped_profile()),
          picture, 3),
      "png with a profile that is none": (saved(colour, "PNG", icc_profile=b"junk"), picture, 0),
      "gif of several frames": (saved(colour, "GIF", save_all=True, append_images=[other]),
                                picture, 0),
      "webp": (saved(colour, "WEBP", lossless=True), picture, 0),
      "webp of several frames": (saved(colour, "WEBP", lossless=True, save_all=True,
                                       append_images=[other]), picture, 0),
      "ppm": (saved(colour, "PPM"), picture, 0),
      "ppm in text": (b"P3 24 32 255 " + b" ".join(b"%d" % v for v in picture.ravel()), picture, 0),
      "pgm of 16 bits": (b"P5 24 32 65535 " + wide.astype(">u2").tobytes(), shades, 0),
      "pfm": (b"Pf\n24 32\n-1.0\n" + (grey()[::-1] / np.float32(255)).astype("<f4").tobytes(),
              shades, 0),
      "tiff": (saved(colour, "TIFF"), picture, 0),
      "tiff that is compressed": (saved(colour, "TIFF", compression="tiff_lzw"), picture, 0),
      "tiff that is turned": (turned(6, "TIFF"), picture, 0),
      "tiff that is turned and compressed": (turned(8, "TIFF", compression="tiff_lzw"), picture, 0),
      "tiff of 16 bits": (saved(key, "TIFF"), shades, 0),
      "tiff of floats": (saved(Image.fromarray(grey() / np.float32(255)), "TIFF"), shades, 0),
      "tiff of several pages": (saved(colour, "TIFF", save_all=True, append_images=[other]),
                                picture, 0),
      "jpeg": (saved(colour, "JPEG", quality=95, subsampling=0), picture, 6),
      "jpeg in grey": (saved(colour.convert("L"), "JPEG", quality=95), shades, 6),
      "jpeg of several scans": (saved(colour, "JPEG", quality=95, subsampling=0, progressive=True),
                                picture, 6),
      "jpeg with inks of Adobe": (saved(colour.convert("CMYK"), "JPEG", quality=95), picture, 12),
      "jpeg with plain inks": (
          without_adobe(saved(Image.fromarray(255 - np.asarray(colour.convert("CMYK")), "CMYK"),
                              "JPEG", quality=95)), picture, 12),
      "jpeg with junk behind": (
          saved(colour, "JPEG", quality=95, subsampling=0) + b"junk" * 50, picture, 6),
      "jpeg of several pictures": (
          saved(colour, "MPO", quality=95, subsampling=0, save_all=True, append_images=[other]),
          picture, 6)}
  for orientation in range(1, 9):
    found[f"jpeg held as {orientation}"] = (
        turned(orientation, quality=95, subsampling=0), picture, 6)
  return found


FORMS = forms()
