"""Sets for classification of known people: training and evaluation images of the same persons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_face.data.dataset import FaceDataset, compact
from fedjax_face.data.sources import Sources, check_public, whole_set
from fedjax_face.draws import Draws, part_identities


def load(config_data: Mapping[str, Any], rng_seed: int) -> Sources:
  """Loads a whole set and splits every person's images; labels mean the same on both sides.

  Args:
    config_data: `name` (one of `sources.PUBLIC`), the options of that source, `test_fraction` of
      every person's images, and perhaps `public`: `name` and options of another set.
    rng_seed: of the split.

  Raises:
    ValueError: an unknown name or key, a fraction outside (0, 1), a person with one image, or a
      public set of other image shape or with a person of the private one.
    FileNotFoundError: data that is not there.
  """
  options = dict(config_data)
  fraction, public = options.pop("test_fraction", None), options.pop("public", None)
  if fraction is None or not 0 < fraction < 1:
    raise ValueError(f"data.test_fraction={fraction!r}: expected a number between 0 and 1")
  whole, notes = whole_set("data", options)
  whole = compact(whole)
  test = _held_out(whole, fraction, Draws.of(rng_seed))
  sources = Sources(whole.select(~test), whole.select(test), notes=notes, not_covered=(
      "Evaluation metrics and figures are computed, without noise, on other images of the people "
      "who train.",), evaluates_training_people=True)
  if not public:
    return sources
  other, more = whole_set("data.public", dict(public))
  return sources._replace(public=compact(other), notes=(*notes, *more, *check_public(other, whole)))


def _held_out(whole: FaceDataset, fraction: float, draws: Draws) -> np.ndarray:
  """bool [N]: of every person about `fraction` of the images, at least one and not all."""
  test, identity = np.zeros(len(whole), bool), part_identities(whole.identities)
  for person in range(whole.num_persons):
    rows = np.flatnonzero(whole.person == person)
    rows = rows[draws.order(identity[rows], "evaluation")]
    if len(rows) < 2:
      raise ValueError(f"{whole.name}: person {person} has {len(rows)} image; expected at least 2, "
                       "one on each side")
    test[rows[:min(max(round(fraction * len(rows)), 1), len(rows) - 1)]] = True
  return test
