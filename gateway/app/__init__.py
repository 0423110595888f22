"""The composition root: the only place that constructs, and that knows which room fits to which."""
