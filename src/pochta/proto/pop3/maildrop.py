"""The messages of one POP3 session, numbered once and for all: sizes, unique-ids, what is marked as deleted.

Pure data in arrays: 9 bytes a message. Removals elsewhere do not show here; the driver keeps the bytes readable.

Source: RFC 1939 §4, §5, §7.
"""

from array import array
from typing import Final

from pochta.errors import LocalProtocolError

_DELETED: Final = 1
_RETRIEVED: Final = 2


class Maildrop:
    """A frozen list. `index` counts from 0, the `number` that a client says from 1.

    `uids` rise; `sizes` are octets. `count` and `size` are those of what is not marked as deleted.
    """

    __slots__ = ("_marks", "_total", "count", "size", "sizes", "uid_validity", "uids")

    def __init__(self, uid_validity: int, uids: "array[int]", sizes: "array[int]") -> None:
        if len(uids) != len(sizes):
            raise LocalProtocolError("a maildrop has one size for each uid")
        self.uid_validity = uid_validity
        self.uids = uids
        self.sizes = sizes
        self.count = len(uids)
        self.size = self._total = sum(sizes)
        self._marks = bytearray(len(uids))

    def __len__(self) -> int:
        return len(self.uids)

    def is_deleted(self, index: int) -> bool:
        """Whether the message is marked as deleted."""
        return bool(self._marks[index] & _DELETED)

    def delete(self, index: int) -> None:
        """Mark the message, which is not marked yet, as deleted."""
        self._marks[index] |= _DELETED
        self.count -= 1
        self.size -= self.sizes[index]

    def retrieved(self, index: int) -> None:
        """Note that the client has been sent the whole message."""
        self._marks[index] |= _RETRIEVED

    def reset(self) -> None:
        """Take every mark of deletion back."""
        self._marks = self._marks.translate(_WITHOUT_DELETED)
        self.count, self.size = len(self.uids), self._total

    def deleted_uids(self) -> list[int]:
        """What is marked as deleted, rising."""
        return [uid for uid, mark in zip(self.uids, self._marks, strict=True) if mark & _DELETED]

    def retrieved_uids(self) -> list[int]:
        """What was retrieved and is not marked as deleted, rising."""
        return [uid for uid, mark in zip(self.uids, self._marks, strict=True) if mark == _RETRIEVED]

    def unique_id(self, index: int) -> bytes:
        """The message's unique-id: at most 21 characters.

        RFC 1939 §7: it persists across sessions and is never used again; INBOX keeps its UIDVALIDITY for ever, and no
        uid comes twice under it (INV-2).
        """
        return b"%d.%d" % (self.uid_validity, self.uids[index])

    def scan_listing(self, start: int, stop: int) -> bytes:
        """The lines of LIST for these indexes, without what is marked as deleted."""
        return b"".join(
            [
                b"%d %d\r\n" % (number, size)
                for number, (size, mark) in enumerate(
                    zip(self.sizes[start:stop], self._marks[start:stop], strict=True), start + 1
                )
                if not mark & _DELETED
            ]
        )

    def unique_id_listing(self, start: int, stop: int) -> bytes:
        """The lines of UIDL for these indexes, without what is marked as deleted."""
        line = b"%%d %d.%%d\r\n" % self.uid_validity
        return b"".join(
            [
                line % (number, uid)
                for number, (uid, mark) in enumerate(
                    zip(self.uids[start:stop], self._marks[start:stop], strict=True), start + 1
                )
                if not mark & _DELETED
            ]
        )


_WITHOUT_DELETED: Final = bytes(mark & ~_DELETED for mark in range(256))
