"""The nouns that every room shares: frozen data, no behaviour that waits, nothing of any library."""
