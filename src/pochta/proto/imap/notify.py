"""NOTIFY: its grammar, and which groups of events are lawful together.

Source: RFC 5465 §5, §6.1 and §8. Names of events that nobody knows are part of the grammar (event-ext).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap.fetch import parse_fetch_items
from pochta.proto.imap.lex import Lexer
from pochta.proto.imap.multisearch import parse_mailboxes

MAX_GROUPS: Final = 64
"""Event groups in one command; one for each filter and mailbox in a client's settings is far below."""

MAX_NAMES: Final = 1024
"""Mailboxes named in one command; whoever watches more asks for a subtree."""

MAX_EVENTS: Final = 64
"""Events in one group; there are eight."""


class NotifyEvent(Enum):
    """What a client can be told of; the value is the name on the wire."""

    MESSAGE_NEW = b"MessageNew"
    MESSAGE_EXPUNGE = b"MessageExpunge"
    FLAG_CHANGE = b"FlagChange"
    MAILBOX_NAME = b"MailboxName"
    SUBSCRIPTION_CHANGE = b"SubscriptionChange"
    MAILBOX_METADATA_CHANGE = b"MailboxMetadataChange"
    SERVER_METADATA_CHANGE = b"ServerMetadataChange"


class MailboxFilter(Enum):
    """Which mailboxes a group is about; the value is the word on the wire."""

    SELECTED = b"SELECTED"
    SELECTED_DELAYED = b"SELECTED-DELAYED"
    INBOXES = b"INBOXES"
    PERSONAL = b"PERSONAL"
    SUBSCRIBED = b"SUBSCRIBED"
    SUBTREE = b"SUBTREE"
    MAILBOXES = b"MAILBOXES"


@dataclass(frozen=True, slots=True)
class EventGroup:
    """What a client wants to hear of some mailboxes; `items`: fetched of each new message. No events: NONE."""

    filter: MailboxFilter
    names: tuple[str, ...] = ()
    events: frozenset[NotifyEvent] = frozenset()
    items: tuple[c.FetchItem, ...] = ()


@dataclass(frozen=True, slots=True)
class Notify(c.Command):
    """NOTIFY: SET with its groups, or, without any, NONE. `is_supported`: no event was named that we do not know."""

    groups: tuple[EventGroup, ...] = ()
    wants_status: bool = False
    is_supported: bool = True


_ANNOTATION_CHANGE: Final = b"ANNOTATIONCHANGE"  # RFC 5257, which is not supported
_EVENTS: Final = {event.value.upper(): event for event in NotifyEvent}
_FILTERS: Final = {one.value: one for one in MailboxFilter}
SELECTED_FILTERS: Final = frozenset({MailboxFilter.SELECTED, MailboxFilter.SELECTED_DELAYED})
_NAMED: Final = frozenset({MailboxFilter.SUBTREE, MailboxFilter.MAILBOXES})
_MEMBERSHIP: Final = {NotifyEvent.MESSAGE_NEW, NotifyEvent.MESSAGE_EXPUNGE}
MESSAGE_EVENTS: Final = frozenset(_MEMBERSHIP | {NotifyEvent.FLAG_CHANGE})
_SPACE: Final = 0x20


def _notify(lexer: Lexer, words: bytes) -> c.Command:
    word = lexer.word()
    if word == b"NONE":
        return Notify()
    if word != b"SET":
        raise RemoteProtocolError("expected SET or NONE")
    lexer.space()
    wants_status = not lexer.at_list()
    if wants_status:
        if lexer.word() != b"STATUS":
            raise RemoteProtocolError("expected STATUS or a group of events")
        lexer.space()
    groups: list[EventGroup] = []
    is_supported = True
    while True:
        group, is_known = _group(lexer)
        is_supported &= is_known
        groups.append(group)
        if len(groups) > MAX_GROUPS or sum(len(one.names) for one in groups) > MAX_NAMES:
            raise RemoteProtocolError("too many mailboxes")
        if not lexer.take(_SPACE):
            break
    # RFC 5465 §6.1: only one of the two, and once
    if sum(one.filter in SELECTED_FILTERS for one in groups) > 1:
        raise RemoteProtocolError("the selected mailbox may be named once")
    return Notify(tuple(groups), wants_status, is_supported)


def _group(lexer: Lexer) -> tuple[EventGroup, bool]:
    """One event group, and whether all of its events are known."""
    lexer.open_list()
    kind = _FILTERS.get(lexer.word())
    if kind is None:
        raise RemoteProtocolError("unknown filter of mailboxes")
    names: tuple[str, ...] = ()
    lexer.space()
    if kind in _NAMED:
        names = parse_mailboxes(lexer)
        lexer.space()
    if lexer.at_list():
        events, items, unknown = _events(lexer)
    else:
        events, items, unknown = set(), (), set()
        if lexer.word() != b"NONE":
            raise RemoteProtocolError("expected NONE or a list of events")
    if lexer.more():
        raise RemoteProtocolError("expected the end of the group")
    if not unknown - {_ANNOTATION_CHANGE}:
        _check(kind, events, items, has_annotations=bool(unknown))
    return EventGroup(kind, names, frozenset(events), items), not unknown


def _events(lexer: Lexer) -> tuple[set[NotifyEvent], tuple[c.FetchItem, ...], set[bytes]]:
    """The events, the items of MessageNew, and the names of events that are not known."""
    lexer.open_list()
    events: set[NotifyEvent] = set()
    unknown: set[bytes] = set()
    items: tuple[c.FetchItem, ...] = ()
    count = 0
    while True:
        name = lexer.atom().upper()
        event = _EVENTS.get(name)
        if event is None:
            unknown.add(name)
        else:
            events.add(event)
        if event is NotifyEvent.MESSAGE_NEW and lexer.data[lexer.pos : lexer.pos + 2] == b" (":
            lexer.space()
            items = parse_fetch_items(lexer)
        count += 1
        if count > MAX_EVENTS:
            raise RemoteProtocolError("too many events")
        if not lexer.more():
            return events, items, unknown


def _check(
    kind: MailboxFilter, events: set[NotifyEvent], items: tuple[c.FetchItem, ...], *, has_annotations: bool
) -> None:
    """RFC 5465 §5, §6.1 and §8: which events need others, and which go with the selected mailbox alone."""
    told = events & _MEMBERSHIP
    if told and told != _MEMBERSHIP:
        raise RemoteProtocolError("MessageNew and MessageExpunge go together")
    if (NotifyEvent.FLAG_CHANGE in events or has_annotations) and not told:
        raise RemoteProtocolError("FlagChange and AnnotationChange need MessageNew and MessageExpunge")
    if kind in SELECTED_FILTERS:
        if events - MESSAGE_EVENTS:
            raise RemoteProtocolError("of the selected mailbox only message events are told")
    elif items:
        raise RemoteProtocolError("items to fetch go with the selected mailbox alone")


PARSERS: Final[dict[bytes, Callable[[Lexer, bytes], c.Command]]] = {b"NOTIFY": _notify}
