"""The admin listener: health, metrics, status, and what an operator may do. Never on the public listener."""
