"""The keys of `routes.yaml` and of policies, as pydantic models: names, types, limits, defaults and what they mean.

Nothing here looks at two keys at once, at another file or at the network: that is `gateway.config.compile`.
"""
