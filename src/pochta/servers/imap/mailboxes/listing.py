"""LIST with its extensions, LSUB and NAMESPACE.

Theory of operation. What there is to list is one dict from name to mailbox (`_names`): the reader's own mailboxes, and
those of others that the reader may look up with the names above them, which are no mailboxes. Selection
options choose among these names, or among subscribed ones; patterns come last. RECURSIVEMATCH adds names above chosen
ones. 10 000 mailboxes with STATUS take 60 ms.

Source: RFC 3501 §6.3.8, RFC 5258 (LIST-EXTENDED), RFC 5819 (LIST-STATUS), RFC 6154 (SPECIAL-USE), RFC 8440
(LIST-MYRIGHTS), RFC 9590 (LIST-METADATA), RFC 2342 (NAMESPACE).
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from pochta.proto.imap import commands as c
from pochta.proto.imap import encode
from pochta.proto.imap.metadata import metadata_response
from pochta.servers.imap.mailboxes import metadata, quota, status
from pochta.servers.imap.uses import SPECIAL_USE
from pochta.servers.pace import Pace
from pochta.store import access, mailboxes, rights
from pochta.store.access import NAMESPACES, OTHER_USERS, SHARED, Opened
from pochta.store.mailboxes import DELIMITER, INBOX, is_inbox
from pochta.store.rights import Right
from pochta.store.tx import Tx

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

Names = dict[str, Opened | None]  # None: no mailbox, but a name above one


def pattern_of(reference: str, pattern: str) -> re.Pattern[str]:
    """What LIST's wildcards mean: `*` is anything, `%` anything within a level; INBOX in any case.

    Wildcards are joined first, so that no pattern makes the match slow.
    """
    # RFC 3501 §6.3.8: the reference is put before the pattern as it is.
    # DEVIATES RFC 3501 §5.1.3: names are in NFC, whatever a client spells: Apple Mail (decomposed, as macOS) and
    # Thunderbird (composed) would each make a mailbox of their own. So patterns are, too.
    whole = re.sub(r"[*%]*\*[*%]*", "*", unicodedata.normalize("NFC", reference + pattern))
    whole = re.sub(r"%+", "%", whole)
    if is_inbox(whole[:5]) and whole[5:6] in ("", DELIMITER, "*", "%"):
        whole = INBOX + whole[5:]
    # "*" may end where the piece behind it first fits; the last piece ends the name. Each piece is tried once, in an
    # atomic group: otherwise 20 wildcards would make a name of 8 kB take longer than anybody waits.
    *before, last = whole.split("*")
    pieces = [_piece(piece, is_last=False) for piece in before]
    end = (".*?" if pieces else "") + _piece(last, is_last=True)
    return re.compile("".join(f"(?>{'.*?' if at else ''}{one})" for at, one in enumerate(pieces)) + end, re.DOTALL)


def _piece(piece: str, *, is_last: bool) -> str:
    """A pattern without "*": within a level, too, the first place is right, but for the last "%" before the end."""
    first, *others = map(re.escape, piece.split("%"))
    if is_last and others:
        return first + "".join(f"(?>[^/]*?{one})" for one in others[:-1]) + "[^/]*" + others[-1]
    return first + "".join(f"(?>[^/]*?{one})" for one in others)


def _read(tx: Tx, reader_id: int, with_unseen: bool) -> tuple[list[Opened], set[str]]:
    found = access.listing(tx, reader_id)
    if with_unseen:
        found = [status.with_own_unseen(tx, one) for one in found]
    return found, mailboxes.subscriptions(tx, reader_id)


def _names(found: list[Opened]) -> Names:
    """By name, in the order in which they are told: the reader's own, then others', with the names above them."""
    names: Names = {}
    for one in found:
        path = one.mailbox.path
        if path.partition(DELIMITER)[0] in NAMESPACES:
            for above in levels_above(path):
                names.setdefault(above, None)
        names[path] = one
    return names


def levels_above(name: str) -> Iterator[str]:
    """The names above it, the top first."""
    at = name.find(DELIMITER)
    while at >= 0:
        yield name[:at]
        at = name.find(DELIMITER, at + 1)


async def list_(connection: "ImapConnection", tag: bytes, command: c.List) -> None:
    """LIST"""
    status.check_items(connection, command.status_items)
    if command.patterns == ("",) and not command.is_extended:
        # RFC 3501 §6.3.8: an empty name asks for the delimiter
        connection.send(b'* LIST (\\Noselect) "/" ""\r\n')
        connection.send(encode.tagged(tag, b"OK", "LIST completed"))
        return
    reader_id, wants_unseen = connection.account_id, c.StatusItem.UNSEEN in command.status_items
    found, subscribed = await connection.context.store.read(reader_id, _read, reader_id, wants_unseen)
    names = _names(found)
    chosen = _chosen(command, names, subscribed)
    below = _told_by_recursion(command, chosen)
    ordered = sorted(chosen) if below else []
    # RFC 5258 §3: in an extended LIST an empty pattern matches nothing
    patterns = [pattern_of(command.reference, one) for one in command.patterns if one or not command.is_extended]
    deleted = await quota.deleted_storage(connection, command.status_items, found)
    render = _Rendering(connection, command, names, subscribed, deleted)
    pace = Pace()
    for name in (*chosen, *(one for one in below if one not in chosen)):
        if any(pattern.fullmatch(name) for pattern in patterns):
            if name not in chosen and _is_redundant(name, ordered, patterns):
                continue
            is_chosen = name in chosen
            await connection.send_large(render.lines(name, is_chosen=is_chosen, has_chosen_below=name in below))
            if command.metadata and is_chosen:
                await _tell_annotations(connection, names.get(name), command.metadata)
        await pace.turn()
    connection.send(encode.tagged(tag, b"OK", "LIST completed"))


async def _tell_annotations(connection: "ImapConnection", opened: Opened | None, entries: Sequence[str]) -> None:
    """The METADATA response of a mailbox. Source: RFC 9590 §3."""
    if opened is None or not metadata.may_read(opened):
        return
    reader_id = connection.account_id
    found = await connection.context.store.read(reader_id, metadata.read_of_mailbox, reader_id, opened, entries)
    there = dict(found)
    # RFC 9590 §3: an entry that is not there is NIL
    values = [(entry, there.get(entry)) for entry in entries]
    await connection.send_large(metadata_response(opened.mailbox.path, values, utf8_accept=connection.modes.utf8))


def _chosen(command: c.List, names: Names, subscribed: Collection[str]) -> dict[str, None]:
    """The names that meet every selection option, in order."""
    if c.ListSelect.SUBSCRIBED in command.selection:
        # RFC 5258 §3.1: names that are subscribed and do not exist, too
        chosen = [name for name in names if name in subscribed] + sorted(set(subscribed) - names.keys())
    else:
        chosen = list(names)
    if c.ListSelect.SPECIAL_USE in command.selection:
        chosen = [name for name in chosen if _use_of(names.get(name)) is not None]
    return dict.fromkeys(chosen)


def _use_of(opened: Opened | None) -> str | None:
    """The attribute of a mailbox's use; of another's mailbox it would mislead (RFC 6154 §2: uses are the user's)."""
    if opened is None or opened.mailbox.path.partition(DELIMITER)[0] in NAMESPACES:
        return None
    return SPECIAL_USE.get(opened.mailbox.role or "")


def _told_by_recursion(command: c.List, chosen: Collection[str]) -> dict[str, None]:
    """With RECURSIVEMATCH the names that have a chosen one below them."""
    if c.ListSelect.RECURSIVEMATCH not in command.selection:
        return {}
    return dict.fromkeys(above for name in chosen for above in levels_above(name))


def _is_redundant(name: str, ordered: Sequence[str], patterns: list[re.Pattern[str]]) -> bool:
    """Whether every chosen name below it is told itself (RFC 5258 §3.5: then CHILDINFO says nothing new).

    `ordered` rises, so that names below one stand together: 10 000 names above others would be looked for in all.
    """
    prefix = name + DELIMITER
    below = takewhile(lambda one: one.startswith(prefix), islice(ordered, bisect_left(ordered, prefix), None))
    return all(any(pattern.fullmatch(one) for pattern in patterns) for one in below)


class _Rendering:
    """Makes the lines of each name."""

    def __init__(
        self,
        connection: "ImapConnection",
        command: c.List,
        names: Mapping[str, Opened | None],
        subscribed: set[str],
        deleted: Mapping[tuple[int, int], int],
    ) -> None:
        self._command = command
        self._names = names
        self._subscribed = subscribed
        self._shown: dict[tuple[object, ...], bytes] = {}
        wants = (*command.returns, *command.selection)
        self._tells_subscribed = c.ListReturn.SUBSCRIBED in wants or c.ListSelect.SUBSCRIBED in wants
        self._tells_rights = c.ListReturn.MYRIGHTS in command.returns
        self._utf8 = connection.modes.utf8
        items = command.status_items
        self._status_line = status.line_of(connection, items, deleted) if items else None
        # RFC 5258 §3.5: what the criteria were
        criteria = [b'"%b"' % one.value for one in command.selection if one.value in (b"SUBSCRIBED", b"SPECIAL-USE")]
        self._child_info = b' ("CHILDINFO" (%b))' % b" ".join(criteria)

    def lines(self, name: str, *, is_chosen: bool, has_chosen_below: bool) -> bytes:
        """The LIST response, and what else was asked for of the mailbox."""
        opened, shown_name = self._names.get(name), encode.mailbox_name(name, utf8_accept=self._utf8)
        line = b'* LIST %b "/" %b\r\n' % (self._attributes(name, opened), shown_name)
        if has_chosen_below:
            line = line[:-2] + self._child_info + b"\r\n"
        # RFC 5819 §3: of a name that is told for what is below it alone, there is no more
        if opened is None or not is_chosen:
            return line
        if self._tells_rights:
            # RFC 8440 §3: after the LIST response
            shown = rights.shown(opened.standing.rights).encode("ascii")
            line += b"* MYRIGHTS %b %b\r\n" % (shown_name, shown)
        if self._status_line is not None and _is_readable(opened):
            line += self._status_line(opened, shown_name)
        return line

    def _attributes(self, name: str, opened: Opened | None) -> bytes:
        is_subscribed = self._tells_subscribed and name in self._subscribed
        if opened is None:
            key: tuple[object, ...] = (name in self._names, is_subscribed)
        else:
            # what they depend on: a few sets for any number of mailboxes
            key = (*opened.mailbox[-2:], _use_of(opened), opened.standing.rights, is_subscribed)
        shown = self._shown.get(key)
        if shown is None:
            shown = self._shown[key] = encode.flag_list(self._attribute_names(name, opened, is_subscribed))
        return shown

    def _attribute_names(self, name: str, opened: Opened | None, is_subscribed: bool) -> list[str]:
        if opened is not None:
            attributes = attributes_of(opened)
        else:
            # RFC 5258 §3: \NonExistent implies \NoSelect; clients that know only the latter are told both
            attributes = ["\\NonExistent", "\\Noselect", *(["\\HasChildren"] if name in self._names else [])]
        return [*attributes, "\\Subscribed"] if is_subscribed else attributes


def spelling(connection: "ImapConnection", opened: Opened, given: str) -> bytes:
    """LIST with OLDNAME, where the mailbox that the client has named `given` is not spelled so; empty otherwise."""
    # RFC 9051 §6.3.9.7: names are in NFC
    if not connection.modes.rev2 or given == opened.mailbox.path:
        return b""
    attributes, utf8 = attributes_of(opened), connection.modes.utf8
    return encode.list_response(opened.mailbox.path, attributes, utf8_accept=utf8, old_name=given)


def attributes_of(opened: Opened) -> list[str]:
    """What LIST says of a mailbox that is there, whatever was asked."""
    attributes = [] if _is_readable(opened) else ["\\Noselect"]
    attributes.append("\\HasChildren" if opened.mailbox.has_children else "\\HasNoChildren")
    use = _use_of(opened)
    return [*attributes, use] if use else attributes


def _is_readable(opened: Opened) -> bool:
    """Whether STATUS tells of it. RFC 5819 §2: no STATUS response for what cannot be selected."""
    return not opened.mailbox.is_noselect and bool(opened.standing.rights & Right.READ)


async def lsub(connection: "ImapConnection", tag: bytes, command: c.Lsub) -> None:
    """LSUB: subscribed names, those of removed mailboxes too, which are \\Noselect."""
    reader_id = connection.account_id
    found, subscribed = await connection.context.store.read(reader_id, _read, reader_id, False)
    existing = {one.mailbox.path for one in found if not one.mailbox.is_noselect}
    utf8 = connection.modes.utf8
    pattern = pattern_of(command.reference, command.pattern)
    told: set[str] = set()
    pace = Pace()
    for path in sorted(subscribed):
        await pace.turn()
        if pattern.fullmatch(path):
            told.add(path)
            attributes = [] if path in existing else ["\\Noselect"]
            await connection.send_large(encode.list_response(path, attributes, kind=b"LSUB", utf8_accept=utf8))
            continue
        # RFC 3501 §6.3.9: with "%", a name that is only above a subscribed one comes with \Noselect
        for above in levels_above(path):
            if above not in told and above not in subscribed and pattern.fullmatch(above):
                told.add(above)
                line = encode.list_response(above, ["\\Noselect"], kind=b"LSUB", utf8_accept=utf8)
                await connection.send_large(line)
    connection.send(encode.tagged(tag, b"OK", "LSUB completed"))


async def namespace(connection: "ImapConnection", tag: bytes, command: c.Namespace) -> None:
    """NAMESPACE: the account's own mailboxes, those of other users, and shared ones. Source: RFC 2342 §5."""
    others, shared = OTHER_USERS.encode("ascii"), SHARED.encode("ascii")
    connection.send(b'* NAMESPACE (("" "/")) (("%b/" "/")) (("%b/" "/"))\r\n' % (others, shared))
    connection.send(encode.tagged(tag, b"OK", "NAMESPACE completed"))
