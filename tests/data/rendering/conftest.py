"""The renderer is asked anew every time where it is what is tested."""

import pytest

from fedjax_face.data.rendering import synthetic_faces
from tests import rendered


@pytest.fixture(autouse=True, scope="module")
def rendered_anew():
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(synthetic_faces, "_photograph", rendered.render)
    yield
