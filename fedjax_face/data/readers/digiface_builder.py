"""TFDS builder for DigiFace-1M (rendered faces of people who do not exist), manual download.

Source: Bae et al., DigiFace-1M: 1 Million Digital Face Images for Face Recognition, WACV 2023.
Reads and builds without TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds
from PIL import Image

from fedjax_face.data.readers.file_bytes import require_given
from fedjax_face.data.readers.image_decoder import decode_image
from fedjax_face.data.readers.listing import listing

_SIDE = 112
_RGB = b"\x08\x02"  # bits and colours in the header of a PNG
_SUFFIXES = (".png", ".jpg", ".jpeg")


class Digiface(tfds.core.GeneratorBasedBuilder):
  """DigiFace-1M: images 112 x 112 x 3 and the subject of each."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = """
  Download the DigiFace-1M zip archives from https://github.com/microsoft/DigiFace1M (non-commercial
  research licence) and put the parts that you want, packed or unpacked, into the manual directory:
  <archive>.zip or <subject>/<image>.png.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="Rendered face images of synthetic identities.",
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(shape=(_SIDE, _SIDE, 3), encoding_format="png"),
            "subject": tfds.features.Text(),
        }),
        supervised_keys=("image", "subject"),
        homepage="https://microsoft.github.io/DigiFace1M/")

  def _split_generators(self, dl_manager):
    root = pathlib.Path(dl_manager.manual_dir)
    return {"train": self._generate_examples(root)}

  def _generate_examples(self, root):
    known: dict[str, bytes] = {}
    for source in [*sorted(root.glob("*.zip")), root]:
      for key, example in _examples(source):
        digest = hashlib.blake2b(example["image"].getvalue(), digest_size=16).digest()
        if known.setdefault(key, digest) != digest:
          raise ValueError(f"{source}: {key} is there twice, with different content; expected one "
                           "image of a name")
        if known[key] is digest:  # else packed and unpacked: counted once
          yield key, example
    if not known:
      raise ValueError(f"{root}: no <subject>/<image>.png, packed or unpacked")


def prepare(manual_dir: str | pathlib.Path, data_dir: str | pathlib.Path) -> None:
  """Builds the data set once, so that `tfds_source.read_tfds('digiface')` can read it.

  Args:
    manual_dir: folder with the downloaded archives (or their unpacked content).
    data_dir: where TFDS keeps its data.

  Raises:
    FileNotFoundError: `manual_dir` is missing or empty.
    ValueError: a file that is not a 112 x 112 image, or no images.
  """
  manual_dir = require_given(manual_dir, "manual_dir")
  if not manual_dir.is_dir() or not any(manual_dir.iterdir()):
    raise FileNotFoundError(f"{manual_dir} is missing or empty; expected DigiFace-1M archives: "
                            + " ".join(Digiface.MANUAL_DOWNLOAD_INSTRUCTIONS.split()))
  Digiface(data_dir=str(data_dir)).download_and_prepare(
      file_format="array_record",
      download_config=tfds.download.DownloadConfig(manual_dir=str(manual_dir)))


def _examples(source: pathlib.Path) -> Iterator[tuple[str, dict]]:
  """The keyed examples of one archive or folder."""
  with listing(source) as content:
    for file in content.files:
      path = pathlib.PurePosixPath(file)
      if path.suffix.lower() in _SUFFIXES and path.parent.name:
        subject = path.parent.name
        yield f"{subject}/{path.name}", {"image": _checked(f"{source}: {file}", content.read(file)),
                                         "subject": subject}


def _checked(name: str, encoded: bytes) -> io.BytesIO:
  """The file as it is if it is a PNG of 8 bits of RGB, else its pixels as one."""
  try:
    pixels = decode_image(encoded)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from None
  if pixels.shape != (_SIDE, _SIDE, 3):
    raise ValueError(f"{name} is {pixels.shape[1]} x {pixels.shape[0]}; "
                     f"expected {_SIDE} x {_SIDE} pixels")
  if encoded[24:26] == _RGB and encoded.startswith(b"\x89PNG"):
    return io.BytesIO(encoded)
  converted = io.BytesIO()
  Image.fromarray(pixels).save(converted, "PNG")
  converted.seek(0)
  return converted
