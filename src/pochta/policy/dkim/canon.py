"""What is hashed of a message: header fields and the body in their canonical forms.

The body streams through in pieces of any size and is never held: of what may turn out to be its end only a count of
line ends, one space and one CR are kept. Only SHA-256 exists here (RFC 8301 §3.1), and no hash stops early: a
signature with l= is judged by the length alone (`verify`), so that a message is hashed at most twice, whatever its
signatures ask for.
"""

import hashlib
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from pochta.errors import LocalProtocolError
from pochta.mime.header import MAX_FIELDS, split_fields

CRLF: Final = b"\r\n"
WSP_AND_LINE_ENDS: Final = b" \t\r\n"
# Held line ends are written in pieces, so that a gigabyte of them is not one allocation.
_BLANK_LINES: Final = CRLF * 4096


class Canonicalization(StrEnum):
    """Source: RFC 6376 §3.4."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


def relax_field(field: bytes) -> bytes:
    """The whole field in relaxed form, with CRLF. Source: RFC 6376 §3.4.2."""
    name, _, value = field.partition(b":")
    value = value.replace(CRLF, b"").replace(b"\n", b"")
    return b"%s:%s\r\n" % (name.rstrip(b" \t").lower(), _squeeze(value).strip(b" "))


def _squeeze(data: bytes) -> bytes:
    """Each run of white space as one space."""
    # Ten kB of text take 9 us, of spaces 30 us; a pattern for runs of both takes 157 us, and its `sub` keeps an object
    # for each run while it works: 54 times the memory. Six rounds shorten a run of 64 KiB to one space.
    data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"    ", b" ").replace(b"  ", b" ")
    return data


class HeaderFields:
    """The fields of a header section, found by name from the bottom; canonical forms are made once.

    `header`: lines with CRLF, with or without the blank line. `is_cut`: there were more fields than `mime.header`
    reads, and nothing may be said about the header.
    """

    __slots__ = ("_by_name", "_fields", "_relaxed", "is_cut")

    def __init__(self, header: bytes) -> None:
        split = split_fields(header)
        self.is_cut = len(split) >= MAX_FIELDS
        self._fields = [whole for whole, _, _ in split]
        self._relaxed: dict[int, bytes] = {}
        self._by_name: dict[bytes, list[int]] = {}
        for place, (_, name, _) in enumerate(split):
            self._by_name.setdefault(name.lower(), []).append(place)

    def places(self, name: bytes) -> list[int]:
        """Where the fields of this lower-case name stand, top to bottom."""
        return self._by_name.get(name, [])

    def field(self, place: int) -> bytes:
        """The field as it stands, with its last line end."""
        whole = self._fields[place]
        return whole if whole.endswith(b"\n") else whole + CRLF

    def value(self, place: int) -> bytes:
        """What follows the colon, as it stands."""
        return self._fields[place].partition(b":")[2]

    def canonical(self, place: int, form: Canonicalization) -> bytes:
        """The field as it is hashed."""
        if form is Canonicalization.SIMPLE:
            return self.field(place)
        relaxed = self._relaxed.get(place)
        if relaxed is None:
            relaxed = self._relaxed[place] = relax_field(self._fields[place])
        return relaxed

    def signed(self, names: Iterable[bytes], form: Canonicalization, *, without: int = -1) -> bytes:
        """The canonical fields that a list of lower-case names stands for; the field at `without` is never one.

        Linear in names and fields.
        """
        left: dict[bytes, list[int]] = {}
        chosen: list[bytes] = []
        for name in names:
            places = left.get(name)
            if places is None:
                places = left[name] = [place for place in self.places(name) if place != without]
            # RFC 6376 §5.4.2: fields of one name are signed from the bottom to the top.
            # RFC 6376 §3.5: a name without a field left stands for nothing.
            if places:
                chosen.append(self.canonical(places.pop(), form))
        return b"".join(chosen)


class BodyCanonicalizer:
    """Writes the canonical body to `write` while the body is fed; `length_bytes` is what was written.

    Source: RFC 6376 §3.4.3, §3.4.4.
    """

    __slots__ = ("_form", "_held_ends", "_tail", "_write", "length_bytes")

    def __init__(self, form: Canonicalization, write: Callable[[bytes], object]) -> None:
        self._form = form
        self._write = write
        self._held_ends = 0
        self._tail = b""  # at most one space and one CR: nobody knows yet what they are part of
        self.length_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next piece."""
        data = self._tail + chunk if self._tail else chunk
        end = len(data) - data.endswith(b"\r")
        if self._form is Canonicalization.SIMPLE:
            self._tail = data[end:]
            self._put(data[:end])
            return
        kept = len(data[:end].rstrip(b" \t")) if data[end - 1 : end] in (b" ", b"\t") else end
        self._tail = (b" " if kept < end else b"") + data[end:]
        # RFC 6376 §3.4.4: runs of white space are one space, and none stands before a line end.
        self._put(_squeeze(data[:kept]).replace(b" \r\n", CRLF))

    def close(self) -> None:
        """Write what is left: the body has ended."""
        # RFC 6376 §3.4.4: white space at the end of the last line goes, even where its CRLF is missing.
        if self._tail.endswith(b"\r"):
            self._put(self._tail)
        # RFC 6376 §3.4.3: an empty body is one CRLF; §3.4.4: relaxed, it is nothing.
        if self.length_bytes or self._form is Canonicalization.SIMPLE:
            self._emit(CRLF)

    def _put(self, data: bytes) -> None:
        """Pass on all but the line ends that may be the last ones."""
        head = len(data) - _trailing_ends(data)
        ends = (len(data) - head) // 2
        if head:
            self._release()
            self._emit(data[:head] if ends else data)
        self._held_ends += ends

    def _release(self) -> None:
        while self._held_ends:
            count = min(self._held_ends, len(_BLANK_LINES) // 2)
            self._emit(_BLANK_LINES[: 2 * count])
            self._held_ends -= count

    def _emit(self, data: bytes) -> None:
        self._write(data)
        self.length_bytes += len(data)


def _trailing_ends(data: bytes) -> int:
    """How many octets of line ends (CRLF) the data ends with; it does not end with CR."""
    if not data.endswith(CRLF):
        return 0
    if data[-3:-2] not in b"\r\n":
        return 2
    ends = data[len(data.rstrip(CRLF)) :]
    # Where two CRs or two LFs meet, a bare one stands: what follows alternates, and begins with a CR or a bare LF.
    ends = ends[max(ends.rfind(b"\r\r"), ends.rfind(b"\n\n")) + 1 :]
    return len(ends) - ends.startswith(b"\n")


class BodyHash(NamedTuple):
    """SHA-256 of a canonical body, and the body's length."""

    digest: bytes
    length_bytes: int


class BodyHashes:
    """The hashes of one body, shared by all who need one: `want` before the first piece, `feed`, then `result`."""

    __slots__ = ("_results", "_running", "_started")

    def __init__(self, *forms: Canonicalization) -> None:
        self._running: dict[Canonicalization, tuple[BodyCanonicalizer, Callable[[], bytes]]] = {}
        self._results: dict[Canonicalization, BodyHash] = {}
        self._started = False
        for form in forms:
            self.want(form)

    def want(self, form: Canonicalization) -> None:
        """Have this form hashed, too.

        Raises:
            LocalProtocolError: the body has begun.
        """
        if self._started:
            raise LocalProtocolError("a hash was asked for after the body began")
        if form not in self._running:
            sha256 = hashlib.sha256()
            self._running[form] = BodyCanonicalizer(form, sha256.update), sha256.digest

    def feed(self, chunk: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            LocalProtocolError: a result was taken.
        """
        if self._results:
            raise LocalProtocolError("a body was fed after its hash was taken")
        self._started = True
        for canonicalizer, _ in self._running.values():
            canonicalizer.feed(chunk)

    def result(self, form: Canonicalization) -> BodyHash:
        """The hash of the whole body, which ends here.

        Raises:
            LocalProtocolError: nobody wanted this form.
        """
        self._started = True
        found = self._results.get(form)
        if found is None:
            if form not in self._running:
                raise LocalProtocolError("a hash was taken that was not asked for")
            canonicalizer, digest = self._running[form]
            canonicalizer.close()
            found = self._results[form] = BodyHash(digest(), canonicalizer.length_bytes)
        return found
