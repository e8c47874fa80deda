"""Data sets as parts: each loads the sets of a run when they are first asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

from fedjax_face.data import by_hand, sources
from fedjax_face.data import closed_set as known_people
from fedjax_face.data.domains import Domain, street, studio
from fedjax_face.data.held_out import HeldOut
from fedjax_face.data.regions.sources import RegionSources
from fedjax_face.options import OptionError, at_least, register, within

Count = Annotated[int, at_least(1)]
NotNegative = Annotated[int, at_least(0)]
Side = Annotated[int, within("[28, 227]")]  # of a rendered face
Fraction = Annotated[float, within("(0, 1)")]
Share = Annotated[float, within("[0, 1)")]


def require_named(**places: str | None) -> None:
  """Refuses an empty text for a place or a set, which would mean the current folder.

  Raises:
    OptionError: naming the option.
  """
  for name, place in places.items():
    if place == "":
      raise OptionError(f"{name}='': expected the name of a place; an empty one would be the "
                        "current folder")


class Data:
  """The sets of a run, loaded when they are first asked for.

  Attributes:
    feeds: what they train and judge: "embeddings", "face_tasks" or "classes".

  Args:
    load: () -> Sources, or the RegionSources of face tasks.
    words: what they are, where they were made by hand.
    feeds: see above.
    public: () -> the public set, where it can be had without the private one.
  """

  def __init__(self, load: Callable[[], Any], words: str = "Data", feeds: str = "embeddings",
               public: Callable[[], Any] | None = None) -> None:
    self._load, self._words, self.feeds, self._public = load, words, feeds, public

  @classmethod
  def by_hand(cls, made: Any) -> Data:
    """Sets that were made by hand; checked when they are first asked for."""
    if isinstance(made, RegionSources):
      return cls(lambda: made, f"RegionSources({made.train.name!r})", "face_tasks")
    return cls(lambda: by_hand.checked(made), sources.words(made),
               "classes" if made.evaluates_training_people else "embeddings")

  def __repr__(self) -> str:
    return self._words

  @functools.cached_property
  def sources(self) -> Any:
    """All sets: `Sources`, or `RegionSources` of face tasks."""
    return self._load()

  @property
  def train(self) -> Any:
    """The private training set."""
    return self.sources.train

  @property
  def evaluation(self) -> Any:
    """People who do not train, or other images of those who do."""
    return self.sources.evaluation

  @property
  def validation(self) -> Any:
    """People who judge while training goes on, or None."""
    return getattr(self.sources, "validation", None)

  @functools.cached_property
  def public(self) -> Any:
    """Outside the guarantee, or None."""
    return self.sources.public if self._public is None else self._public()


class PublicSet:
  """A set that is declared public, beside a private one.

  Args:
    section: `name` and options, as `sources.whole_set` takes them.
  """

  def __init__(self, section: dict[str, Any]) -> None:
    self.section = section


register.kind(Data, homes=("fedjax_face.data.sets", "fedjax_face.data.photograph_sets"))
register.kind(PublicSet, name="public_set", homes=("fedjax_face.data.public_sets",))


def _data(section: dict[str, Any], seed: int, public: PublicSet | None = None) -> Data:
  if public is not None:
    section = {**section, "public": public.section}
  return Data(lambda: sources.load(section, seed), public=_public(section))


_SAYS_WHO = {"file": "by_file, whose file says who validates",
             "folders": "by_folders, of which validation/ says who validates",
             "images": "images_of_everybody"}


def _people(section: dict[str, Any], seed: int, public: PublicSet | None, evaluation: float,
            validation: float, held_out: HeldOut | None) -> Data:
  """The sets of a reader that tells people apart, by who is held out."""
  section = {**section, "test_fraction": evaluation}
  if validation + evaluation >= 1:
    raise OptionError(f"validation={validation}: expected less than {1 - evaluation:g}, beside "
                      f"evaluation={evaluation}")
  if validation and held_out is not None and held_out.by in _SAYS_WHO:
    raise OptionError(f"validation={validation}: expected 0 beside held_out="
                      f"{_SAYS_WHO[held_out.by]}")
  if held_out is None or held_out.by != "images":
    return _data({**section, "validation_fraction": validation, "held_out": held_out}, seed, public)
  if public is not None:
    section["public"] = public.section
  return Data(lambda: known_people.load(section, seed), feeds="classes", public=_public(section))


def _public(section: dict[str, Any]) -> Callable[[], Any] | None:
  """() -> the public set of a section; None where it has none."""
  return (lambda: sources.load_public(section)) if section.get("public") else None


@register.data
def synthetic_faces(*, people: Count = 1000, images_per_person: Count = 4, size: Side = 28,
                    evaluation: Count = 100, public: NotNegative = 0,
                    public_images_per_person: Count = 8,
                    domain: Domain = street(), public_domain: Domain = studio(),
                    grayscale: bool = True,
                    on_demand: bool | None = None, seed: NotNegative = 0,
                    public_seed: NotNegative = 2) -> Data:
  """Rendered people, without any download: snapshots train, portraits of others are public.

  Args:
    people: who train.
    images_per_person: of those who train or evaluate.
    size: pixels, height and width, 28 to 227.
    evaluation: further people, who evaluate.
    public: people of another world; 0 for none.
    public_images_per_person: of these.
    domain: what photographs of those who train or evaluate are like.
    public_domain: what those of the public people are like.
    grayscale: one channel, else three.
    on_demand: renders a training image when a round asks for it, so that memory does not grow with
      the number of people; None: where all together would take more than 1 GiB.
    seed: of the world in which they live: another one has other people.
    public_seed: of the world of the public people.
  """
  section: dict[str, Any] = {
      "name": "synthetic_faces", "num_people": people, "evaluation_people": evaluation,
      "images_per_person": images_per_person, "size": size, "seed": seed, "grayscale": grayscale,
      "on_demand": on_demand, "domain": domain}
  if public:
    section["public"] = {
        "name": "synthetic_faces", "num_people": public, "size": size, "seed": public_seed,
        "images_per_person": public_images_per_person, "grayscale": grayscale,
        "domain": public_domain}
  return _data(section, seed)


@register.data
def folder(path: str, *, size: Count = 112, evaluation: Fraction = 0.1, validation: Share = 0.0,
           held_out: HeldOut | None = None, grayscale: bool = False, min_images: Count = 1,
           people_at: Count | None = None, public: PublicSet | None = None,
           on_demand: bool | None = None, seed: NotNegative = 0) -> Data:
  """A folder (or zip file) with a sub-folder for each person; files that are no images are skipped.

  Args:
    path: of the folder.
    size: pixels, height and width, to which images are scaled, whatever their aspect ratio.
    evaluation: probability with which a person evaluates instead of training.
    validation: probability with which one judges while training goes on; 0 for nobody.
    held_out: who does not train, named in place of these; None: chance decides.
    grayscale: one channel, else three.
    min_images: people with fewer are left out.
    people_at: how far below `path` the folders of people are, 1 = in it; None: as seen, and refused
      where sessions of people cannot be told from people of groups.
    on_demand: decodes an image when a round asks for it, so that memory does not grow with their
      number; None: where all together would take more than 1 GiB.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(path=path)
  return _people({"name": "folder", "path": path, "size": size, "grayscale": grayscale,
                  "min_images": min_images, "people_at": people_at, "on_demand": on_demand},
                 seed, public, evaluation, validation, held_out)


@register.data
def listing(path: str, *, root: str | None = None, size: Count = 112, evaluation: Fraction = 0.1,
            validation: Share = 0.0, held_out: HeldOut | None = None, grayscale: bool = False,
            min_images: Count = 1, public: PublicSet | None = None, on_demand: bool | None = None,
            seed: NotNegative = 0) -> Data:
  """A list of images (CSV, TSV or Parquet) with columns path and person, and perhaps label, split,
  gender, landmarks (x0,y0,x1,y1,...) and further numbers, as `data.readers.person_lists` says.

  The person is whom a guarantee is for, the label what is recognised; they may differ.

  Args:
    path: of the list; Parquet needs pyarrow.
    root: folder that its paths are relative to; None: that of the list. None leads out of it.
    size: pixels, height and width, to which images are scaled, whatever their aspect ratio.
    evaluation: probability with which a person evaluates, where the list has no column split.
    validation: probability with which one judges while training goes on; 0 for nobody, or where a
      column split says who.
    held_out: who does not train, named in place of these and of the column split; None: the column,
      or else chance, decides.
    grayscale: one channel, else three.
    min_images: people with fewer are left out.
    on_demand: decodes an image when a round asks for it, so that memory does not grow with their
      number; None: where all together would take more than 1 GiB.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(path=path, root=root)
  return _people({"name": "listing", "path": path, "root": root, "size": size,
                  "grayscale": grayscale, "min_images": min_images, "on_demand": on_demand},
                 seed, public, evaluation, validation, held_out)


@register.data
def orl(*, path: str | None = None, size: Count = 32, evaluation: Fraction = 0.4,
        validation: Share = 0.0, held_out: HeldOut | None = None, grayscale: bool = True,
        public: PublicSet | None = None, seed: NotNegative = 0) -> Data:
  """The ORL faces: 400 photographs of 40 people (AT&T Laboratories Cambridge).

  Args:
    path: of att_faces.zip; None: orl/att_faces.zip under $FEDJAX_FACE_DATA.
    size: pixels, height and width.
    evaluation: probability with which a person evaluates instead of training.
    validation: probability with which one judges while training goes on; 0 for nobody.
    held_out: who does not train, named in place of these; None: chance decides.
    grayscale: one channel, else three.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(path=path)
  return _people({"name": "orl", "path": path, "size": size, "grayscale": grayscale}, seed, public,
                 evaluation, validation, held_out)


@register.data
def lfw(*, root: str | None = None, size: Count = 112, grayscale: bool = False,
        test_folds: tuple[int, ...] = (1, 2), min_images: Count = 1,
        max_people: Count | None = None, public: PublicSet | None = None) -> Data:
  """Labeled Faces in the Wild: people outside some View-2 folds train, those folds evaluate.

  Args:
    root: folder of the archive and pairs.txt; None: lfw under $FEDJAX_FACE_DATA.
    size: pixels, height and width.
    grayscale: one channel, else three.
    test_folds: that evaluate, by their official pairs.
    min_images: people who train have at least so many.
    max_people: most people who train, the first by name; None: all.
    public: a set that is declared public.

  Source: Huang, Ramesh, Berg, Learned-Miller, UMass Amherst 07-49, 2007.
  """
  require_named(root=root)
  return _data({"name": "lfw", "root": root, "size": size, "grayscale": grayscale,
                "test_folds": test_folds, "min_images": min_images, "max_people": max_people}, 0,
               public)


@register.data
def femnist(*, path: str | None = None, num_writers: Count | None = None,
            first_unseen_label: Count = 36, public: PublicSet | None = None) -> Data:
  """Handwritten characters by writer; characters from `first_unseen_label` on are unseen.

  Args:
    path: of LEAF json files or an npz; None: the subset under $FEDJAX_FACE_DATA.
    num_writers: the first so many; None: all.
    first_unseen_label: characters below it train, the others evaluate.
    public: a set that is declared public.

  Source: Caldas et al., arXiv 1812.01097 (LEAF).
  """
  require_named(path=path)
  return _data({"name": "femnist", "path": path, "num_writers": num_writers,
                "first_unseen_label": first_unseen_label}, 0, public)


@register.data
def insightface_rec(path: str, *, size: Count = 112, evaluation: Fraction = 0.1,
                    validation: Share = 0.0, held_out: HeldOut | None = None,
                    grayscale: bool = False, limit: Count | None = None,
                    public: PublicSet | None = None, on_demand: bool | None = None,
                    seed: NotNegative = 0) -> Data:
  """A training set of InsightFace: train.rec and train.idx.

  Args:
    path: of the folder.
    size: pixels, height and width.
    evaluation: probability with which a person evaluates instead of training.
    validation: probability with which one judges while training goes on; 0 for nobody.
    held_out: who does not train, named in place of these; None: chance decides.
    grayscale: one channel, else three.
    limit: most images; None: all.
    on_demand: decodes an image when a round asks for it, so that memory does not grow with their
      number; None: where all together would take more than 1 GiB.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(path=path)
  return _people({"name": "insightface_rec", "path": path, "size": size, "grayscale": grayscale,
                  "limit": limit, "on_demand": on_demand},
                 seed, public, evaluation, validation, held_out)


@register.data
def tfds(dataset: str, *, size: Count = 112, split: str = "train", data_dir: str | None = None,
         evaluation: Fraction = 0.1, validation: Share = 0.0, held_out: HeldOut | None = None,
         grayscale: bool = False, limit: Count | None = None,
         image: str | None = None, label: str | None = None, person: str | None = None,
         public: PublicSet | None = None, on_demand: bool | None = None,
         seed: NotNegative = 0) -> Data:
  """A data set of TensorFlow Datasets that is prepared already, read without TensorFlow.

  Args:
    dataset: name and perhaps config and version, "lfw" or "digiface:1.0.0".
    size: pixels, height and width.
    split: of the data set.
    data_dir: where it was prepared; None: TFDS's own place.
    evaluation: probability with which a person evaluates instead of training.
    validation: probability with which one judges while training goes on; 0 for nobody.
    held_out: who does not train, named in place of these; None: chance decides.
    grayscale: one channel, else three.
    limit: most images; None: all.
    image, label, person: names of its features; None: those known of the data set.
    on_demand: decodes an image when a round asks for it, so that memory does not grow with their
      number; None: where all together would take more than 1 GiB.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(dataset=dataset, data_dir=data_dir)
  return _people({"name": "tfds", "dataset": dataset, "size": size, "split": split,
                  "data_dir": data_dir, "grayscale": grayscale, "limit": limit, "image": image,
                  "label": label, "person": person, "on_demand": on_demand},
                 seed, public, evaluation, validation, held_out)


@register.data
def digiface(data_dir: str, *, manual_dir: str | None = None, size: Count = 112,
             evaluation: Fraction = 0.1, validation: Share = 0.0, held_out: HeldOut | None = None,
             grayscale: bool = False, limit: Count | None = None,
             public: PublicSet | None = None, on_demand: bool | None = None,
             seed: NotNegative = 0) -> Data:
  """DigiFace-1M: 10,000 rendered identities of 72 images (Bae et al., WACV 2023).

  Args:
    data_dir: where TFDS prepares it.
    manual_dir: of the downloaded archives, where it is not prepared yet.
    size: pixels, height and width.
    evaluation: probability with which a person evaluates instead of training.
    validation: probability with which one judges while training goes on; 0 for nobody.
    held_out: who does not train, named in place of these; None: chance decides.
    grayscale: one channel, else three.
    limit: most images; None: all.
    on_demand: decodes an image when a round asks for it, so that memory does not grow with their
      number; None: where all together would take more than 1 GiB.
    public: a set that is declared public.
    seed: of who evaluates.
  """
  require_named(data_dir=data_dir, manual_dir=manual_dir)
  return _people({"name": "digiface", "data_dir": data_dir, "manual_dir": manual_dir, "size": size,
                  "grayscale": grayscale, "limit": limit, "on_demand": on_demand},
                 seed, public, evaluation, validation, held_out)


@register.data
def closed_set(people: PublicSet, *, evaluation: Fraction = 0.25, public: PublicSet | None = None,
               seed: NotNegative = 0) -> Data:
  """Classification of known people: of every person some images train and the others evaluate.

  Args:
    people: a whole set; here it is private.
    evaluation: share of every person's images that evaluate.
    public: a set that is declared public.
    seed: of which images evaluate.
  """
  section = {**people.section, "test_fraction": evaluation}
  if public is not None:
    section["public"] = public.section
  return Data(lambda: known_people.load(section, seed), feeds="classes", public=_public(section))
