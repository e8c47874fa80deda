"""From the data section of a config to the labelled regions of a run: train, evaluation, public."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data import caps, photographs
from fedjax_face.data.photographs import Photographs
from fedjax_face.data.readers import face_tasks, marked_list, tfds_photographs
from fedjax_face.data.readers.decode import ReadReport
from fedjax_face.data.regions import places as region_places
from fedjax_face.data.regions import proposals
from fedjax_face.data.regions.boxes import Frame
from fedjax_face.data.regions.cache import cached_regions
from fedjax_face.data.regions.cutting import (
  RegionOptions,
  Regions,
  extract_regions,
  face_boxes,
  mixture,
  of_photographs,
  unit_identities,
  units_of,
)
from fedjax_face.data.regions.proposals import Proposer
from fedjax_face.data.rendering.synthetic_scenes import synthetic_scenes
from fedjax_face.draws import Draws


class RegionSet(NamedTuple):
  """Regions of one or several sources and the photographs that they come from.

  Attributes:
    name: of the sources.
    regions: N regions.
    face_box: float32 [N, 4], the whole face's box; of a region without a face its own.
    photographs: of each source, those that have a region or could have one.
    frame: of the landmarks.
  """

  name: str
  regions: Regions
  face_box: np.ndarray
  photographs: tuple[Photographs, ...]
  frame: Frame = "corner"

  @property
  def images(self) -> np.ndarray:
    """uint8 [N, S, S, C]."""
    return self.regions.images

  @property
  def targets(self) -> dict[str, np.ndarray]:
    """The labels of the regions: what `losses.multi_task.Targets` holds, by name."""
    return {field: getattr(self.regions, field)
            for field in ("face", "landmarks", "visible", "pose", "gender", "known")}

  @property
  def persons_known(self) -> bool:
    """Whether every source says which faces are of one person."""
    return all(source.persons_known for source in self.photographs)

  @property
  def group(self) -> np.ndarray:
    """int64 [N]: equal for regions of photographs that a chain of shared people connects."""
    regions = self.regions
    on_face = regions.person >= 0
    return photographs.connected(regions.original[on_face], regions.person[on_face],
                                 int(regions.original.max(initial=-1)) + 1)[regions.original]

  def units(self, unit: str) -> np.ndarray:
    """int [N], the privacy unit of each region, see `regions.units_of`.

    Raises:
      ValueError: a unit that is not known, or `person` where a source does not say who is who or a
        photograph shows several people or nobody.
    """
    unknown = [source.name for source in self.photographs if not source.persons_known]
    if unit == "person" and unknown:
      raise ValueError(f"method.units.unit=person: {', '.join(unknown)} does not say which faces "
                       "are of one person; expected image or region, or sources that do")
    return units_of(self.regions, unit)

  def unit_identities(self, unit: str) -> np.ndarray:
    """uint64 [N], the stable identity of the unit of each region, see `regions.unit_identities`."""
    return unit_identities(self.regions, unit)


class RegionSources(NamedTuple):
  """The sets of a run; the fields are those of `sources.Sources`, without pairs.

  Attributes:
    train: private regions.
    evaluation: regions of other photographs.
    public: pre-training set, outside the privacy guarantee, or None.
    notes: sentences for the record.
    not_covered: sentences for the privacy statement.
    evaluates_training_people: whether evaluation images are, or may be, of people who train.
  """

  train: RegionSet
  evaluation: RegionSet
  public: RegionSet | None = None
  notes: tuple[str, ...] = ()
  not_covered: tuple[str, ...] = ()
  evaluates_training_people: bool = False


class _Whole(NamedTuple):
  photographs: Photographs
  regions: Regions
  report: ReadReport | None
  frame: Frame


SPLIT_BY_PERSON = (
    "data.split=person: which photographs train is taken as given. A photograph more or less can "
    "move others of the people that it shows, and of people whom it connects, between training and "
    "evaluation.")


def load(config_data: Mapping[str, Any], rng_seed: int) -> RegionSources:
  """Loads what a config asks for and splits every source into training and evaluation.

  Args:
    config_data: `sources`: any name -> `name` (one of `SOURCES`), the options of that source, and
      perhaps `regions`, which replaces some of the region options for it; `regions`: fields of
      `RegionOptions`; `proposer`: `name` (one of `PROPOSERS`) and its options; `test_fraction`;
      `split`: 'person' or 'image'; `cache`: folder of region files, empty for none; perhaps
      `public`: `sources` that pre-train, all of them.
    rng_seed: of the split.

  Raises:
    ValueError: an unknown name or key, sources that cannot be split, two private sources that are
      the same, a public source that is a private one, or a photograph that is in two of them (see
      `region_places.check_copies`).
    FileNotFoundError: data that is not there.
  """
  _check_keys("data", config_data, required=("sources", "regions", "proposer", "test_fraction",
                                             "split"), optional=("cache", "public"))
  split = {"person": photographs.split_by_person, "image": photographs.split_by_image}
  if config_data["split"] not in split:
    raise ValueError(f"data.split={config_data['split']!r}: expected one of {', '.join(split)}")
  assumed = region_places.check_private(config_data["sources"])
  public, public_notes, unchecked = load_public(config_data)
  sides: tuple[list, list] = ([], [])
  wholes = _wholes("data", config_data, config_data)
  region_places.check_copies(_public_photographs(config_data, public),
                             {key: whole.photographs for key, whole in wholes.items()})
  for place, whole in enumerate(wholes.values()):
    chosen = split[config_data["split"]](
        whole.photographs, config_data["test_fraction"], Draws.of((rng_seed, place)))
    for side, numbers in zip(sides, chosen, strict=True):
      side.append(_side(whole, numbers))
  unknown, not_covered = _shared_people(config_data["split"], wholes)
  given = (SPLIT_BY_PERSON,) if config_data["split"] == "person" else ()
  return RegionSources(_joined(sides[0]), _joined(sides[1]), public,
                       (*_notes(wholes), *unknown, *public_notes),
                       (*given, *not_covered, *_capped(config_data["sources"]), *assumed,
                        *unchecked), bool(not_covered))


def load_public(config_data: Mapping[str, Any],
                ) -> tuple[RegionSet | None, tuple[str, ...], tuple[str, ...]]:
  """The public set of a config alone, notes about it, and sentences for the privacy statement.

  The set is None where the config asks for none. Of the private sources it looks at the options
  only.

  Raises:
    ValueError: an unknown name or key, or a source that is a private one.
    FileNotFoundError: data that is not there.
  """
  options = config_data.get("public")
  if not options:
    return None, (), ()
  _check_keys("data.public", options, required=("sources",))
  unchecked = region_places.check_public(options["sources"], config_data["sources"])
  wholes = _wholes("data.public", options, config_data)
  public = _joined([_side(w, np.arange(len(w.photographs))) for w in wholes.values()])
  notes = (f"{public.name}: {len(public.images)} regions are taken as public; the privacy "
           "guarantee does not cover them", *unchecked, *_notes(wholes))
  return public, notes, tuple(
      f"{note}; whoever is in both is not protected on public photographs." for note in unchecked)


def _public_photographs(config_data: Mapping[str, Any],
                        public: RegionSet | None) -> dict[str, Photographs]:
  """What was read of each source of `data.public`."""
  if public is None:
    return {}
  return dict(zip(config_data["public"]["sources"], public.photographs, strict=True))


def proposer(options: Mapping[str, Any], section: str = "data.proposer") -> Proposer:
  """The proposer that `options` name.

  Raises:
    ValueError: an unknown name or option.
  """
  return _call(section, PROPOSERS, options)


def _wholes(section: str, options: Mapping[str, Any],
            shared: Mapping[str, Any]) -> dict[str, _Whole]:
  """Every source of a section, with its regions."""
  if not options.get("sources"):
    raise ValueError(f"{section}.sources names no source; expected at least one")
  return {name: _whole(f"{section}.sources.{name}", dict(source), shared)
          for name, source in options["sources"].items()}


def _whole(section: str, source: dict[str, Any], shared: Mapping[str, Any]) -> _Whole:
  options = dict(shared["regions"]) | dict(source.pop("regions", {}))
  cutting = _given(f"{section}.regions", RegionOptions, options)
  shared_frame = dict(shared["regions"]).get("frame", "corner")
  if cutting.frame != shared_frame:
    raise ValueError(f"{section}.regions.frame={cutting.frame!r}: expected that of data.regions, "
                     f"{shared_frame!r}, as all regions are trained on together")
  read, report = _call(section, SOURCES, source)
  make = lambda: extract_regions(
      read, proposer(shared["proposer"]), cutting, Draws.of(tuple(read.name.encode())))
  if not shared.get("cache"):
    return _Whole(read, make(), report, cutting.frame)
  key = {"source": source, "place": str(region_places.place(source)),
         "regions": dataclasses.asdict(cutting), "proposer": dict(shared["proposer"]),
         "photographs": _content_digest(read)}
  return _Whole(read, cached_regions(shared["cache"], key, make), report, cutting.frame)


def _content_digest(read: Photographs) -> str:
  """Of the labels, and of the pixels where they are in memory: other content, other regions."""
  content = hashlib.blake2b(read.identities.tobytes(), digest_size=16)
  for field in ("image", "person", "box", "landmarks", "visible", "pose", "gender", "known"):
    content.update(np.ascontiguousarray(getattr(read, field)).tobytes())
  if isinstance(read.images, np.ndarray | list):
    for image in read.images:
      content.update(np.ascontiguousarray(image).tobytes())
  return f"{len(read)} {content.hexdigest()}"


def _side(whole: _Whole, numbers: np.ndarray) -> RegionSet:
  regions = of_photographs(whole.regions, numbers)
  return RegionSet(whole.photographs.name, regions, face_boxes(regions, whole.photographs),
                   (whole.photographs.select(numbers),), whole.frame)


def _joined(sets: list[RegionSet]) -> RegionSet:
  return RegionSet("+".join(s.name for s in sets), mixture([s.regions for s in sets]),
                   np.concatenate([s.face_box for s in sets]),
                   tuple(p for s in sets for p in s.photographs), sets[0].frame)


def _notes(wholes: Mapping[str, _Whole]) -> tuple[str, ...]:
  return tuple(str(w.report) for w in wholes.values() if w.report is not None and w.report.skipped)


def _shared_people(split: str, wholes: Mapping[str, _Whole],
                   ) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Notes, and sentences for the statement, where people may be on both sides of the split."""
  said = "may show people who train; their metrics are without noise."
  if split == "image":
    return (), (f"data.split=image: evaluation photographs {said}",)
  unknown = [w.photographs.name for w in wholes.values() if not w.photographs.persons_known]
  if not unknown:
    return (), ()
  names = ", ".join(unknown)
  return ((f"{names}: who is who is not known; data.split=person keeps photographs apart there, "
           "not people",), (f"{names}: evaluation photographs {said}",))


def _capped(sources: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
  """Sentences about limits on what is read."""
  return tuple(sentence for name, options in sources.items()
               for sentence in caps.not_covered(f"data.sources.{name}", options))


def _scenes(*, num_scenes: int, size: int, seed: int, num_people: int, faces: tuple[int, int],
            face_side: tuple[float, float], circle: int) -> tuple[Photographs, None]:
  rendered = synthetic_scenes(
      num_scenes, size, seed, num_people=num_people, faces=(faces[0], faces[1]),
      face_side=(face_side[0], face_side[1]), circle=circle)
  return dataclasses.replace(rendered, name=f"{rendered.name}_world{seed}"), None


def _aflw2000(*, root: str = "", limit: int | None = None):
  return face_tasks.read_aflw2000(_found("aflw2000", root=root), limit=limit)


def _lfw_originals(*, root: str = "", limit: int | None = None):
  return face_tasks.read_lfw_originals(_found("lfw_originals", root=root), limit=limit)


def _lfw_aligned(*, root: str = "", people: str = "all", limit: int | None = None):
  if people not in ("all", "others"):
    raise ValueError(f"people={people!r}: expected all, or others: who is not in lfw_originals")
  return face_tasks.read_lfw_aligned(
      _found("lfw_aligned", root=root), limit=limit,
      not_in=face_tasks.LFW_ORIGINALS if people == "others" else "")


def _utkface(*, path: str = "", limit: int | None = None):
  return face_tasks.read_utkface(_found("utkface", path=path), limit=limit)


def _aflw(*, root: str = "", limit: int | None = None):
  from fedjax_face.data.readers import aflw_builder  # imports TFDS
  return aflw_builder.read_aflw(_found("aflw", root=root), limit=limit)


def _listing(*, path: str, root: str | None = None, limit: int | None = None):
  return marked_list.read_marked_list(path, root=root, limit=limit)


def _found(name: str, **given: str) -> pathlib.Path:
  """Where a source in files lies."""
  found = region_places.place({"name": name} | given)
  assert found is not None
  return found


def _tfds(name: str) -> Callable[..., tuple[Photographs, ReadReport]]:
  def read(*, split: str = "train", data_dir: str | None = None, limit: int | None = None):
    return tfds_photographs.read_tfds_photographs(
        name, split=split, data_dir=data_dir or None, limit=limit)
  return read


SOURCES: Mapping[str, Callable[..., tuple[Photographs, ReadReport | None]]] = {
    "synthetic_scenes": _scenes, "aflw2000": _aflw2000, "lfw_originals": _lfw_originals,
    "lfw_aligned": _lfw_aligned, "utkface": _utkface, "aflw": _aflw, "celeb_a": _tfds("celeb_a"),
    "the300w_lp": _tfds("the300w_lp"), "listing": _listing,
}

PROPOSERS: Mapping[str, Callable[..., Proposer]] = {
    "random": proposals.random_proposer, "grid": proposals.grid_proposer,
    "selective_search": proposals.selective_search_proposer,
}


def _check_keys(section: str, given: Mapping[str, Any], required: Sequence[str],
                optional: Sequence[str] = ()) -> None:
  known = (*required, *optional)
  for key in given:
    if key not in known:
      raise ValueError(f"{section}.{key} is not known; accepted: {', '.join(known)}")
  for key in required:
    if key not in given:
      raise ValueError(f"{section}.{key} is required")


def _call(section: str, functions: Mapping[str, Callable], options: Mapping[str, Any]) -> Any:
  """Calls the function that `options['name']` names with the other options."""
  given = dict(options)
  name = given.pop("name", None)
  if name not in functions:
    raise ValueError(f"{section}.name is {name!r}; expected one of {', '.join(functions)}")
  return _given(section, functions[name], given)


def _given(section: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Any:
  """Calls a function with options that it has."""
  parameters = inspect.signature(function).parameters
  required = [key for key, value in parameters.items() if value.default is value.empty]
  _check_keys(section, options, required, [key for key in parameters if key not in required])
  return function(**options)
