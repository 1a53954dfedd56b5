"""Which mailboxes a NOTIFY means, what its client knows of them, and what leads from one such picture to the next.

Knows nothing of connections: pictures in, names to tell out. A mailbox is known by its id, so that a new name is told
from another mailbox. Whether a change was the client's own is asked of the caller, by id.

Source: RFC 5465 §5.4, §5.5, §5.9 and §6.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from unicodedata import normalize

from pochta.proto.imap.notify import MESSAGE_EVENTS, SELECTED_FILTERS, EventGroup, MailboxFilter, NotifyEvent
from pochta.servers.imap.mailboxes.listing import attributes_of, levels_above
from pochta.store.access import NAMESPACES, Opened
from pochta.store.mailboxes import DELIMITER, INBOX
from pochta.store.rights import Right

WATCHED_MAX: Final = 2000  # mailboxes, and as many subscriptions; 300 bytes each, 1.2 MB for one connection (INV-7)
UNKNOWN: Final = -1

Key = tuple[int, int]  # account, mailbox

_OWN: Final = frozenset({MailboxFilter.PERSONAL, MailboxFilter.INBOXES})
_NEEDING_READ: Final = MESSAGE_EVENTS | {NotifyEvent.MAILBOX_METADATA_CHANGE}


class Watched(NamedTuple):
    """A mailbox as its client knows it; `unseen_count` is UNKNOWN where it was not told."""

    path: str
    events: frozenset[NotifyEvent]
    attributes: tuple[str, ...]
    is_accessible: bool
    unseen_count: int


class Picture(NamedTuple):
    """What was found when it was looked at; `hidden`: mailboxes that the client has lost its rights to."""

    mailboxes: dict[Key, Watched]
    subscribed: Collection[str]
    hidden: dict[Key, str]


class Told(NamedTuple):
    """A name to be told by LIST."""

    path: str
    attributes: Sequence[str]
    old_path: str | None = None


class Filters:
    """The groups of a NOTIFY that are not about the selected mailbox."""

    def __init__(self, groups: Iterable[EventGroup]) -> None:
        self._groups = [
            (one, frozenset(normalize("NFC", name).removesuffix(DELIMITER) for name in one.names))
            for one in groups
            if one.filter not in SELECTED_FILTERS and one.events
        ]
        self._sets: dict[frozenset[NotifyEvent], frozenset[NotifyEvent]] = {}
        self._attributes: dict[tuple[str, ...], tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def is_of_others(self) -> bool:
        """Whether mailboxes of other accounts may be meant."""
        return any(one.filter not in _OWN for one, _ in self._groups)

    @property
    def is_of_server(self) -> bool:
        """Whether annotations of the server are asked for."""
        return any(NotifyEvent.SERVER_METADATA_CHANGE in one.events for one, _ in self._groups)

    @property
    def needs_subscriptions(self) -> bool:
        """Whether the list of subscriptions makes a difference."""
        wanted = NotifyEvent.SUBSCRIPTION_CHANGE
        return any(one.filter is MailboxFilter.SUBSCRIBED or wanted in one.events for one, _ in self._groups)

    def events_of(self, path: str, *, is_personal: bool, is_subscribed: bool) -> frozenset[NotifyEvent]:
        """What is to be told of the mailbox of that name. Source: RFC 5465 §6: several groups add up."""
        found: frozenset[NotifyEvent] = frozenset()
        for group, names in self._groups:
            if _means(group.filter, names, path, is_personal=is_personal, is_subscribed=is_subscribed):
                found |= group.events
        return self._sets.setdefault(found, found)

    def events_of_name(self, path: str, subscribed: Collection[str]) -> frozenset[NotifyEvent]:
        """As `events_of`, of a name that is no mailbox."""
        is_personal = path.partition(DELIMITER)[0] not in NAMESPACES
        return self.events_of(path, is_personal=is_personal, is_subscribed=path in subscribed)

    def watched(self, one: Opened, reader_id: int, subscribed: Collection[str]) -> Watched | None:
        """The mailbox as it is told; None when nothing of it is."""
        path = one.mailbox.path
        events = self.events_of(path, is_personal=one.account_id == reader_id, is_subscribed=path in subscribed)
        if not events:
            return None
        # RFC 5465 §5: events need the rights l and r
        is_accessible = Right.READ in one.standing.rights
        if one.mailbox.is_noselect or not is_accessible:
            events -= _NEEDING_READ
            events = self._sets.setdefault(events, events)
        attributes = tuple(attributes_of(one)) + (() if is_accessible else ("\\NoAccess",))
        attributes = self._attributes.setdefault(attributes, attributes)
        return Watched(path, events, attributes, is_accessible, one.mailbox.unseen_count)


def _means(kind: MailboxFilter, names: frozenset[str], path: str, *, is_personal: bool, is_subscribed: bool) -> bool:
    if kind is MailboxFilter.PERSONAL:
        return is_personal
    if kind is MailboxFilter.INBOXES:
        # RFC 5465 §6.3: where mail is delivered to; which other mailboxes rules file into is not known
        return is_personal and path == INBOX
    if kind is MailboxFilter.SUBSCRIBED:
        return is_subscribed
    # RFC 5465 §6.6: no wildcards
    is_named = path in names
    return is_named or (kind is MailboxFilter.SUBTREE and any(above in names for above in levels_above(path)))


class Difference:
    """What of the step from one picture to the next is told by LIST.

    The names are told in an order in which the client can take them one after the other: `_at` is what it knows while
    it reads, each rename moving all below it, and what is not in its place in the end is told on its own.
    """

    def __init__(self, filters: Filters, old: Picture, new: Picture, is_own: Callable[[Key], bool]) -> None:
        self._filters = filters
        self._old = old
        self._new = new
        self._is_own = is_own
        self._lines: list[Told] = []
        self._told: dict[str, Told] = {}
        self._by_path: Mapping[str, Watched] = {one.path: one for one in new.mailboxes.values()}
        self._old_by_path: Mapping[str, Watched] = {one.path: one for one in old.mailboxes.values()}
        self._parents = {above for path in self._by_path for above in levels_above(path)}
        self._at = {key: one.path for key, one in old.mailboxes.items() if NotifyEvent.MAILBOX_NAME in one.events}
        self.come: list[Key] = []  # mailboxes that the client did not know, or could not read

    def names(self, *, with_subscriptions: bool) -> Iterator[Told]:
        """The names to tell, in order."""
        for key, one in self._new.mailboxes.items():
            if self._is_own(key) and key in self._at:
                self._move(self._at[key], one.path)  # the client has moved it itself
        self._tell_gone()
        self._tell_renamed()
        for key, now in self._new.mailboxes.items():
            if not self._is_own(key):
                self._tell_come(key, now)
        for path in set(self._at.values()) - self._by_path.keys():
            self._tell(path)
        if with_subscriptions:
            for path in {*self._old.subscribed} ^ {*self._new.subscribed}:
                events = self._events_of(path) | self._filters.events_of_name(path, (path,))
                if NotifyEvent.SUBSCRIPTION_CHANGE in events:
                    self._tell(path)
        yield from self._lines
        yield from (self._told[path] for path in sorted(self._told))

    def _events_of(self, path: str) -> frozenset[NotifyEvent]:
        found = self._by_path.get(path)
        return found.events if found else self._filters.events_of_name(path, self._new.subscribed)

    def _line(self, path: str, old_path: str | None = None, *more: str) -> Told:
        found = self._by_path.get(path)
        if found is not None:
            attributes = [*found.attributes]
        else:
            attributes = ["\\NonExistent", *(["\\HasChildren"] if path in self._parents else []), *more]
        if path in self._new.subscribed:
            attributes.append("\\Subscribed")
        return Told(path, attributes, old_path)

    def _tell(self, path: str) -> None:
        self._told[path] = self._line(path)

    def _tell_parent(self, path: str, *, only_changed: bool = False) -> None:
        """RFC 5465 §5.4: the name right above is affected, too, whether or not it is a mailbox."""
        above = path.rpartition(DELIMITER)[0]
        if not above or NotifyEvent.MAILBOX_NAME not in self._events_of(above):
            return
        before, now = self._old_by_path.get(above), self._by_path.get(above)
        if not only_changed or before is None or now is None or before.attributes != now.attributes:
            self._tell(above)

    def _tell_gone(self) -> None:
        renamed = {self._new.mailboxes[key].path for key in self._at if key in self._new.mailboxes}
        for key, was in sorted(self._old.mailboxes.items(), key=lambda item: item[1].path):
            if key in self._new.mailboxes:
                continue
            path = self._at.pop(key, was.path)
            if self._is_own(key):
                continue
            is_hidden = key in self._new.hidden
            if NotifyEvent.MAILBOX_NAME in was.events:
                more = ["\\NoAccess"] if is_hidden else []
                if path not in self._by_path:
                    self._lines.append(self._line(path, None, *more))
                elif path in renamed:
                    self._lines.append(Told(path, ["\\NonExistent"]))
                self._tell_parent(path)
            elif is_hidden:
                self._told[was.path] = Told(was.path, ["\\NoAccess"])

    def _tell_renamed(self) -> None:
        """The renames, those of mailboxes above others first, each once the name is free."""
        waiting = [key for key, path in self._at.items() if self._new.mailboxes[key].path != path]
        waiting.sort(key=lambda key: self._at[key].count(DELIMITER))
        has_moved = True
        while has_moved:
            left: list[Key] = []
            for key in waiting:
                path, now = self._at[key], self._new.mailboxes[key]
                # RFC 5465 §5.4: what is below was renamed with it, and is not told
                if path == now.path:
                    continue
                if now.path in self._at.values():
                    left.append(key)
                    continue
                self._lines.append(self._line(now.path, path))
                self._move(path, now.path)
                for one in (path, now.path):
                    self._tell_parent(one, only_changed=True)
            has_moved, waiting = len(left) < len(waiting), left

    def _move(self, old: str, new: str) -> None:
        for key, path in self._at.items():
            if path == old or path.startswith(old + DELIMITER):
                self._at[key] = new + path[len(old) :]

    def _tell_come(self, key: Key, now: Watched) -> None:
        was, is_moved = self._old.mailboxes.get(key), self._at.get(key) != now.path
        # made anew where a name without messages stood, or rights have changed (RFC 5465 §5.9)
        is_other = was is not None and ("\\Noselect" in was.attributes) != ("\\Noselect" in now.attributes)
        if NotifyEvent.MAILBOX_NAME in now.events:
            is_told = is_moved or is_other
            if is_moved:
                self._at[key] = now.path
                self._tell_parent(now.path)
        else:
            is_told = is_other or (was is None and (key in self._old.hidden or not now.is_accessible))
        if is_told:
            self._tell(now.path)
        if is_told or was is None:
            self.come.append(key)
