"""Names, hooks, access record, spans and metrics. The SDK is set up in one place, `setup`."""
