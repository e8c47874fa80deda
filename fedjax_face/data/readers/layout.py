"""Which folders of a source are people: the privacy unit is a person, and never a session of one.

`<person>/<session>/<image>` and `<group>/<person>/<image>` look alike, and taking sessions for
people would split the unit that the guarantee is about. What cannot be told apart is refused.
"""

from __future__ import annotations

import posixpath

from fedjax_face.data.readers.listing import Listing

_PICTURES = frozenset((
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pbm .pfm .pgm .png .pnm .ppm .tif "
    ".tiff .webp").split())


def person_depth(source: str, content: Listing, people_at: int | None,
                 ) -> tuple[int, list[str]]:
  """How far below the root the folders of people are, 1 = in it, and what is to be said about it.

  Folders are passed through as long as there is one only, with folders and no pictures in it. The
  folders after it are people where all pictures of each are in it, or some are in it and others in
  folders of its own, sessions. Where a folder has pictures only in folders of its own, it may be a
  person with sessions or a group of people.

  Args:
    source: for messages.
    content: of the source.
    people_at: as somebody says; None: as seen.

  Raises:
    ValueError: sessions or groups and nobody says which, or no folder where somebody says.
  """
  pictures = [file for file in content.files if is_picture(file)] or content.files
  folders = content.folders
  if people_at is not None:
    if people_at < 1 or not any(_depth(folder) == people_at for folder in folders):
      raise ValueError(f"{source}: people_at={people_at}: there is no folder so far below; "
                       f"expected 1 to {max(map(_depth, folders), default=1)}")
    return people_at, []
  direct = {file.rpartition("/")[0] for file in pictures}
  top = ""
  while True:
    below = [folder for folder in folders if folder.rpartition("/")[0] == top]
    if (len(below) != 1 or below[0] in direct
        or not any(folder.startswith(f"{below[0]}/") for folder in folders)):
      break
    top = below[0]
  depth = _depth(top) + 1
  deep = sorted(folder for folder in direct if _depth(folder) > depth)
  remarks = [f"people are the folders in {top}"] if top not in ("", content.name) else []
  if not deep:
    return depth, remarks
  for folder in deep:
    person = "/".join(folder.split("/")[:depth])
    if person not in direct:
      raise ValueError(_ambiguous(source, folder, depth))
  return depth, [*remarks, "pictures in folders of a person's folder, as in "
                           f"{deep[0]}, are that person's"]


def is_picture(file: str) -> bool:
  """Whether a file has the ending of a picture, be it of a format that is read or not."""
  return posixpath.splitext(file)[1].lower() in _PICTURES


def _ambiguous(source: str, folder: str, depth: int) -> str:
  upper, lower = folder.split("/")[depth - 1:depth + 1]
  return (f"{source}: {folder} may be session {lower} of person {upper}, or person {lower} of "
          f"group {upper}; say people_at={depth} if {upper} is a person, or "
          f"people_at={depth + 1} if {lower} is one")


def _depth(folder: str) -> int:
  return len(folder.split("/")) if folder else 0
