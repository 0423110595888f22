"""Validated keys → the frozen model, with every check that looks at more than one value.

Each file compiles one section. A function here returns its part or None, and notes what is wrong; checks over keys
that were wrong already are left out, so that one mistake is told once.
"""
