"""Reader for image data sets of TensorFlow Datasets, without TensorFlow.

A data set must have been prepared in a format with random access (array_record); it is then read
through `tfds.data_source`. Preparing some sets (lfw, celeb_a) needs TensorFlow once; reading never.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_face.data import image_source
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.decode import OnBad, ReadReport, check_on_bad, decode_images, settle
from fedjax_face.data.readers.encoded_images import decode_later, is_on_demand
from fedjax_face.data.readers.file_bytes import printable
from fedjax_face.draws import identity_of

EACH_IMAGE = "each_image"


@dataclasses.dataclass(frozen=True)
class FeatureNames:
  """Where a TFDS data set keeps what is needed; '/' leads into nested features.

  Attributes:
    image: feature of the encoded image.
    label: feature of the identity or class; ClassLabel, integer or text.
    person: feature of the privacy unit, 'each_image' (every image is a unit of its own), '' = the
      set does not tell.
    transposed: images are stored with rows and columns exchanged.
  """

  image: str = "image"
  label: str = "label"
  person: str = "label"
  transposed: bool = False


KNOWN_FEATURES: Mapping[str, FeatureNames] = {
    "lfw": FeatureNames(),
    "celeb_a": FeatureNames(label="identity/Identity_No", person="identity/Identity_No"),
    "emnist": FeatureNames(person="", transposed=True),
    "digiface": FeatureNames(label="subject", person="subject"),
}


def prepare_command(name: str, data_dir: str | pathlib.Path | None) -> str:
  """The shell command that downloads and prepares a data set so that it can be read here."""
  place = f", data_dir='{data_dir}'" if data_dir else ""
  return (f'python -c "import tensorflow_datasets as tfds; tfds.builder(\'{name}\'{place})'
          ".download_and_prepare(file_format='array_record')\"")


def read_tfds(name: str, *, split: str = "train", data_dir: str | pathlib.Path | None = None,
              features: FeatureNames | None = None, size: int | None = None, channels: int = 3,
              limit: int | None = None, on_bad: OnBad = "skip", on_demand: bool | None = False,
              ) -> tuple[FaceDataset, ReadReport]:
  """Reads one split of a prepared TFDS data set.

  Args:
    name: as TFDS spells it, with config: 'lfw', 'celeb_a', 'emnist/byclass', ...
    split: TFDS split, slices such as 'train[:100]' included.
    data_dir: where TFDS keeps its data; None = its default.
    features: where image, label and person are; None = as known for `name`, or the defaults.
    size: height and width to scale to; None = as stored, all of one shape.
    channels: 1 or 3.
    limit: only the first so many images.
    on_bad: 'skip' leaves out images that cannot be decoded and warns, 'refuse' raises.
    on_demand: decodes an image when it is asked for, and needs `size`; None: where all would take
      much memory.

  Returns:
    (data set, report); persons are numbered in the order of their values, labels too unless the
    feature is a ClassLabel, which keeps its numbers.

  Raises:
    FileNotFoundError: the data set is not prepared; the message has the command to prepare it.
    ValueError: no such data set, split or feature; or the set does not tell its persons (emnist has
      no writers).
  """
  check_on_bad(on_bad)
  features = features or KNOWN_FEATURES.get(_base(name), FeatureNames())
  if not features.person:
    raise ValueError(f"{name} in TFDS does not say whose image is whose (emnist has no writers); "
                     "use the LEAF reader (femnist), or person='each_image' to make every image a "
                     "privacy unit of its own")
  builder = prepared_builder(name, data_dir)
  source = encoded_records(builder, name, split, data_dir, features)
  count = len(source) if limit is None else min(limit, len(source))
  wanted = [f for f in (features.label, features.person) if f != EACH_IMAGE]
  values: dict[str, list[Any]] = {feature: [None] * count for feature in wanted}

  def read(row: str) -> bytes:
    record = record_of(source, int(row))
    for feature in wanted:
      values[feature][int(row)] = _value(record, feature)
    return _value(record, features.image)

  decode = decode_later if is_on_demand(on_demand, count, size, channels) else decode_images
  images, rows, bad = decode(name, [str(i) for i in range(count)], read, size, channels)
  if features.transposed:
    images = image_source.changed(images, images.shape[1:], lambda some: some.transpose(0, 2, 1, 3))
  report = settle(ReadReport(name, skipped=tuple((f"record {i}", why) for i, why in bad)), on_bad)
  label, names = _numbered(values[features.label], rows, _feature(builder, name, features.label))
  person, person_names, identity = label, names, None
  if features.person == EACH_IMAGE:
    person, person_names = np.arange(len(rows), dtype=np.int32), ()
    identity = identity_of(f"record {row}" for row in rows)
  elif features.person != features.label:
    person, person_names = _numbered(values[features.person], rows,
                                     _feature(builder, name, features.person))
  return FaceDataset(name, images, label, person.copy(), names=names,
                     person_names=() if person is label else person_names,
                     identity=identity), report


def _base(name: str) -> str:
  """'emnist/byclass:3.1.0' -> 'emnist'."""
  return name.split("/")[0].split(":")[0]


def prepared_builder(name: str, data_dir: str | pathlib.Path | None) -> Any:
  """The TFDS builder of a data set that exists and is prepared.

  Raises:
    FileNotFoundError: it is not prepared; the message has the command to prepare it.
    ValueError: no such data set.
  """
  import tensorflow_datasets as tfds  # slow to import, and only needed here
  if _base(name) == "digiface":
    from fedjax_face.data.readers import digiface_builder  # noqa: F401  registers the name with TFDS
  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.registered.DatasetNotFoundError:
    raise ValueError(f"{name} is no TFDS data set; expected for instance "
                     f"{', '.join(KNOWN_FEATURES)}") from None
  except ValueError as error:
    raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None
  if not builder.is_prepared():
    raise FileNotFoundError(f"{name} is not prepared in {builder.data_path.parent}; run: "
                            + prepare_command(name, data_dir))
  return builder


def encoded_records(builder: Any, name: str, split: str, data_dir: str | pathlib.Path | None,
                    features: FeatureNames) -> Sequence[Mapping[str, Any]]:
  """Random access to the records of a split, images still encoded.

  Args:
    builder: of `prepared_builder`.
    name: of the data set, for messages.
    split: TFDS split, slices included.
    data_dir: where TFDS keeps its data.
    features: which must exist; that of the image stays encoded.

  Raises:
    FileNotFoundError: the data set is prepared without random access.
    ValueError: no such split or feature.
  """
  import tensorflow_datasets as tfds
  for feature in (features.image, features.label, features.person):
    if feature != EACH_IMAGE:
      _feature(builder, name, feature)
  skip: Any = tfds.decode.SkipDecoding()
  for part in reversed(features.image.split("/")):
    skip = {part: skip}
  try:
    return builder.as_data_source(split=split, decoders=skip)
  except NotImplementedError:
    raise FileNotFoundError(f"{name} is prepared without random access; prepare it again: "
                            + prepare_command(name, data_dir)) from None
  except ValueError as error:
    raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None


def record_of(records: Sequence[Mapping[str, Any]], row: int) -> Mapping[str, Any]:
  """A record of a set.

  Raises:
    ValueError: the file is damaged there.
  """
  try:
    return records[row]
  except Exception as error:  # of the libraries that read the file, each with its own errors
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(f"record cannot be read ({reason[:200]})") from None


def _feature(builder, name, path):
  """The TFDS feature at a '/'-separated path."""
  feature = builder.info.features
  for part in path.split("/"):
    if not hasattr(feature, "keys") or part not in feature:
      raise ValueError(f"{name} has no feature {path!r}; expected one of "
                       f"{', '.join(builder.info.features)}")
    feature = feature[part]
  return feature


def _value(record, path):
  """The value at a '/'-separated path of a record."""
  for part in path.split("/"):
    record = record[part]
  return record


def _numbered(values, rows, feature) -> tuple[np.ndarray, tuple[str, ...]]:
  """Numbers and their names for values that are class numbers, integers or text."""
  kept = [values[row] for row in rows]
  if hasattr(feature, "int2str"):
    names = tuple(feature.int2str(i) for i in range(feature.num_classes))
    return np.array(kept, np.int32), names
  text = [printable(v.decode(errors="surrogateescape")) if isinstance(v, bytes) else v
          for v in kept]
  unique, number = np.unique(text, return_inverse=True)
  return number.astype(np.int32), tuple(str(u) for u in unique)
