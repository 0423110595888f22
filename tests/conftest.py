"""What holds for all tests."""

from tests.support import properties  # noqa: F401 - loads the profile of Hypothesis
