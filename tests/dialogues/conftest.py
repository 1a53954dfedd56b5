"""One server of each kind for all dialogues of a test process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import dialogue_peers
import pytest
from dialogue_peers import Peer


@pytest.fixture(scope="session")
def peer_named() -> Iterator[Callable[[str], Peer]]:
    """The peer of that name, started when first asked for."""
    makers = {"pochta": dialogue_peers.pochta, "dovecot": dialogue_peers.dovecot}
    running: dict[str, Peer] = {}
    with ExitStack() as stack:

        def find(name: str) -> Peer:
            if name not in running:
                running[name] = stack.enter_context(makers[name]())
            return running[name]

        yield find
