"""What a limit on how much of a source is read means for the guarantee."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CAPS = ("limit", "max_people", "num_writers")
"""Options of sources that let in so many and leave out the others."""


def not_covered(section: str, options: Mapping[str, Any]) -> tuple[str, ...]:
  """Sentences for the privacy statement, one for each cap that is set.

  Args:
    section: of the config, where the options are.
    options: of a source.
  """
  return tuple(
      f"{section}.{cap}={options[cap]} lets in the first so many of the source; the guarantee "
      "compares sets as they train, and does not cover that who leaves the source lets another in."
      for cap in CAPS if options.get(cap))
