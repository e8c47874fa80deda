"""What the tests of the edge share with those of split learning."""

from tests.split.conftest import sources, tiny  # noqa: F401
