"""A clock that only moves when told, and an observer that remembers."""

import pytest

from gateway.telemetry.observer import Observer


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def pass_s(self, seconds):
        self.now += seconds


class Memory(Observer):
    """Remembers changes of circuits."""

    def __init__(self):
        self.changes = []

    def circuit(self, name, kind, before, after, reason):
        self.changes.append((before, after, reason))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def memory():
    return Memory()
