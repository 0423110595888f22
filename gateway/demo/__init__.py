"""The demo: toy systems, IAM as a process of its own, and the gateway with the shipped routes.yaml, all on loopback.

Deliberately not production code: it exists to be broken (`gateway drill`) while somebody watches.
"""
