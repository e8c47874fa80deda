"""Picture grid of an attack: the people, and what is left of them at each epsilon."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from fedjax_face.evaluation.image_quality import ssim
from fedjax_face.figures.style import INK, MUTED, new_figure, style, wrapped

_SIDE = 1.05                                       # inches, of a picture's longer side
_POINTS = 9.5                                      # of the title
_LINE = 0.17                                       # inches, of the title


@style()
def reconstructions(originals: np.ndarray, rebuilt: Mapping[float, np.ndarray], *, mechanism: str,
                    cut: str, delta: float) -> Figure:
  """A row for each person: the original, its reconstruction without noise, then falling epsilons.

  Above each column stand its epsilon and the mean SSIM of its pictures with the originals.

  Args:
    originals: uint8 [P, H, W, C], C 1 or 3, H and W at least 11.
    rebuilt: epsilon -> uint8 [P, H, W, C]; infinity is the reconstruction without noise.
    mechanism: in words, for the title.
    cut: name of the layer after which the network is cut.
    delta: of all epsilons.

  Raises:
    ValueError: nothing rebuilt, or pictures of another shape or type.
  """
  _check(originals, rebuilt)
  height, width = originals.shape[1:3]
  scale = _SIDE / max(height, width)
  columns = [("original", originals)]
  for epsilon in sorted(rebuilt, reverse=True):
    name = "no noise" if math.isinf(epsilon) else f"$\\epsilon$ = {epsilon:g}"
    likeness = float(ssim(rebuilt[epsilon], originals).mean())
    columns.append((f"{name}\nSSIM {likeness:.2f}", rebuilt[epsilon]))
  wide = max(len(columns) * (width * scale + 0.06), 4.2)
  title = wrapped(f"What the server can rebuild: {mechanism}, cut after {cut}, "
                  f"δ\u00a0=\u00a0{delta:g}", wide, _POINTS)
  lines = 1 + title.count("\n")
  fig = new_figure(wide, len(originals) * (height * scale + 0.06) + 0.48 + _LINE * lines,
                   w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
  grid = fig.subplots(len(originals), len(columns), squeeze=False)
  for axes, (name, pictures) in zip(grid.T, columns, strict=True):
    axes[0].set_title(name, fontsize=9, fontweight="normal", loc="center", pad=5, color=INK)
    for panel, picture in zip(axes, pictures, strict=True):
      panel.imshow(np.broadcast_to(picture, (height, width, 3)), interpolation="nearest")
      panel.set_axis_off()
  fig.suptitle(title, fontsize=_POINTS, color=MUTED, x=0.01, ha="left")
  return fig


def _check(originals: np.ndarray, rebuilt: Mapping[float, np.ndarray]) -> None:
  if not rebuilt:
    raise ValueError("reconstructions needs the pictures of at least one epsilon")
  for name, pictures in (("originals", originals),
                         *((f"epsilon {epsilon:g}", rows) for epsilon, rows in rebuilt.items())):
    if (pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] not in (1, 3)
        or pictures.shape != originals.shape):
      raise ValueError(f"{name}: pictures are {pictures.dtype} {list(pictures.shape)}; expected "
                       f"uint8 [P, H, W, 1 or 3], all of one shape")
