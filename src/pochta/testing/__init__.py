"""Pochta for tests: a whole server inside the test's process, by `with Server()` or the pytest fixture `pochta`."""

from pochta.testing.server import Server, ServerBug

__all__ = ["Server", "ServerBug"]
