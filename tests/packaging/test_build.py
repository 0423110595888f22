"""Which build the tests run against."""

import os
import sys

from gateway import __version__, build


def test_the_build_that_is_tested_is_the_one_that_was_asked_for():
    compiled = os.environ.get("TEST_BUILD") == "compiled"
    assert build() == (f"{__version__} (compiled)" if compiled else __version__)
    import gateway.pipeline

    assert sys.modules["gateway.pipeline"].__file__.endswith(".so" if compiled else ".py")
    assert gateway.pipeline.__name__ == "gateway.pipeline"
