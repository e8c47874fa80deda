"""Notebooks in this process, which has JAX loaded and shares what other tests compiled."""

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from unittest import mock

import matplotlib
import nbformat
from IPython.core.displayhook import DisplayHook
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.pylabtools import select_figure_formats
from IPython.utils.capture import RichOutput, capture_output
from matplotlib_inline.config import InlineBackend
from traitlets.config import Config

SHOWN = ["text/plain", "text/markdown", "image/png"]


class Displayed(DisplayHook):
  """The value of a cell's last expression is displayed, as a notebook does it, not printed."""

  def write_output_prompt(self):
    """None."""

  def write_format_data(self, format_dict, md_dict=None):
    """To where pictures go."""
    self.shell.display_pub.publish(data=format_dict, metadata=md_dict)


class Shell(InteractiveShell):
  """A notebook's interpreter without a kernel around it."""

  displayhook_class = Displayed

  def enable_gui(self, gui=None):
    """Pictures go into the cell."""


def executed(path: pathlib.Path) -> nbformat.NotebookNode:
  """A notebook after a run of its short form from top to bottom, errors among its outputs."""
  notebook = nbformat.read(path, as_version=4)
  with _shell() as shell, contextlib.chdir(path.parent), mock.patch.dict(
      os.environ, {"FEDJAX_FACE_SHORT": "1"}):
    for cell in notebook.cells:
      if cell.cell_type == "code":
        with capture_output() as shown:
          ran = shell.run_cell(cell.source, store_history=True)
        cell.execution_count = shell.execution_count - 1
        cell.outputs = list(_outputs(shown.stdout, shown.outputs, ran.error_before_exec
                                     or ran.error_in_exec))
  return notebook


def _outputs(printed: str, displayed: list[RichOutput], error: BaseException | None
             ) -> Iterator[nbformat.NotebookNode]:
  if printed:
    yield nbformat.v4.new_output("stream", name="stdout", text=printed)
  for output in displayed:
    yield nbformat.v4.new_output("display_data", {
        kind: "" if isinstance(value, bytes) else value for kind, value in output.data.items()})
  if error is not None:
    yield nbformat.v4.new_output("error", ename=type(error).__name__, evalue=str(error),
                                 traceback=[])


@contextlib.contextmanager
def _shell() -> Iterator[Shell]:
  """That leaves nothing in the user's home, and this process as it was."""
  backend, main = matplotlib.get_backend(), sys.modules["__main__"]
  with tempfile.TemporaryDirectory() as home:
    shell = Shell.instance(
        config=Config({"HistoryManager": {"enabled": False}}), ipython_dir=home)
    shell.display_formatter.active_types = SHOWN
    select_figure_formats(shell, {"png"})
    try:
      yield shell
    finally:
      Shell.clear_instance()
      InlineBackend.clear_instance()
      matplotlib.use(backend)
      sys.modules["__main__"] = main
