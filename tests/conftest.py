"""What holds for all tests: nothing is drawn, rendered or compiled that was before."""

import os

import jax
import pytest

from fedjax_face.data.rendering import synthetic_faces
from fedjax_face.runs import figures
from tests import drawing, rendered


def pytest_configure(config):
  """Programs are compiled once by all processes and runs of the tests (`--cache-clear` ends it).

  JAX asks once, at the first compilation, whether programs are kept: it must be told before.
  """
  folder = config.rootpath / ".pytest_cache" / "d" / "compiled"
  for name, value in (("jax_compilation_cache_dir", str(folder)),
                      ("jax_persistent_cache_min_compile_time_secs", 0.0),
                      ("jax_persistent_cache_min_entry_size_bytes", -1)):
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)  # of processes that tests start


@pytest.fixture(autouse=True, scope="session")
def sparing():
  """Runs leave an empty folder of figures, but inside `drawing.drawn`; pictures are kept."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, "save", drawing.save)
    patch.setattr(synthetic_faces, "_photograph", rendered.photograph)
    yield
