"""Sets that are declared public, as parts: what a private set is trained after or beside.

Nothing of them is covered by the guarantee; that they share nobody with the private set is checked
by name, where there are names.
"""

from __future__ import annotations

from typing import Literal

from fedjax_face.data.domains import Domain, studio
from fedjax_face.data.sets import Count, NotNegative, PublicSet, Side, require_named
from fedjax_face.options import register


@register.public_set
def synthetic_faces(*, people: Count = 500, images_per_person: Count = 8, size: Side = 28,
                    grayscale: bool = True, domain: Domain = studio(),
                    seed: NotNegative = 2) -> PublicSet:
  """Rendered people.

  Args:
    people: how many.
    images_per_person: of each.
    size: pixels, height and width, 28 to 227.
    grayscale: one channel, else three.
    domain: what the photographs are like.
    seed: of the world in which they live.
  """
  return PublicSet({"name": "synthetic_faces", "num_people": people, "size": size, "seed": seed,
                    "images_per_person": images_per_person, "grayscale": grayscale,
                    "domain": domain})


@register.public_set
def folder(path: str, *, size: Count = 112, grayscale: bool = False,
           min_images: Count = 1, people_at: Count | None = None) -> PublicSet:
  """A folder (or zip file) with a sub-folder for each person; see `sets.folder`.

  Args:
    path: of the folder or zip file.
    size: pixels, height and width, to which images are scaled: that of the private set.
    grayscale: one channel, else three: as the private set.
    min_images: people with fewer are left out.
    people_at: how far below `path` the folders of people are; see `sets.folder`.
  """
  require_named(path=path)
  return PublicSet({"name": "folder", "path": path, "size": size, "grayscale": grayscale,
                    "min_images": min_images, "people_at": people_at})


@register.public_set
def listing(path: str, *, root: str | None = None, size: Count = 112, grayscale: bool = False,
            min_images: Count = 1,
            split: Literal["train", "validation", "evaluation"] | None = None) -> PublicSet:
  """A list of images with columns path and person; see `sets.listing`.

  Args:
    path: of the list.
    root: folder that its paths are relative to; None: that of the list.
    size, grayscale: as of `folder`.
    min_images: people with fewer are left out.
    split: only the rows of this one; None: all, whatever their split.
  """
  require_named(path=path, root=root)
  return PublicSet({"name": "listing", "path": path, "root": root, "size": size,
                    "grayscale": grayscale, "min_images": min_images, "split": split})


@register.public_set
def lfw(*, root: str | None = None, size: Count = 112, grayscale: bool = False,
        min_images: Count = 1) -> PublicSet:
  """Labeled Faces in the Wild, all of it; see `sets.lfw`.

  Args:
    root: the folder; None: $FEDJAX_FACE_DATA/lfw.
    size, grayscale: as of `folder`.
    min_images: people with fewer are left out.
  """
  require_named(root=root)
  return PublicSet({"name": "lfw", "root": root, "size": size, "grayscale": grayscale,
                    "min_images": min_images})


@register.public_set
def orl(*, path: str | None = None, size: Count = 32, grayscale: bool = True) -> PublicSet:
  """The ORL faces; see `sets.orl`."""
  require_named(path=path)
  return PublicSet({"name": "orl", "path": path, "size": size, "grayscale": grayscale})


@register.public_set
def insightface_rec(path: str, *, size: Count = 112, grayscale: bool = False,
                    limit: Count | None = None) -> PublicSet:
  """A training set of InsightFace; see `sets.insightface_rec`."""
  require_named(path=path)
  return PublicSet({"name": "insightface_rec", "path": path, "size": size,
                    "grayscale": grayscale, "limit": limit})
