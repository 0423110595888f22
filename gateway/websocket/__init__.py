"""WebSocket connections (RFC 6455) as a relay needs them: frames, not messages, and a bounded part of them at a time.

frames.py   bytes into frames and back, with the rules of the protocol and the limits
peer.py     one side of an open connection: turns, backpressure, pings, closing
"""

from gateway.websocket.frames import End, Piece
from gateway.websocket.peer import Peer

__all__ = ["End", "Peer", "Piece"]
