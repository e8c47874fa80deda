"""Who does not train, as parts: named people, sub-folders, unseen labels, other images.

Where a data set says nothing of it, chance decides: `evaluation` and `validation` are then the
probabilities with which a person evaluates or validates.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from fedjax_face.options import OptionError, register


class HeldOut(NamedTuple):
  """What decides in place of chance.

  Attributes:
    by: "file", "folders", "labels" or "images".
    path: of the file.
  """

  by: Literal["file", "folders", "labels", "images"]
  path: str = ""


register.kind(HeldOut, name="held_out", homes=("fedjax_face.data.held_out",))


@register.held_out
def by_file(path: str) -> HeldOut:
  """As a CSV with header `person,split` says; splits are train, validation and evaluation.

  A file that names who is held out alone leaves everybody else to training; one that also names who
  trains has to name everybody. Whom it names beyond the set is told and has no effect.

  Args:
    path: of the file; people by name or, where they have none, by number.
  """
  if not path:
    raise OptionError("path='': expected the name of a file")
  return HeldOut("file", path)


@register.held_out
def by_folders() -> HeldOut:
  """Sub-folders of a folder: `train/`, `test/` or `evaluation/`, and perhaps `validation/`.

  Each has a sub-folder for each person; nobody may be in two of them.
  """
  return HeldOut("folders")


@register.held_out
def unseen_labels() -> HeldOut:
  """Labels are held out, not people: each evaluates or validates with the probabilities said.

  People whose images have labels of both kinds train and evaluate, with other images.
  """
  return HeldOut("labels")


@register.held_out
def images_of_everybody() -> HeldOut:
  """Of every person the share `evaluation` of the images evaluates: recognition of known people.

  For methods that learn classes; everybody needs two images.
  """
  return HeldOut("images")
