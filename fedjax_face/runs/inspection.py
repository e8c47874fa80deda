"""What is in a run's data, before anything trains: who, how much, twice, on both sides."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_face.data import duplicates, image_source
from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.file_bytes import printable
from fedjax_face.data.regions.sources import RegionSources
from fedjax_face.data.sources import Sources
from fedjax_face.runs import disk, inspection_page
from fedjax_face.runs.inspection_page import in_words

LOOKED_AT = 50_000
"""Images of a set that are compared; of a larger one so many are chosen evenly."""

_ROLES = ("train", "evaluation", "validation", "public")
_JUDGES = ("evaluation", "validation")
_ALIKE_PEOPLE, _AT_ONCE = 10, 256


class Counts(NamedTuple):
  """How much a set holds.

  Attributes:
    name: of the set.
    images, people, labels: how many.
    shape: (H, W, C) of an image.
    per_person: images of a person: fewest, quartile, median, quartile, most.
    looked_at: images that were compared with others.
    flat: of these, those of a single shade.
  """

  name: str
  images: int
  people: int
  labels: int
  shape: tuple[int, ...]
  per_person: tuple[int, ...]
  looked_at: int
  flat: int


class Twice(NamedTuple):
  """One picture in two places.

  Attributes:
    first, second: (role of the set, row in it).
    people: who is on them, by name or number.
    correlation: of their thumbnails.
  """

  first: tuple[str, int]
  second: tuple[str, int]
  people: tuple[str, str]
  correlation: float


class Alike(NamedTuple):
  """Two people of one set whose images a model puts close together.

  Attributes:
    role: of the set.
    people: by name or number.
    similarity: cosine of their mean embeddings.
  """

  role: str
  people: tuple[str, str]
  similarity: float


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What `inspect` found; in a notebook the page itself.

  Attributes:
    counts: of each set, by role: "train", "evaluation", "validation", "public".
    twice: the same picture in two places, nearest first.
    alike: people who may be one under two names, nearest first; none without a model.
    notes: what readers left out, and what could not be checked.
    page: the page as HTML.
  """

  counts: Mapping[str, Counts]
  twice: Sequence[Twice]
  alike: Sequence[Alike]
  notes: Sequence[str]
  page: str = dataclasses.field(repr=False)

  @property
  def across(self) -> list[Twice]:
    """Pictures that are in two sets."""
    return [pair for pair in self.twice if pair.first[0] != pair.second[0]]

  @property
  def two_names(self) -> list[Twice]:
    """Pictures that are in one set under two people."""
    return [pair for pair in self.twice
            if pair.first[0] == pair.second[0] and pair.people[0] != pair.people[1]]

  @property
  def lines(self) -> list[str]:
    """The findings in words, warnings first."""
    return [*_warnings(self), *_counted(self.counts), *self.notes]

  def _repr_html_(self) -> str:
    return self.page


def inspect(data: Any, *, model: Any = None, out: str | os.PathLike | None = None) -> Inspection:
  """Looks at the data of a run before it trains.

  Args:
    data: what `fit` takes: `Sources`, or a part such as `folder(path)`, of faces.
    model: a run, by whose embeddings people are sought who may be one under two names.
    out: a file for the page, which only its owner can read (0600), as private photographs are on
      it; None writes none.

  Raises:
    ValueError: data of face tasks, which have no sets of faces, or something else than data.
    OSError: a file that cannot be written.
  """
  sources = data if isinstance(data, Sources | RegionSources) else getattr(data, "sources", None)
  if sources is None:
    raise ValueError(f"data is {type(data).__name__}; expected a part such as folder(path), or "
                     "Sources(train, evaluation): a set of faces has `split`")
  sets = {role: getattr(sources, role, None) for role in _ROLES}
  faces = {role: held for role, held in sets.items() if isinstance(held, FaceDataset)}
  if "train" not in faces:
    raise ValueError("inspect looks at sets of faces; photographs with boxes and landmarks are "
                     "shown by the figures of their run")
  rows = {role: _chosen(len(held)) for role, held in faces.items()}
  small = {role: duplicates.thumbnails(held.images, rows[role]) for role, held in faces.items()}
  counts = {role: _count(held, small[role]) for role, held in faces.items()}
  twice = _twice(faces, rows, small)
  alike = [] if model is None else [
      pair for role, held in faces.items() for pair in _alike(role, held, rows[role], model)]
  alike = sorted(alike, key=lambda pair: -pair.similarity)
  notes = (*sources.notes, *(
      f"{role}: {len(rows[role]):,} of {len(held):,} images were compared"
      for role, held in faces.items() if len(rows[role]) < len(held)))
  found = Inspection(counts, twice, alike, notes, "")
  found = dataclasses.replace(found, page=inspection_page.page(found, faces))
  if out is not None:
    place = pathlib.Path(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    disk.write(place, found.page, disk.OWNER_ONLY)
  return found


def _chosen(count: int) -> np.ndarray:
  """Rows of a set that are looked at."""
  return np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64))


def _count(held: FaceDataset, small: np.ndarray) -> Counts:
  images = np.bincount(held.person)
  images = images[images > 0]
  return Counts(
      printable(held.name), len(held), len(images), len(np.unique(held.label)),
      tuple(held.images.shape[1:]),
      tuple(int(q) for q in np.quantile(images, [0, .25, .5, .75, 1], method="nearest")),
      len(small), int((np.abs(small).sum(1) == 0).sum()))


def _twice(faces: Mapping[str, FaceDataset], rows: Mapping[str, np.ndarray],
           small: Mapping[str, np.ndarray]) -> list[Twice]:
  """Of all sets together, nearest first."""
  if len({pictures.shape[1] for pictures in small.values()}) > 1:
    return []  # sets of several sizes are refused before training
  roles = [(role, int(row)) for role in faces for row in rows[role]]
  pairs, correlation = duplicates.same_pictures(np.concatenate([*small.values()]))
  who = lambda place: faces[place[0]].person_name(int(faces[place[0]].person[place[1]]))
  found = [Twice(roles[first], roles[second], (who(roles[first]), who(roles[second])), float(near))
           for (first, second), near in zip(pairs, correlation, strict=True)]
  return sorted(found, key=lambda pair: -pair.correlation)


def _alike(role: str, held: FaceDataset, rows: np.ndarray, model: Any) -> list[Alike]:
  """The nearest pairs of people by the mean of their embeddings."""
  embedded = model.embed(image_source.select(held.images, rows))
  people, place = np.unique(held.person[rows], return_inverse=True)
  mean = np.zeros((len(people), embedded.shape[1]), np.float32)
  np.add.at(mean, place, embedded)
  mean -= mean.mean(0)  # what all have in common is like nobody
  mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
  name = lambda number: held.person_name(int(people[number]))
  return [Alike(role, (name(first), name(second)), similarity)
          for similarity, first, second in _nearest(mean)]


def _nearest(rows: np.ndarray) -> list[tuple[float, int, int]]:
  """(similarity, first, second) of the nearest rows, nearest first, without all pairs at once."""
  best: list[tuple[float, int, int]] = []
  for start in range(0, len(rows), _AT_ONCE):
    block = rows[start:start + _AT_ONCE]
    near = block @ rows[start:].T
    order = np.arange(near.shape[1])
    near[order[:len(block), None] >= order] = -np.inf  # each pair once, nobody with themselves
    some = min(_ALIKE_PEOPLE, near.size)
    places = np.argpartition(near, near.size - some, axis=None)[near.size - some:]
    best += [(float(near[first, second]), start + int(first), start + int(second))
             for first, second in zip(*np.unravel_index(places, near.shape), strict=True)
             if np.isfinite(near[first, second])]
    best = sorted(best, key=lambda pair: (-pair[0], *pair[1:]))[:_ALIKE_PEOPLE]
  return best


def _warnings(found: Inspection) -> list[str]:
  """What should be mended before training."""
  out = []
  for second in _ROLES[1:]:
    pairs = [pair for pair in found.across if {pair.first[0], pair.second[0]} == {"train", second}]
    if pairs:
      what = "is public too, so that nothing protects it" if second == "public" else (
          "is also in what it is judged by")
      out.append(f"WARNING: {len(pairs)} picture(s) of the private training set are in the "
                 f"{second} set: a picture that {what}; first {in_words(pairs[0])}")
  seen = [pair for pair in found.across if "public" in (pair.first[0], pair.second[0])
          and {pair.first[0], pair.second[0]} & {*_JUDGES}]
  if seen:
    out.append(f"WARNING: {len(seen)} picture(s) are public and in what is judged by, so that a "
               f"public start has seen them; first {in_words(seen[0])}")
  if found.two_names:
    out.append(f"WARNING: {len(found.two_names)} picture(s) are there under two people, whom the "
               f"guarantee takes for two: first {in_words(found.two_names[0])}")
  for role in found.counts:
    same = [pair for pair in found.twice if pair.first[0] == pair.second[0] == role
            and pair.people[0] == pair.people[1]]
    if same:
      out.append(f"{role}: {len(same)} picture(s) are there twice under one person; first "
                 f"{in_words(same[0])}")
  out += [f"{role}: {of.flat} picture(s) of a single shade"
          for role, of in found.counts.items() if of.flat]
  if found.alike:
    nearest = found.alike[0]
    out.append(f"{nearest.role}: the two people whom the model finds most alike are "
               f"{printable(nearest.people[0])} and {printable(nearest.people[1])} "
               f"(cosine {nearest.similarity:.2f})")
  return out


def _counted(counts: Mapping[str, Counts]) -> list[str]:
  def line(role: str, of: Counts) -> str:
    size = "x".join(map(str, of.shape))
    least, low, median, high, most = of.per_person
    labels = "" if of.labels == of.people else f", {of.labels:,} labels"
    return (f"{role}: {of.name}: {of.images:,} images {size} of {of.people:,} people{labels}; "
            f"images a person: {median} in the middle, {low} to {high} for half of them, "
            f"{least} to {most} for all")
  return [line(role, of) for role, of in counts.items()]
