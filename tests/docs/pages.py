"""Pages, and what is read from their text."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = tuple(sorted(path.relative_to(ROOT) for path in (
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md")))
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:python -m|make) [^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


class Command(NamedTuple):
  """A command of a page; `block` numbers the fenced block that it stands in, -1 in a sentence."""

  page: str
  block: int
  words: tuple[str, ...]

  def __str__(self):
    return shlex.join(self.words)


def text(page):
  return (ROOT / page).read_text()


def blocks(page, language):
  """Fenced blocks of a language ("": none is said), without their indentation."""
  return [re.sub(rf"^{indent}", "", inside, flags=re.MULTILINE)
          for indent, said, inside in _FENCE.findall(text(page)) if said == language]


def commands(page):
  """Commands in fenced blocks without a language, in their order, then those in sentences."""
  found = []
  for number, block in enumerate(blocks(page, "")):
    for line in block.replace("\\\n", " ").splitlines():
      if words := shlex.split(line, comments=True):
        found.append(Command(str(page), number, tuple(words)))
  prose = _FENCE.sub("", text(page))
  found += [Command(str(page), -1, tuple(shlex.split(inside))) for inside in _INLINE.findall(prose)]
  return found


def links(page):
  """Targets of links and pictures that are files of the repository, with `#heading` if said."""
  return [target for target in _LINK.findall(_FENCE.sub("", text(page)))
          if not target.startswith(("http://", "https://"))]


def anchors(page):
  """What `#heading` may say of a page."""
  titles = re.findall(r"^#+ (.*)$", _FENCE.sub("", text(page)), re.MULTILINE)
  return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
