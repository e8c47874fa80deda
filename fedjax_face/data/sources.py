"""From the data section of a config to the sets of a run: train, evaluation, public, pairs."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data import caps
from fedjax_face.data.dataset import FaceDataset, compact
from fedjax_face.data.domains import Domain
from fedjax_face.data.held_out import HeldOut
from fedjax_face.data.pairs import Pairs
from fedjax_face.data.readers import folders, lfw, person_lists
from fedjax_face.data.readers.template_lists import TemplateLists
from fedjax_face.data.splits import (
  SPLITS,
  Sides,
  by_chance,
  by_names,
  by_side,
  check_disjoint,
  split_by_fold,
  split_by_label,
)
from fedjax_face.data.whole_sets import (
  PUBLIC,
  Whole,
  channels_of,
  data_root,
  notes_of,
  read_listing,
)
from fedjax_face.draws import Draws


class Sources(NamedTuple):
  """The sets of a run.

  Attributes:
    train: private training set; labels and persons are 0..n-1, all with images.
    evaluation: persons (FEMNIST: labels) that are not in `train`.
    public: pre-training set, outside the privacy guarantee, or None.
    pairs: official pairs, rows of `evaluation`, or None.
    notes: sentences for the record: what was skipped, what could not be checked.
    not_covered: sentences for the privacy statement.
    evaluates_training_people: whether evaluation images are, or may be, of people who train.
    known_disjoint: nobody is in two of them, by how they were made; else it is checked by name.
    templates: lists of a template protocol on rows of `evaluation`, or None.
    validation: who judges while training goes on, in place of `evaluation`, or None; persons that
      are in no other set.
  """

  train: FaceDataset
  evaluation: FaceDataset
  public: FaceDataset | None = None
  pairs: Pairs | None = None
  notes: tuple[str, ...] = ()
  not_covered: tuple[str, ...] = ()
  evaluates_training_people: bool = False
  known_disjoint: bool = False
  templates: TemplateLists | None = None
  validation: FaceDataset | None = None

  def __repr__(self) -> str:
    return words(self)


def load(config_data: Mapping[str, Any], rng_seed: int) -> Sources:
  """Loads what a config asks for and checks that training and evaluation share nobody.

  Args:
    config_data: `name` (one of `PRIVATE`), the options of that source (the keyword arguments of
      the function of that name), and perhaps `public`: `name` (one of `PUBLIC`) and its options.
    rng_seed: seed of random splits.

  Raises:
    ValueError: an unknown name or key, or sets that overlap or differ in image shape.
    FileNotFoundError: data that is not there.
  """
  options = dict(config_data)
  public_options = options.pop("public", None)
  sources = _call("data", PRIVATE, options, draws=Draws.of(rng_seed))
  sources = sources._replace(
      not_covered=(*sources.not_covered, *caps.not_covered("data", options)))
  if not public_options:
    return sources
  public, notes = whole_set("data.public", dict(public_options))
  notes = (*sources.notes, *notes, *check_public(public, *private_sets(sources)))
  return sources._replace(public=compact(public), notes=notes)


def load_public(config_data: Mapping[str, Any]) -> FaceDataset:
  """The public set of a section, as `load` gives it, without reading the private one.

  Raises:
    ValueError: an unknown name or key.
    FileNotFoundError: data that is not there.
  """
  return compact(whole_set("data.public", dict(config_data["public"]))[0])


def whole_set(section: str, options: dict[str, Any]) -> tuple[FaceDataset, tuple[str, ...]]:
  """A set that is not split, and notes about it; `options`: `name`, one of `PUBLIC`, and more.

  Raises:
    ValueError: an unknown name or key.
    FileNotFoundError: data that is not there.
  """
  return _call(section, PUBLIC, options)


def _synthetic_faces(draws, *, num_people: int, evaluation_people: int, images_per_person: int,
                     size: int, seed: int = 0, grayscale: bool = False,
                     on_demand: bool | None = None, domain: Domain | None = None) -> Sources:
  """The first `num_people` rendered people train, the next `evaluation_people` evaluate.

  `on_demand` renders a training image when a round asks for it, again in every round that does;
  None: where all would take much memory.
  `domain` is what the photographs are like; None: the street.
  """
  del draws
  render = functools.partial(
      PUBLIC["synthetic_faces"], images_per_person=images_per_person, size=size, seed=seed,
      grayscale=grayscale, domain=domain)
  train, _ = render(num_people=num_people, on_demand=on_demand)
  evaluation, _ = render(num_people=evaluation_people, first_person=num_people)
  return disjoint(train, evaluation)


def _femnist(draws, *, path: str | None = None, num_writers: int | None = None,
             first_unseen_label: int = 36) -> Sources:
  """Characters below `first_unseen_label` train, the others evaluate; users are writers."""
  del draws
  dataset, notes = PUBLIC["femnist"](path=path, num_writers=num_writers)
  unseen = np.unique(dataset.label[dataset.label >= first_unseen_label])
  train, evaluation = split_by_label(dataset, unseen)
  sources = disjoint(train, evaluation, what="label", notes=(
      *notes, "femnist: evaluation images are unseen characters, by writers that also train"))
  return sources._replace(not_covered=(
      "Evaluation metrics and figures are computed, without noise, on other images of the writers "
      "who train.",), evaluates_training_people=True)


def _lfw(draws, *, root: str | None = None, size: int = 112, grayscale: bool = False,
         test_folds: Iterable[int] = (1, 2), min_images: int = 1,
         max_people: int | None = None) -> Sources:
  """People outside the View-2 folds `test_folds` train; those folds and their pairs evaluate.

  `min_images` and `max_people` (the first by name) limit the people that train.
  """
  del draws
  place = pathlib.Path(root) if root else data_root() / "lfw"
  test_folds = tuple(test_folds)
  named_pairs = lfw.parse_pairs(place / "pairs.txt")
  folds = lfw.person_folds(named_pairs)
  test_people = {person for person, fold in folds.items() if fold in test_folds}
  counts = folders.count_files(place / lfw.ARCHIVE)
  train_people = [person for person in sorted(counts)
                  if person not in test_people and counts[person] >= min_images][:max_people]
  dataset, report = lfw.read_lfw(place, size=size, channels=channels_of(grayscale),
                                 people={*train_people, *(test_people & set(counts))})
  train, evaluation = split_by_fold(dataset, folds, test_folds)
  files = [file for file, person in zip(report.files, dataset.person, strict=True)
           if dataset.names[person] in test_people]
  wanted = [pair for pair in named_pairs if pair.fold in test_folds]
  pairs, left_out = lfw.locate_pairs(
      wanted, dataclasses.replace(report, files=tuple(files)), on_bad="skip")
  return disjoint(train, evaluation, pairs=pairs, notes=notes_of(report, left_out))


def _folder(draws, *, test_fraction: float, validation_fraction: float = 0.0,
            held_out: HeldOut | None = None, **options) -> Sources:
  """As `_divided`; `held_out` by folders reads sub-folders."""
  if held_out is not None and held_out.by == "folders":
    return _sub_folders(**options)
  return _divided(PUBLIC["folder"](**options), draws, test_fraction, validation_fraction, held_out)


def _sub_folders(*, path: str, **options) -> Sources:
  """The sub-folders of a folder, each a side."""
  found: dict[str, Whole] = {}
  for place in sorted(pathlib.Path(path).iterdir()) if pathlib.Path(path).is_dir() else ():
    side = SPLITS.get(place.name)
    if side in found:
      raise ValueError(f"{path}: {place.name} is a second folder of {side}; expected one")
    if side is not None and place.is_dir():
      found[side] = PUBLIC["folder"](path=str(place), **options)
  absent = [side for side in ("train", "evaluation") if side not in found]
  if absent:
    raise ValueError(f"{path}: no sub-folder of {absent[0]}; data.held_out=by_folders expects a "
                     "folder with train and test, and perhaps validation")
  name = pathlib.Path(path).resolve().name
  sets = {side: dataclasses.replace(dataset, name=name) for side, (dataset, _) in found.items()}
  return disjoint(sets["train"], sets["evaluation"], sets.get("validation"),
                  notes=tuple(note for _, notes in found.values() for note in notes))


def _listing(draws, *, test_fraction: float, validation_fraction: float = 0.0,
             held_out: HeldOut | None = None, **options) -> Sources:
  """As `_divided`; where nothing is held out by name, by the list's column split if it has one."""
  dataset, side, notes = read_listing(**options)
  if held_out is None and side is not None:
    if validation_fraction:
      raise ValueError(f"data.validation={validation_fraction}: expected 0, because column split "
                       f"of {options['path']} says who validates")
    return _of_sides(by_side(dataset, side), notes)
  return _divided((dataset, notes), draws, test_fraction, validation_fraction, held_out)


def _by_person(name: str) -> Callable[..., Sources]:
  """Loads a set of `PUBLIC` as `_divided`; its options are those of the whole set, and these."""
  def load(draws, *, test_fraction: float, validation_fraction: float = 0.0,
           held_out: HeldOut | None = None, **options) -> Sources:
    return _divided(PUBLIC[name](**options), draws, test_fraction, validation_fraction, held_out)

  return load


PRIVATE: Mapping[str, Callable[..., Sources]] = {
    "synthetic_faces": _synthetic_faces, "femnist": _femnist, "lfw": _lfw, "folder": _folder,
    "listing": _listing,
    **{name: _by_person(name) for name in ("orl", "insightface_rec", "tfds", "digiface")}}


def _call(section: str, functions: Mapping[str, Callable], options: dict[str, Any], **given):
  """Calls the function that `options['name']` names with the other options, all checked."""
  name = options.pop("name", None)
  if name not in functions:
    raise ValueError(f"{section}.name is {name!r}; expected one of {', '.join(functions)}")
  accepted, required = _keywords(name, functions[name])
  unknown = sorted(set(options) - set(accepted))
  if unknown:
    raise ValueError(f"{section}.{unknown[0]} is not a key of {name}; "
                     f"expected some of {', '.join(accepted)}")
  missing = [key for key in required if key not in options or options[key] == ""]
  if missing:
    raise ValueError(f"{section}.{missing[0]} is required for {name}; "
                     f"accepted: {', '.join(accepted)}")
  return functions[name](**given, **options)


def _keywords(name: str, function: Callable) -> tuple[list[str], list[str]]:
  """(accepted, required) keyword-only arguments; **options stand for those of the whole set."""
  accepted, required = [], []
  for key, parameter in inspect.signature(function).parameters.items():
    if parameter.kind is parameter.KEYWORD_ONLY:
      accepted.append(key)
      if parameter.default is parameter.empty:
        required.append(key)
    elif parameter.kind is parameter.VAR_KEYWORD:
      more_accepted, more_required = _keywords(name, PUBLIC[name])
      accepted, required = accepted + more_accepted, required + more_required
  return accepted, required


def _divided(whole: Whole, draws: Draws, evaluation: float, validation: float,
             held_out: HeldOut | None) -> Sources:
  """Each person evaluates or validates with the probabilities given, or as `held_out` says."""
  dataset, notes = whole
  if held_out is None:
    return _of_sides(by_chance(dataset, evaluation, validation, draws), notes)
  if held_out.by == "labels":
    return _of_sides(by_chance(dataset, evaluation, validation, draws, "label"), notes)
  if held_out.by != "file":
    raise ValueError(f"data.held_out=by_folders: {dataset.name} has none; expected of data=folder")
  named = person_lists.read_people(held_out.path)
  sides, said = by_names(dataset, named, held_out.path)
  return _of_sides(sides, (*notes, *said))


def _of_sides(sides: Sides, notes: tuple[str, ...]) -> Sources:
  """Sides that share no person, or else no label, as sets of a run."""
  people = [np.unique(side.person) for side in sides if side is not None]
  every, times = np.unique(np.concatenate(people), return_counts=True)
  if (times == 1).all() or sides.train.persons_are_labels:
    return disjoint(*sides, notes=notes)
  sources = disjoint(*sides, what="label", notes=(
      *notes, f"{sides.train.name}: {(times > 1).sum():,} of {len(every):,} persons train and are "
      "judged, on images of other labels"))
  return sources._replace(not_covered=(
      "Evaluation metrics and figures are computed, without noise, on other images of people who "
      "train.",), evaluates_training_people=True)


def words(made: Sources) -> str:
  """Sets that were made by hand, as a config names them."""
  sets = {name: getattr(made, name) for name in ("train", "evaluation", "public", "validation")}
  return "Sources(" + ", ".join(
      f"{name}={of.name}: {len(of):,} images of {of.num_persons:,} people"
      for name, of in sets.items() if of is not None) + ")"


def disjoint(train: FaceDataset, evaluation: FaceDataset,
             validation: FaceDataset | None = None, what: str = "person",
             pairs: Pairs | None = None, notes: tuple[str, ...] = ()) -> Sources:
  """All sets with labels and persons 0..n-1, if they share no `what`."""
  judges = [evaluation] if validation is None else [evaluation, validation]
  unknown = [note for judge in judges for note in _checked_disjoint(train, judge, what)]
  if validation is not None:
    unknown += _checked_disjoint(validation, evaluation, what)
  return Sources(
      compact(train), compact(evaluation), pairs=pairs, notes=(*notes, *unknown),
      not_covered=tuple(f"{note}; evaluation metrics are without noise." for note in unknown),
      evaluates_training_people=bool(unknown),
      validation=None if validation is None else compact(validation))


def private_sets(sources: Sources) -> tuple[FaceDataset, ...]:
  """Who trains, who evaluates, and who validates, if anybody."""
  return tuple(of for of in (sources.train, sources.evaluation, sources.validation)
               if of is not None)


def _checked_disjoint(train: FaceDataset, test: FaceDataset, what: str) -> tuple[str, ...]:
  """Refuses an overlap; a note where it cannot be seen."""
  if check_disjoint(train, test, what):
    return ()
  return (f"{train.name} and {test.name}: whether they share a {what} cannot be checked",)


def check_public(public: FaceDataset, *private: FaceDataset) -> tuple[str, ...]:
  """Notes about a set that is taken as public beside private ones, training images first.

  Raises:
    ValueError: it has another image shape, or a person of the private sets.
  """
  shape = list(private[0].images.shape[1:])
  if list(public.images.shape[1:]) != shape:
    raise ValueError(f"data.public images are {list(public.images.shape[1:])} but training images "
                     f"are {shape}; expected one shape: say the same size and grayscale of both")
  unknown = [note for dataset in private for note in _checked_disjoint(public, dataset, "person")]
  return (f"{public.name}: {len(public)} images are taken as public; "
          "the privacy guarantee does not cover them", *unknown)
