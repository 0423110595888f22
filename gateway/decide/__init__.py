"""The decision listener: another proxy asks whether a request may go on, and forwards it itself."""
