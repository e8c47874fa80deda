"""Every notebook runs from top to bottom in its short form."""

import json
import pathlib
import sys

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient")
pytest.importorskip("ipykernel", reason="notebooks need ipykernel")

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
  """A kernel of this interpreter, short forms, and no files outside the test's folder."""
  spec = tmp_path / "kernels" / "this"
  spec.mkdir(parents=True)
  (spec / "kernel.json").write_text(json.dumps({
      "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
      "display_name": "this interpreter", "language": "python"}))
  for name, folder in (("JUPYTER_PATH", tmp_path), ("JUPYTER_RUNTIME_DIR", tmp_path / "runtime"),
                       ("IPYTHONDIR", tmp_path / "ipython")):
    monkeypatch.setenv(name, str(folder))
  monkeypatch.setenv("FEDJAX_FACE_SHORT", "1")
  return "this"


def test_there_are_notebooks():
  assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_leaves_no_error(path, kernel):
  notebook = nbformat.read(path, as_version=4)
  client = nbclient.NotebookClient(
      notebook, timeout=1200, kernel_name=kernel, allow_errors=True,
      resources={"metadata": {"path": str(path.parent)}})
  client.execute()
  cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
  errors = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
  assert not errors, f"{path.name}: {errors[0].ename}: {errors[0].evalue}"
  assert all(cell.execution_count for cell in cells)
  assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_small_and_names_no_machine(path):
  text = path.read_text()
  assert len(text) < 1_000_000
  assert not any(folder in text for folder in ("/home/", "/tmp/", "/Users/", "/root/"))
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
  assert not any(output.output_type == "error" or output.get("name") == "stderr"
                 for output in outputs)
