"""The only door to `opentelemetry.sdk`: where spans and metrics go, as the standard `OTEL_*` variables say.

Imported only when something is to be exported: the SDK costs a quarter of a second and 20 MB at start. Everything here
runs in threads of its own, on bounded queues; what a collector does not take in time is dropped.
"""
