"""Photographs with annotated faces as parts, for networks of several face tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fedjax_face.data.regions import sources as region_sources
from fedjax_face.data.regions.kinds import (
  PhotographSource,
  Proposals,
  RegionCounts,
  RegionCut,
)
from fedjax_face.data.regions.proposers import random
from fedjax_face.data.sets import Count, Data, Fraction, NotNegative, require_named
from fedjax_face.options import above, register, within

Share = Annotated[float, above(0)]
Overlap = Annotated[float, within("(0, 0.95]")]


@register.region_cut
def regions(*, size: Count = 64, positives_per_face: NotNegative = 2,
            negatives_per_image: NotNegative = 3, jittered_per_face: NotNegative = 4,
            parts_per_face: NotNegative = 0, frame: Literal["corner", "centre"] = "corner",
            positive_iou: Overlap = 0.5, negative_iou: Overlap = 0.35) -> RegionCut:
  """Which candidates become regions; see `regions.RegionOptions`.

  Args:
    size: pixels, side of the resized regions.
    positives_per_face: most regions of a face.
    negatives_per_image: most regions without a face.
    jittered_per_face: boxes near each face beside the proposer's.
    parts_per_face: most regions without a face that show a part of one.
    frame: of the landmarks' coordinates.
    positive_iou: a candidate that overlaps a face by more is that face.
    negative_iou: one that overlaps every face by less is none.
  """
  return RegionCut({
      "size": size, "positives_per_face": positives_per_face,
      "negatives_per_image": negatives_per_image, "jittered_per_face": jittered_per_face,
      "parts_per_face": parts_per_face, "frame": frame, "positive_iou": positive_iou,
      "negative_iou": negative_iou})


@register.region_counts
def counts(*, positives_per_face: NotNegative | None = None,
           negatives_per_image: NotNegative | None = None,
           jittered_per_face: NotNegative | None = None,
           parts_per_face: NotNegative | None = None) -> RegionCounts:
  """Numbers of regions in place of those of the data.

  Args:
    positives_per_face, negatives_per_image, jittered_per_face, parts_per_face: as of `regions`;
      None: as there.
  """
  own = {"positives_per_face": positives_per_face, "negatives_per_image": negatives_per_image,
         "jittered_per_face": jittered_per_face, "parts_per_face": parts_per_face}
  return RegionCounts({name: value for name, value in own.items() if value is not None})


def _source(name: str, regions: RegionCounts | None, **values: Any) -> PhotographSource:
  """The section of a source; of what is None it has its own default, or that of the data."""
  require_named(**{key: value for key, value in values.items() if isinstance(value, str)})
  section = {"name": name} | {key: value for key, value in values.items() if value is not None}
  return PhotographSource(section | ({"regions": regions.section} if regions else {}))


@register.photograph_source
def synthetic_scenes(*, scenes: Count = 1600, people: Count = 800, size: Count = 128,
                     faces: tuple[int, int] = (1, 3),
                     face_side: tuple[float, float] = (0.25, 0.55), circle: Count = 4,
                     seed: NotNegative = 0,
                     regions: RegionCounts | None = None) -> PhotographSource:
  """Rendered photographs of one to three people, without any download.

  Args:
    scenes: photographs.
    people: who are on them.
    size: pixels, height and width.
    faces: least and most on a photograph.
    face_side: least and most, as a share of the photograph.
    circle: people of whom the same photographs are taken.
    seed: of the world in which they live.
    regions: numbers of them of its own.
  """
  return _source("synthetic_scenes", regions,
                 num_scenes=scenes, num_people=people, size=size, faces=faces,
                 face_side=face_side, circle=circle, seed=seed)


@register.photograph_source
def listing(path: str, *, root: str | None = None, limit: Count | None = None,
            regions: RegionCounts | None = None) -> PhotographSource:
  """A list of faces that are marked on photographs of your own: path, box, and perhaps person,
  gender, roll, pitch, yaw and landmarks, as `data.readers.marked_list` says.

  Args:
    path: of the list: CSV, TSV or Parquet.
    root: folder that its paths are relative to; None: that of the list.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("listing", regions, path=path, root=root, limit=limit)


@register.photograph_source
def aflw2000(*, root: str | None = None, limit: Count | None = None,
             regions: RegionCounts | None = None) -> PhotographSource:
  """AFLW2000-3D (Zhu, Lei, Liu, Shi, Li, CVPR 2016): landmarks and pose.

  Args:
    root: its folder; None: aflw2000_3d under $FEDJAX_FACE_DATA.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("aflw2000", regions, root=root,
                 limit=limit)


@register.photograph_source
def aflw(*, root: str | None = None, limit: Count | None = None,
         regions: RegionCounts | None = None) -> PhotographSource:
  """Annotated Facial Landmarks in the Wild (Koestinger, Wohlhart, Roth, Bischof, 2011).

  Args:
    root: its folder; None: aflw under $FEDJAX_FACE_DATA.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("aflw", regions, root=root,
                 limit=limit)


@register.photograph_source
def lfw_originals(*, root: str | None = None, limit: Count | None = None,
                  regions: RegionCounts | None = None) -> PhotographSource:
  """Photographs of Labeled Faces in the Wild before they were aligned.

  Args:
    root: folder of LFW; None: lfw under $FEDJAX_FACE_DATA.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("lfw_originals", regions, root=root, limit=limit)


@register.photograph_source
def lfw_aligned(*, root: str | None = None, people: Literal["all", "others"] = "all",
                limit: Count | None = None,
                regions: RegionCounts | None = None) -> PhotographSource:
  """Aligned photographs of Labeled Faces in the Wild.

  Args:
    root: folder of LFW; None: lfw under $FEDJAX_FACE_DATA.
    people: all, or others: who is not in `lfw_originals`.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("lfw_aligned", regions, root=root,
                 people=people, limit=limit)


@register.photograph_source
def utkface(*, path: str | None = None, limit: Count | None = None,
            regions: RegionCounts | None = None) -> PhotographSource:
  """UTKFace (Zhang, Song, Qi, CVPR 2017): one face a photograph, with gender.

  Args:
    path: of its archive; None: utkface/UTKFace-1000.zip under $FEDJAX_FACE_DATA.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("utkface", regions, path=path,
                 limit=limit)


@register.photograph_source
def celeb_a(*, split: str = "train", data_dir: str | None = None, limit: Count | None = None,
            regions: RegionCounts | None = None) -> PhotographSource:
  """CelebA (Liu, Luo, Wang, Tang, ICCV 2015) as TensorFlow Datasets prepared it.

  Args:
    split: of the data set.
    data_dir: where it was prepared; None: TFDS's own place.
    limit: most photographs; None: all.
    regions: numbers of them of its own.
  """
  return _source("celeb_a", regions, split=split,
                 data_dir=data_dir, limit=limit)


@register.photograph_source
def the300w_lp(*, split: str = "train", data_dir: str | None = None, limit: Count | None = None,
               regions: RegionCounts | None = None) -> PhotographSource:
  """300W-LP (Zhu, Lei, Liu, Shi, Li, CVPR 2016) as TensorFlow Datasets prepared it.

  Args:
    split, data_dir, limit: as of `celeb_a`.
    regions: numbers of them of its own.
  """
  return _source("the300w_lp", regions, split=split,
                 data_dir=data_dir, limit=limit)


@register.data
def photographs(sources: Mapping[str, PhotographSource], *, regions: RegionCut = regions(),
                proposer: Proposals = random(), evaluation: Fraction = 0.3,
                split: Literal["person", "image"] = "person", cache: str | None = None,
                public: Mapping[str, PhotographSource] | None = None,
                seed: NotNegative = 0) -> Data:
  """Annotated photographs, of which regions with and without a face are cut.

      ff.photographs({"mine": ff.photograph_sources.utkface(limit=500)},
                     public={"scenes": ff.photograph_sources.synthetic_scenes(scenes=200)})

  Args:
    sources: that train and evaluate, each split for itself; names of the caller's choice.
    regions: which candidates become regions.
    proposer: where candidates come from.
    evaluation: share of the people, or of the photographs, that evaluates.
    split: what is kept whole.
    cache: folder where regions are kept; None: nowhere.
    public: sources that are declared public, and pre-train.
    seed: of who evaluates.
  """
  require_named(cache=cache)
  section = {"sources": {name: source.section for name, source in sources.items()},
             "regions": regions.section, "proposer": proposer.section,
             "test_fraction": evaluation, "split": split}
  if cache is not None:
    section["cache"] = cache
  if public:
    section["public"] = {"sources": {name: of.section for name, of in public.items()}}
  return Data(lambda: region_sources.load(section, seed), feeds="face_tasks",
              public=lambda: region_sources.load_public(section)[0])
