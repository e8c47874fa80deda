"""What the tests of split learning share."""

import pytest

from fedjax_face.data import closed_set
from tests.edge import tiny_runs


@pytest.fixture(scope="module")
def tiny():
  """Configs may name the tiny data and network."""
  with pytest.MonkeyPatch.context() as patch:
    tiny_runs.known(patch)
    yield


@pytest.fixture(scope="module")
def sources(tiny):
  return closed_set.load(tiny_runs.config().data.to_dict(), 0)
