"""A model on a data set, as protocols are given it."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedjax_face.data.pairs import Pairs
from fedjax_face.evaluation import pairwise
from fedjax_face.evaluation.embedding import EmbedFn, Flip, embed_dataset

if TYPE_CHECKING:
  from fedjax_face.data.dataset import FaceDataset
  from fedjax_face.data.readers.template_lists import TemplateLists


class Shown(NamedTuple):
  """Of images that are embedded already, who is on each: int32 [N]."""

  label: np.ndarray
  person: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a protocol works on; embeddings are computed when first asked for, once for each flip."""

  embed_fn: EmbedFn
  dataset: FaceDataset | Shown
  pairs: Pairs | None
  fars: tuple[float, ...]
  batch_size: int
  bootstrap: int
  seed: int
  flip: Flip
  templates: TemplateLists | None = None

  @functools.cached_property
  def embeddings(self) -> np.ndarray:
    """Unit embeddings [N, D] with the flip asked for."""
    if self.flip == "sum":
      return self.flip_sum_embeddings
    return self._embedded(self.flip)

  @functools.cached_property
  def flip_sum_embeddings(self) -> np.ndarray:
    """Unit embeddings [N, D] of the summed flip test."""
    return self._embedded("sum")

  def _embedded(self, flip: Flip) -> np.ndarray:
    assert not isinstance(self.dataset, Shown)
    return embed_dataset(self.embed_fn, self.dataset.images, self.batch_size, flip)

  @functools.cached_property
  def histogram(self) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the similarities of all different-label and same-label pairs, in even bins."""
    return pairwise.similarity_histogram(self.embeddings, self.dataset.label)

  def usable(self, flipped: bool = False) -> Evaluation:
    """This without the images whose embedding is zero or not finite; itself where there are none.

    Args:
      flipped: whether the embeddings of the summed flip test are to be usable too.
    """
    good = _of_unit_length(self.embeddings)
    if flipped:
      good &= _of_unit_length(self.flip_sum_embeddings)
    if good.all():
      return self
    rest = dataclasses.replace(
        self, dataset=Shown(self.dataset.label[good], self.dataset.person[good]),
        pairs=None if self.pairs is None else self.pairs.kept(good),
        templates=None if self.templates is None else self.templates.kept(good))
    for name in ("embeddings", "flip_sum_embeddings"):
      if name in self.__dict__:
        rest.__dict__[name] = self.__dict__[name][good]
    return rest

  def required_pairs(self, protocol: str) -> Pairs:
    """The pairs, or a ValueError that names the protocol."""
    if self.pairs is None:
      raise ValueError(f"protocol {protocol} needs pairs, e.g. those of pairs_from_labels")
    return self.pairs

  def required_templates(self) -> TemplateLists:
    """The lists of a template protocol, or a ValueError that says where they come from."""
    if self.templates is None:
      raise ValueError("protocol templates needs the lists of a template protocol: evaluate with "
                       "--data=templates --data.path=FOLDER")
    return self.templates

  def rng(self, *stream: int) -> np.random.Generator:
    """A generator of its own for each use."""
    return np.random.default_rng([self.seed, *stream])


def _of_unit_length(embeddings: np.ndarray) -> np.ndarray:
  """Which rows of embeddings, of length one unless they are zero or not finite, bool [N]."""
  return np.linalg.norm(embeddings, axis=1) > 0.5  # not a number is no more than anything
