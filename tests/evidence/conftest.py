"""Loading texts as configurations."""

from tests.config.conftest import folder, load_text, mistakes

__all__ = ["folder", "load_text", "mistakes"]
