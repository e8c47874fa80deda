"""What holds for all tests: nothing is drawn or rendered that no test looks at."""

import pytest

from fedjax_face.data.rendering import synthetic_faces
from fedjax_face.runs import figures
from tests import drawing, rendered


@pytest.fixture(autouse=True, scope="session")
def sparing():
  """Runs leave an empty folder of figures, but inside `drawing.drawn`; pictures are kept."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figures, "save", drawing.save)
    patch.setattr(synthetic_faces, "_photograph", rendered.photograph)
    yield
