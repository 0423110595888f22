"""Step four of a request's life: what a route does with a permit. There is no other way to an upstream."""
