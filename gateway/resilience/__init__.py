"""Deadlines, breakers, retries, budgets and limits: what keeps one failure from affecting everybody."""
