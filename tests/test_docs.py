"""The code of the documentation runs."""

import pathlib
import re

import pytest

from fedjax_face.options.kinds import _KINDS

PAGE = "parts_of_a_page"
ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def registries():
  """What the code registers is forgotten afterwards."""
  yield
  for kind in _KINDS.values():
    for name, factory in list(kind.factories.items()):
      if factory.function.__module__ == PAGE:
        del kind.factories[name]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, registries, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
  names = {"__name__": PAGE}
  for block in blocks:
    exec(compile(block, str(page), "exec"), names)  # in one namespace, as a reader would
  assert not list(tmp_path.iterdir())
