"""What the tests of split learning share."""

import pytest

from tests.edge import tiny_runs


@pytest.fixture(scope="module")
def sources():
  return tiny_runs.sources()
