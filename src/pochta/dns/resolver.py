"""The resolver that asks the network: recursive servers near us, through a cache.

A question that was answered is answered from the cache while its TTL lasts; one that is under way is not asked again,
its askers wait for one answer. Each question is a task of the resolver with the deadline `timeout_s`, so that an asker
that gives up takes nothing from the others. Signatures are not checked here: the servers do that, over a path that must
be trusted (loopback, or a network of our own), and say so by the AD bit.
"""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final, NamedTuple

from pochta import clock
from pochta.dns import wire
from pochta.dns.cache import Cache, Key
from pochta.dns.exchange import Server, exchange
from pochta.dns.names import to_question
from pochta.dns.question import Answer, DnsError, Mx, Srv

RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_SERVERS: Final = 3  # resolv.conf(5)
DNS_PORT: Final = 53
ROUNDS: Final = 2  # how often a silent server is asked
MAX_HOPS: Final = 8  # questions for one, where a server leaves it to us to follow aliases
FAILURE_TTL_S: Final = 5.0  # RFC 2308 §7.1: at most 5 minutes; a sender tries again in one
# Sockets: a quarter of the usual limit of 1024 open files. Questions: what four times as many wait for.
MAX_SOCKETS: Final = 256
MAX_UNDER_WAY: Final = 1024
ENTRY_BYTES: Final = 64  # what an entry counts in the cache beside its records


class _Failed(NamedTuple):
    reason: str


# Any: the kind in the key says what the records are
_Outcome = Answer[Any] | _Failed

_NOT_THERE: Final[Answer[Any]] = Answer((), exists=False)


class DnsResolver:
    """Implements `Resolver` over recursive servers; without any given, those of /etc/resolv.conf, read when needed.

    One event loop only. `timeout_s` bounds each question with all its tries.
    """

    def __init__(self, servers: Sequence[Server] = (), *, timeout_s: float = 5.0, cache_size: int = 10_000) -> None:
        self._given = tuple(servers)
        self._servers = self._given
        self._timeout_s = timeout_s
        self._cache: Cache[_Outcome] = Cache(cache_size)
        self._under_way: dict[Key, asyncio.Task[_Outcome]] = {}
        self._sockets = asyncio.Semaphore(MAX_SOCKETS)

    async def a(self, name: str) -> Answer[IPv4Address]:
        """IPv4 addresses."""
        return await self._ask("A", name)

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        """IPv6 addresses."""
        return await self._ask("AAAA", name)

    async def mx(self, name: str) -> Answer[Mx]:
        """Mail exchangers, in the order of the answer."""
        return await self._ask("MX", name)

    async def txt(self, name: str) -> Answer[bytes]:
        """Texts; the strings of each record are joined."""
        return await self._ask("TXT", name)

    async def ptr(self, address: IPv4Address | IPv6Address) -> Answer[str]:
        """Names of an address."""
        return await self._ask("PTR", address.reverse_pointer)

    async def srv(self, name: str) -> Answer[Srv]:
        """Places of a service."""
        return await self._ask("SRV", name)

    async def aclose(self) -> None:
        """End the questions under way; their askers are cancelled."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, kind: str, name: str) -> Answer[Any]:  # Any: see `_Outcome`
        # Most names are given as they are asked for: looked up first, made so only when that finds nothing
        outcome = self._cache.get((kind, name), clock.now_s())
        if outcome is None:
            question = to_question(name)
            if question is None:
                return _NOT_THERE
            key = (kind, question)
            outcome = self._cache.get(key, clock.now_s())
            if outcome is None:
                outcome = await asyncio.shield(self._task(key))
        if isinstance(outcome, _Failed):
            raise DnsError(outcome.reason)
        return outcome

    def _task(self, key: Key) -> asyncio.Task[_Outcome]:
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MAX_UNDER_WAY:
                raise DnsError(f"{key[0]} of {key[1]}: too many questions under way")
            task = asyncio.create_task(self._resolve(key))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return task

    async def _resolve(self, key: Key) -> _Outcome:
        """Ask, and keep what came of it."""
        outcome: _Outcome
        ttl_s, size_bytes = FAILURE_TTL_S, ENTRY_BYTES
        try:
            async with asyncio.timeout(self._timeout_s), self._sockets:
                outcome, ttl_s, size_bytes = await self._follow(*key)
        except TimeoutError:
            outcome = _Failed(f"{key[0]} of {key[1]}: no answer in {self._timeout_s:g} s")
        except DnsError as error:
            outcome = _Failed(f"{key[0]} of {key[1]}: {error.reason}")
        if isinstance(outcome, _Failed):
            # /etc/resolv.conf may have changed
            self._servers = self._given
        self._cache.put(key, outcome, clock.now_s(), ttl_s, size_bytes)
        return outcome

    async def _follow(self, kind: str, name: str) -> tuple[Answer[Any], float, int]:  # Any: see `_Outcome`
        """(answer, how long it holds, about how many bytes it has)."""
        target, is_authentic, ttl_s = wire.to_name(name), True, wire.MAX_TTL_S
        for _ in range(MAX_HOPS):
            message = await self._query(kind, target)
            try:
                reply = wire.read(message, target, kind)
            except wire.NotUnderstood as error:
                raise DnsError(str(error)) from error
            is_authentic, ttl_s = is_authentic and reply.is_authentic, min(ttl_s, reply.ttl_s)
            if reply.alias is None:
                answer = Answer(reply.records, reply.exists, is_authentic)
                return answer, ttl_s, ENTRY_BYTES + sum(map(len, map(str, reply.records)))
            target = reply.alias
        raise DnsError("too many aliases")

    async def _query(self, kind: str, name: wire.Name) -> wire.Message:
        """The answer of the first server that knows; silent ones are asked again."""
        self._servers = self._servers or system_servers()
        asked, problem = self._servers[:MAX_SERVERS], ""
        share_s = self._timeout_s / (ROUNDS * len(asked))
        for _ in range(ROUNDS):
            silent = []
            for server in asked:
                try:
                    async with asyncio.timeout(share_s):
                        message, problem = await self._query_server(server, kind, name)
                except TimeoutError:
                    silent.append(server)
                    problem = "no answer"
                    continue
                except OSError as error:
                    problem = error.strerror or "unreachable"
                    continue
                if message is not None:
                    return message
            asked = tuple(silent)
        raise DnsError(problem)

    async def _query_server(self, server: Server, kind: str, name: wire.Name) -> tuple[wire.Message | None, str]:
        """The answer, or None and why there is none."""
        try:
            message = await exchange(server, wire.make_query(name, kind))
            if message.dislikes_edns:
                message = await exchange(server, wire.make_query(name, kind, with_edns=False))
        except wire.NotUnderstood as error:
            return None, str(error)
        return (message, "") if message.is_answer else (None, message.rcode_name)


def system_servers() -> tuple[Server, ...]:
    """The servers of /etc/resolv.conf; without any, the one on this machine, as resolv.conf(5) has it."""
    try:
        lines = RESOLV_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    words = [line.split() for line in lines]
    servers = [(word[1], DNS_PORT) for word in words if len(word) > 1 and word[0] == "nameserver"]
    return tuple(servers[:MAX_SERVERS]) or (("127.0.0.1", DNS_PORT),)
