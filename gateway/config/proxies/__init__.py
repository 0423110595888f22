"""A configuration → another proxy that listens, asks the decision listener, and forwards by itself.

plan.py          what such a proxy has to do for this routes.yaml, and what none of them can
nginx.py · traefik.py · caddy.py · envoy_decide.py   the plan in the words of each
envoy.py         the other way about: an Envoy in front, which leaves every decision and the forwarding to the gateway
"""

from gateway.config.proxies.caddy import caddyfile
from gateway.config.proxies.nginx import nginx_conf
from gateway.config.proxies.plan import Front, NotExportable, Plan, plan, warnings
from gateway.config.proxies.traefik import traefik_dynamic

__all__ = ["Front", "NotExportable", "Plan", "caddyfile", "nginx_conf", "plan", "traefik_dynamic", "warnings"]
