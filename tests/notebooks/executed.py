"""Executes notebooks in their long form, and stores what they show.

    python -m tests.notebooks tour fedgc
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import tempfile
from unittest import mock

import nbclient
import nbformat

NOTEBOOKS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
METADATA = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"}}


def executed(path: pathlib.Path, folder: pathlib.Path) -> nbformat.NotebookNode:
  """A notebook after a run of its long form, errors among its outputs; the file stays as it is.

  Args:
    path: of the notebook.
    folder: for the files of its kernel.
  """
  notebook = nbformat.read(path, as_version=4)
  spec = folder / "kernels" / "this"
  spec.mkdir(parents=True)
  (spec / "kernel.json").write_text(json.dumps({
      "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
      "display_name": "this interpreter", "language": "python"}))
  surroundings = {"JUPYTER_PATH": str(folder), "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
                  "IPYTHONDIR": str(folder / "ipython"), "FEDJAX_FACE_SHORT": "0"}
  with mock.patch.dict(os.environ, surroundings):
    nbclient.NotebookClient(
        notebook, timeout=None, kernel_name="this", allow_errors=True,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}}).execute()
  return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
  """Those that are executed."""
  return [cell for cell in notebook.cells if cell.cell_type == "code"]


def errors(notebook: nbformat.NotebookNode) -> list[str]:
  """What its cells raised."""
  return [f"{output.ename}: {output.evalue}" for cell in code_cells(notebook)
          for output in cell.outputs if output.output_type == "error"]


def storable(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
  """The same without what says when and where it ran: progress, and metadata of the kernel.

  What a cell prints in pieces becomes one output.
  """
  notebook.metadata = nbformat.from_dict(METADATA)
  for cell in code_cells(notebook):
    cell.metadata = nbformat.from_dict({})
    kept = []
    for output in cell.outputs:
      if kept and output.get("name") == kept[-1].get("name") == "stdout":
        kept[-1].text += output.text
      elif output.get("name") != "stderr":
        kept.append(output)
    cell.outputs = kept
  return notebook


def main(names: list[str]) -> None:
  for name in names or sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")):
    path = NOTEBOOKS / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as folder:
      notebook = executed(path, pathlib.Path(folder))
    if errors(notebook):
      sys.exit(f"{path}: {errors(notebook)[0]}")
    nbformat.write(storable(notebook), path)
