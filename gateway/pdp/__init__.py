"""The embedded decision point: Cedar policies that decide in this process, and the same ones as an AuthZEN server.

Nothing is imported here, so that a gateway which asks a remote IAM never loads Cedar. `point.EmbeddedDecisionPoint`
decides, `authzen.authzen_app` serves it, `cases` runs the tables of cases beside the policies.
"""
