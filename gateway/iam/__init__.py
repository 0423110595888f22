"""Questions to IAM, decisions back: one client for everything that asks (docs/authorization.md)."""
