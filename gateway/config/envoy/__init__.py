"""A configuration → an Envoy (v3) that stands in front of the gateway: HTTP/2, HTTP/3 and gRPC end there.

Who may and what is forwarded stays the gateway's to decide: every route of this Envoy leads to the gateway, and what
matches none too, so that 404, 405 and 400 are answered by one voice. Envoy's routes only say how long to wait.

routes.py     a route's path, methods and times
bootstrap.py  listeners, hardening, the cluster

`decide.py` is the other way about: an Envoy that asks the decision listener and forwards by itself.
"""

from gateway.config.envoy.bootstrap import Places, bootstrap, warnings
from gateway.config.envoy.decide import deciding
from gateway.config.proxies.plan import NotExportable

__all__ = ["NotExportable", "Places", "bootstrap", "deciding", "warnings"]
