"""The whole data path in one deterministic event loop: fake clock, fake transports, everything drawn from one seed."""
