"""Every notebook runs from top to bottom in its short form; what its long form showed is stored."""

import ast

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
pytest.importorskip("nbclient", reason="notebooks need nbclient")
pytest.importorskip("ipykernel", reason="notebooks need ipykernel")

from tests import drawing  # noqa: E402
from tests.notebooks import in_process  # noqa: E402
from tests.notebooks.executed import (  # noqa: E402
    METADATA,
    NOTEBOOKS,
    code_cells,
    errors,
    storable,
)

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
MOST_IMPORTS = 4


def shows(source):
  """Whether a cell prints, displays or ends with a value."""
  tree = ast.parse(source.replace("%matplotlib inline", ""))
  called = {node.func.id for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
  return bool(called & {"print", "display"}) or isinstance((tree.body or [None])[-1], ast.Expr)


def faults(notebook):
  """What a reader of the stored outputs would miss, or should not see."""
  cells = code_cells(notebook)
  if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
    yield "not executed from top to bottom"
  for number, cell in enumerate(cells, 1):
    if shows(cell.source) and not cell.outputs:
      yield f"cell {number} shows something, and nothing is stored"
    if cell.metadata or any(output.get("name") == "stderr" for output in cell.outputs):
      yield f"cell {number} says when or where it ran"
  if notebook.metadata != METADATA:
    yield "says which kernel ran it"
  if not any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs):
    yield "no picture"
  yield from errors(notebook)


def test_there_are_notebooks():
  assert PATHS


@every_notebook
def test_the_short_form_runs(path):
  with drawing.drawn():
    ran = in_process.executed(path)
  assert not list(faults(storable(ran)))


@every_notebook
def test_what_the_long_form_showed_is_stored(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert not list(faults(notebook))


@every_notebook
def test_it_is_small_and_names_no_machine(path):
  text = path.read_text()
  assert len(text) < 1_000_000
  assert not any(folder in text for folder in ("/home/", "/tmp/", "/Users/", "/root/", "/work/"))


@every_notebook
def test_it_begins_with_few_imports(path):
  first, *others = (ast.parse(cell.source.replace("%matplotlib inline", ""))
                    for cell in code_cells(nbformat.read(path, as_version=4)))
  imports = (ast.Import, ast.ImportFrom)
  assert sum(isinstance(node, imports) for node in ast.walk(first)) <= MOST_IMPORTS
  assert not any(isinstance(node, imports) for tree in others for node in ast.walk(tree))


def cell(source, count, *outputs):
  return nbformat.v4.new_code_cell(source, execution_count=count, outputs=list(outputs))


def stream(text, name="stdout"):
  return nbformat.v4.new_output("stream", text=text, name=name)


def test_a_notebook_that_was_not_run_to_its_end_is_caught():
  picture = nbformat.v4.new_output("display_data", {"image/png": ""})
  whole = [cell("draw()", 1, picture), cell("a = 1", 2), cell("print(a)", 3, stream("1"))]
  notebook = lambda *cells: nbformat.v4.new_notebook(cells=list(cells), metadata=METADATA)
  assert not list(faults(notebook(*whole)))
  half = *whole[:2], cell("print(a)", None)
  assert [words.split(",")[0] for words in faults(notebook(*half))] == [
      "not executed from top to bottom", "cell 3 shows something"]
  error = nbformat.v4.new_output("error", ename="E", evalue="no", traceback=[])
  assert list(faults(notebook(*whole[:2], cell("print(a)", 3, error)))) == ["E: no"]
  assert list(faults(notebook(*whole[1:]))) == ["not executed from top to bottom", "no picture"]


def test_progress_and_the_kernel_are_not_stored():
  timed = cell("print(1)", 1, stream("1"), stream("round 1", "stderr"), stream("2"))
  timed.metadata["execution"] = {"iopub.execute_input": "2020-01-01"}
  stored = storable(nbformat.v4.new_notebook(cells=[timed], metadata={"language_info": {
      "name": "python", "version": "3.11.7"}}))
  assert [output.text for output in stored.cells[0].outputs] == ["12"]
  assert list(faults(stored)) == ["no picture"]
