"""The page of an inspection: what was found in words, and pictures of each set."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from fedjax_face.data.dataset import FaceDataset
from fedjax_face.data.readers.file_bytes import printable

_SHOWN, _COLUMNS = 48, 12


def page(found: Any, faces: Mapping[str, FaceDataset]) -> str:
  """One HTML page with its pictures inside.

  Args:
    found: an `Inspection`.
    faces: its sets, by role.
  """
  parts = ["<h1>Before training</h1>", _list(found.lines)]
  for role, held in faces.items():
    rows = np.unique(np.linspace(0, len(held) - 1, min(_SHOWN, len(held))).astype(int))
    parts += [f"<h2>{role}: {html.escape(printable(held.name))}</h2>",
              _picture(_sheet(held.images[rows]), f"{len(rows)} images of the {role} set")]
  if found.twice:
    pairs = [place for pair in found.twice[:_SHOWN // 2] for place in (pair.first, pair.second)]
    sheet = _sheet(np.stack([faces[role].images[row] for role, row in pairs]))
    parts += ["<h2>Twice</h2>", _picture(sheet, "pairs of pictures that are nearly one"),
              _list([in_words(pair) for pair in found.twice[:_SHOWN // 2]])]
  if found.alike:
    parts += ["<h2>One person under two names?</h2>", _list([
        f"{pair.role}: {printable(pair.people[0])} and {printable(pair.people[1])}, cosine "
        f"{pair.similarity:.2f}" for pair in found.alike])]
  return _HEAD + "\n".join(parts) + "\n"


_HEAD = ("<!DOCTYPE html>\n<meta charset=\"utf-8\"><title>Before training</title>\n<style>body"
         "{font-family:sans-serif;max-width:60em;margin:2em auto;color:#222}"
         "img{max-width:100%;image-rendering:pixelated}li{margin:.3em 0}</style>\n")


def _list(lines: Sequence[str]) -> str:
  return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _sheet(images: np.ndarray) -> np.ndarray:
  """uint8 [rows * H, columns * W, C], missing ones white."""
  count, height, width, channels = images.shape
  columns = min(_COLUMNS, count)
  rows = -(-count // columns)
  sheet = np.full((rows * columns, height, width, channels), 255, np.uint8)
  sheet[:count] = images
  return sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2).reshape(
      rows * height, columns * width, channels)


def _picture(pixels: np.ndarray, words: str) -> str:
  file = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
  content = base64.b64encode(file.getvalue()).decode()
  width = min(2 * pixels.shape[1], 960)
  return (f'<img alt="{html.escape(words)}" width="{width}" '
          f'src="data:image/png;base64,{content}">')


def in_words(pair: Any) -> str:
  """Where both pictures are and whose they are."""
  places = [f"{role} row {row} ({printable(who)})"
            for (role, row), who in zip((pair.first, pair.second), pair.people, strict=True)]
  return f"{places[0]} and {places[1]}, correlation {pair.correlation:.3f}"
