"""New DKIM keys come into use by themselves: once their record is seen in DNS they sign, and the ones before retire.

Asked once an hour by one process, and by `pochta dns --check`. A record counts when it holds the very key; whoever
publishes it in pieces or with other tags is not held to our spelling of it.
"""

import asyncio
from typing import Final

from pochta import clock, log
from pochta.accounts import signing
from pochta.dns import DnsError, Resolver
from pochta.errors import Corrupt, TryLater
from pochta.policy.dkim.keys import MAX_KEY_RECORDS, read_key
from pochta.policy.dkim.tags import SignatureFault
from pochta.store import dkim_keys
from pochta.store.dkim_keys import Key
from pochta.store.store import Store

LOOK_EVERY_S: Final = 3600.0  # a record may take hours to reach all servers of its zone; nobody waits for the new keys


def holds_key(found: bytes, text: str) -> bool:
    """Whether the TXT record `found` says the same key as our own `text`."""
    try:
        return read_key(found).key == read_key(text.encode("ascii")).key
    except SignatureFault:
        return False


async def is_published(resolver: Resolver, key: Key) -> bool:
    """Whether the key's record stands in DNS.

    Raises:
        DnsError: no answer now.
        Corrupt: the stored key is damaged.
    """
    record = signing.record(key)
    answer = await resolver.txt(record.name)
    return any(holds_key(one, record.text) for one in answer.records[:MAX_KEY_RECORDS])


class KeyRotation:
    """The background step of one process."""

    def __init__(self, store: Store, resolver: Resolver) -> None:
        self._store = store
        self._resolver = resolver

    async def run(self) -> None:
        """Look for records of next keys once an hour, for ever."""
        while True:
            try:
                await self.look()
            except TryLater as error:
                log.event("dkim.key.later", reason=error.reason)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> list[Key]:
        """The keys that sign from now on; each domain is asked for in turn, one question at a time.

        Raises:
            TryLater: the disk is full.
        """
        found = []
        for key in await self._store.read(0, dkim_keys.waiting):
            try:
                if not await is_published(self._resolver, key):
                    continue
            except (DnsError, Corrupt) as error:
                log.event("dkim.key.unknown", domain=key.domain, selector=key.selector, reason=error)
                continue
            if await self._store.write(0, dkim_keys.activate, (key.id,), int(clock.now_s())):
                log.event("dkim.key.activated", domain=key.domain, selector=key.selector)
                found.append(key)
        return found
