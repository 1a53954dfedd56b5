"""A message from another server, looked at on its way to the spool: its header without forged results, and the checks.

The header is held until it is whole; the body passes through and is hashed while it does (DKIM, ARC). Refuses to know
what is done about the verdict.
"""

from typing import Final

from pochta.delivery.intake import Intake
from pochta.mime.address import parse_addresses
from pochta.mime.header import MAX_FIELDS, message_id, split_fields, unfold
from pochta.mime.parse import Fields
from pochta.mime.submitted import MAX_HEADER_BYTES
from pochta.policy import authres
from pochta.policy.evaluate import Inbound, Verdict

# As of what users submit; a header with more authors is Junk by `evaluate` (its bound is far below).
MAX_FROM_BYTES: Final = 32 * 1024

_END: Final = b"\r\n\r\n"


class InboundMessage:
    """One message's checks; end them with `verdict` or `abandon`."""

    __slots__ = (
        "_authserv_id",
        "_checks",
        "_held",
        "_intake",
        "_is_passed",
        "author",
        "author_domains",
        "is_too_large",
        "lacks_room",
        "message_id",
    )

    def __init__(self, checks: Inbound, authserv_id: str, intake: Intake) -> None:
        self._checks = checks
        self._intake = intake
        self._authserv_id = authserv_id
        self._held = bytearray()
        self._is_passed = False
        self.is_too_large = False
        self.lacks_room = False  # the worker's spool memory is used up (INV-7)
        self.author_domains: tuple[str, ...] = ()
        self.author = ""  # the address in From, where there is exactly one
        self.message_id = ""

    def feed(self, chunk: bytes) -> bytes:
        """What of the message may go on now."""
        if self._is_passed:
            self._checks.feed(chunk)
            return chunk
        if self.is_too_large or self.lacks_room:
            return b""
        if not self._intake.take(len(chunk)):
            self.lacks_room = True
            self._forget()
            return b""
        searched_from = max(0, len(self._held) - len(_END) + 1)
        self._held += chunk
        if self._held.startswith(b"\r\n"):
            return self._pass(0)
        at = self._held.find(_END, searched_from)
        if at >= 0:
            return self._pass(at + 2)
        return self._refuse() if len(self._held) > MAX_HEADER_BYTES else b""

    def _refuse(self) -> bytes:
        self.is_too_large = True
        self._forget()
        return b""

    def _forget(self) -> None:
        self._intake.give_back(len(self._held))
        self._held.clear()

    def finish(self) -> bytes:
        """What is left when the message has ended."""
        is_over = self._is_passed or self.is_too_large or self.lacks_room
        return b"" if is_over else self._pass(len(self._held))

    def _pass(self, end: int) -> bytes:
        # As of what users submit: fields behind the last that is looked at would be seen by others, not by us
        if end > MAX_HEADER_BYTES or self._held.count(b"\n", 0, end) > MAX_FIELDS:
            return self._refuse()
        header, rest = bytes(self._held[:end]), bytes(self._held[end:])
        self._forget()
        self._is_passed = True
        self._checks.header(header)
        self._checks.feed(rest[2:] if rest.startswith(b"\r\n") else rest)
        fields = split_fields(header)[:MAX_FIELDS]
        self.author_domains, self.author = _authors(fields)
        ids = (message_id(unfold(value)) for _, name, value in fields if name.lower() == b"message-id")
        self.message_id = (next(ids, None) or b"").decode("ascii", "replace")
        # RFC 8601 §5: results that claim to be ours and came with the message are removed
        return authres.remove_forged(header, self._authserv_id) + rest

    def abandon(self) -> None:
        """The message does not come to its end."""
        self._forget()
        self._checks.abandon()

    async def verdict(self, now_s: float) -> Verdict:
        """What the checks say; within `evaluate.TOTAL_S`."""
        return await self._checks.finish(self.author_domains, now_s=now_s, author=self.author)


def _authors(fields: Fields) -> tuple[tuple[str, ...], str]:
    """The domains of every address in every From field, each once; and the address, where it is one in one field."""
    found: dict[str, None] = {}
    authors: list[bytes] = []
    size = count = 0
    for _, name, value in fields:
        size += len(value) if len(name) == 4 and name.lower() == b"from" else 0
        if size > MAX_FROM_BYTES:
            break
        if len(name) == 4 and name.lower() == b"from":
            count += 1
            for one in parse_addresses(unfold(value)):
                if one.host is not None:
                    found[one.host.decode("utf-8", "replace")] = None
                    authors.append((one.mailbox or b"") + b"@" + one.host)
    is_one = count == 1 and len(authors) == 1
    return tuple(found), authors[0].decode("utf-8", "replace") if is_one else ""
