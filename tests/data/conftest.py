import io

import numpy as np
import pytest
from PIL import Image

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.sources import data_root


def encoded(value=0, size=8, kind="PNG", mode="RGB"):
  """The bytes of an image file of one colour."""
  stream = io.BytesIO()
  Image.new(mode, (size, size), value if mode == "L" else (value,) * 3).save(stream, kind)
  return stream.getvalue()


def make_dataset(label, person=None, size=2, channels=1, **options):
  """A data set whose image i is filled with i."""
  label = np.asarray(label, np.int32)
  images = np.zeros((len(label), size, size, channels), np.uint8)
  images += np.arange(len(label), dtype=np.uint8)[:, None, None, None]
  person = label.copy() if person is None else np.asarray(person, np.int32)
  return FaceDataset(options.pop("name", "made"), images, label, person, **options)


@pytest.fixture(scope="session")
def real_data():
  """Path of a file of the real data sets; skips where it is absent."""
  def path(*parts):
    place = data_root().joinpath(*parts)
    if not place.exists():
      pytest.skip(f"no {'/'.join(parts)} in the data folder (FEDJAX_FACE_DATA)")
    return place
  return path
