"""Questions to IAM, decisions back: one client for everything that asks (docs/authorization.md).

decide()   coalesce, queue, wait         client, batching
a call     one trial, retries, apart     call
protocol   what goes over the wire       authzen, plain, opa, discovery
wire       one HTTP exchange, strictly   wire, strict_json, failure
"""
