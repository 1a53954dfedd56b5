"""A server with a few messages."""

import pytest
from attack_peer import imap

from pochta.testing import Server


@pytest.fixture
def server(pochta: Server) -> Server:
    with imap(pochta) as peer:
        for _ in range(3):
            peer.send(b"a APPEND INBOX {17+}\r\nSubject: x\r\n\r\nbody\r\n"[:-2] + b"\r\n")
            peer.until(rb"a (?:OK|NO|BAD) .*")
    return pochta
