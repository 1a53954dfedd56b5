"""NOTIFY: what is told while no command runs, to whom, and what is not. Source: RFC 5465."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random  # noqa: TID251 - a test's own, seeded

import pytest
from imap_raw import Imap, fill, message

from pochta.accounts import sharing
from pochta.app import App
from pochta.clock import now_s
from pochta.config import ListenerProtocol
from pochta.net.listen import bind_all
from pochta.servers.imap.notify import notify as imap_notify
from pochta.servers.imap.notify import watched
from pochta.store import annotations
from pochta.store.hints import HintHub
from pochta.store.store import Store
from pochta.testing import Server
from pochta.testing.server import CHEAP_COST

MESSAGES = "MessageNew MessageExpunge FlagChange"
NAMES = "MailboxName SubscriptionChange MailboxMetadataChange ServerMetadataChange"
OTHER = "bert@example.org"


def exists(count: int, recent: int) -> list[bytes]:
    return [b"* %d EXISTS" % count, b"* %d RECENT" % recent]


@contextmanager
def second_worker(server: Server) -> Iterator[int]:
    """The port of another worker of the same store."""

    async def start(_store: Store) -> tuple[App, int]:
        bound = bind_all(server.app.settings.listeners)
        app = App(server.app.settings, bound, index=1, password_cost=CHEAP_COST)
        await app.start()
        return app, next(one.address[1] for one in bound if one.config.protocol is ListenerProtocol.IMAP)

    app, port = server.run(start)

    async def stop(_store: Store) -> None:
        await app.stop()

    yield port
    server.run(stop)


def heard(imap: Imap, count: int) -> list[bytes]:
    return [imap.line() for _ in range(count)]


@pytest.fixture
def shared(pochta: Server) -> Server:
    pochta.add_account(OTHER, "secret")
    return pochta


@pytest.mark.rfc(5465, "3.1")
@pytest.mark.parametrize("how", ["NONE", "SET (personal (MailboxName))", "SET (selected NONE)"])
def test_without_selected_nothing_of_the_selected_mailbox_is_told(pochta: Server, how: str) -> None:
    fill(pochta, 3)
    with Imap(pochta) as listener, Imap(pochta) as other:
        listener.ok(f"NOTIFY {how}")
        other.ok("STORE 1:2 +FLAGS (\\Deleted)")
        other.append(message(4))
        other.ok("UID EXPUNGE 2")
        assert listener.ok("NOOP") == []
        assert listener.ok("CHECK") == []
        # what it asks for itself is answered, of the messages that it knows
        assert listener.ok("UID STORE 3 +FLAGS (\\Seen)") == [b"* 3 FETCH (UID 3 FLAGS (\\Seen \\Recent))"]
        assert listener.ok("EXPUNGE") == [b"* 1 EXPUNGE"]
        assert listener.ok("NOOP") == []
        # SET is a NOOP, too
        assert listener.ok("NOTIFY SET (selected (MessageNew MessageExpunge))") == [
            b"* 1 EXPUNGE",
            b"* 2 EXISTS",
            b"* 1 RECENT",
        ]


@pytest.mark.rfc(5465, "5")
def test_flags_that_are_not_asked_for_are_not_told_and_no_number_passes_them(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox=None) as listener, Imap(pochta) as other:
        listener.ok("ENABLE QRESYNC")
        lines = listener.ok("SELECT INBOX")
        highest = next(line for line in lines if b"HIGHESTMODSEQ" in line).split()[3].rstrip(b"]")
        listener.ok("NOTIFY SET (selected (MessageNew MessageExpunge))")
        other.ok("STORE 1 +FLAGS (\\Flagged)")
        other.append(message(3))
        assert heard(listener, 2) == exists(3, 1)
        assert listener.ok("STATUS INBOX (HIGHESTMODSEQ)")[-1].endswith(b"(HIGHESTMODSEQ %b)" % highest)
        listener.ok("NOTIFY SET (selected (MessageNew MessageExpunge FlagChange))")
        assert listener.ok("FETCH 1 FLAGS")[0].startswith(b"* 1 FETCH (FLAGS (\\Flagged")


@pytest.mark.rfc(5465, "5.2")
def test_items_of_new_messages_but_not_of_ones_own(pochta: Server) -> None:
    with Imap(pochta) as listener, Imap(pochta, mailbox=None) as other:
        listener.ok("NOTIFY SET (selected (MessageNew (UID FLAGS BODY.PEEK[TEXT]) MessageExpunge))")
        assert listener.append(message(1))[:-1] == exists(1, 1)
        other.append(message(2, b"two\r\n"))
        wanted = b"* 2 FETCH (UID 2 FLAGS (\\Recent) BODY[TEXT] {5}\r\ntwo\r\n)"
        assert heard(listener, 3) == [*exists(2, 2), wanted]
        assert listener.ok("COPY 1 INBOX") == exists(3, 3)


@pytest.mark.rfc(9586, "3.3")
def test_other_modes(pochta: Server) -> None:
    fill(pochta, 2)
    with Imap(pochta, mailbox=None) as listener, Imap(pochta) as other:
        listener.ok("ENABLE UIDONLY IMAP4rev2 CONDSTORE")
        listener.ok("SELECT INBOX")
        listener.ok(
            "NOTIFY SET (selected (MessageNew (FLAGS) MessageExpunge FlagChange)) (mailboxes Ä (MailboxName))".replace(
                "Ä", '"\xc4"'
            )
        )
        other.ok("STORE 1 +FLAGS (\\Deleted)")
        assert re.fullmatch(rb"\* 1 UIDFETCH \(FLAGS \(\\Deleted\) MODSEQ \(\d+\)\)", listener.line())
        other.ok("EXPUNGE")
        assert listener.line() == b"* VANISHED 1"
        other.append(message(3))
        assert listener.line() == b"* 2 EXISTS"
        assert re.fullmatch(rb"\* 3 UIDFETCH \(FLAGS \(\) MODSEQ \(\d+\)\)", listener.line())
        other.ok("CREATE &AMQ-")
        assert listener.line() == '* LIST (\\HasNoChildren) "/" "\xc4"'.encode()


@pytest.mark.rfc(5465, "6.1.2")
def test_delayed_removals_wait_for_noop_or_idle(pochta: Server) -> None:
    fill(pochta, 3)
    with Imap(pochta) as listener, Imap(pochta) as other:
        listener.ok("NOTIFY SET (selected-delayed (MessageNew MessageExpunge FlagChange))")
        other.ok("STORE 1 +FLAGS (\\Deleted)")
        assert listener.line() == b"* 1 FETCH (UID 1 FLAGS (\\Deleted \\Recent))"
        other.ok("EXPUNGE")
        other.ok("STORE 1 +FLAGS (\\Seen)")
        assert listener.line() == b"* 2 FETCH (UID 2 FLAGS (\\Seen \\Recent))"
        tag = listener.idle()
        assert listener.line() == b"* 1 EXPUNGE"
        assert listener.done(tag) == []


@pytest.mark.rfc(5465, "3.1")
def test_a_mailbox_that_was_left_is_told_again(pochta: Server) -> None:
    with Imap(pochta) as listener, Imap(pochta, mailbox=None) as other:
        listener.ok("NOTIFY SET (personal (MessageNew MessageExpunge))")
        other.append(message(1))
        assert listener.ok("NOOP") == []
        listener.ok("SELECT Junk")
        assert listener.line().startswith(b"* STATUS INBOX (MESSAGES 1 UIDNEXT 2 ")
        other.append(message(1))
        assert listener.line().startswith(b"* STATUS INBOX (MESSAGES 2 UIDNEXT 3 ")
        assert listener.ok("NOOP") == []


@pytest.mark.rfc(5465, "5.9")
def test_rights_begin_and_end_the_news(shared: Server) -> None:
    name = b'"Other Users/anna@example.org/INBOX"'
    with Imap(shared, mailbox=None) as owner, Imap(shared, user=OTHER, mailbox=None) as reader:
        reader.ok('NOTIFY SET (subtree "Other Users" (MailboxName MessageNew MessageExpunge FlagChange))')
        owner.append(message(1))
        for identifier in (OTHER, "anyone"):
            edited = sharing.parse_rights("lr")
            shared._write(sharing.grant, "anna@example.org", "INBOX", identifier, edited, False, int(now_s()))
            lines = heard(reader, 3)
            assert lines[1] == b'* LIST (\\HasNoChildren) "/" ' + name
            assert lines[2].startswith(b"* STATUS " + name), lines
            owner.append(message(1))
            assert reader.line().startswith(b"* STATUS " + name)
            owner.ok(f"DELETEACL INBOX {identifier}")
            assert heard(reader, 2)[0] == b'* LIST (\\NonExistent \\NoAccess) "/" ' + name
            owner.append(message(1))
        assert reader.ok("NOOP") == []


@pytest.mark.rfc(5465, "3.1")
def test_a_mailbox_that_may_be_listed_and_no_more(shared: Server) -> None:
    name = b'"Other Users/anna@example.org/INBOX"'
    with Imap(shared, mailbox=None) as owner, Imap(shared, user=OTHER, mailbox=None) as reader:
        owner.ok(f"SETACL INBOX {OTHER} l")
        lines = reader.ok(f"NOTIFY SET STATUS (mailboxes {name.decode()} ({MESSAGES})) (inboxes ({MESSAGES}))")
        assert [line[:12] for line in lines] == [b"* STATUS INB", b"* LIST (\\Nos"]
        assert lines[1] == b'* LIST (\\Noselect \\HasNoChildren \\NoAccess) "/" ' + name
        owner.append(message(1))
        assert reader.ok("NOOP") == []
        owner.ok(f"SETACL INBOX {OTHER} +r")
        assert reader.line() == b'* LIST (\\HasNoChildren) "/" ' + name
        assert reader.line().startswith(b"* STATUS " + name)


@pytest.mark.rfc(5465, "5.8")
def test_too_much(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Imap(pochta) as listener, Imap(pochta) as other:
        monkeypatch.setattr(imap_notify, "WATCHED_MAX", 5)
        assert listener.do(f"NOTIFY SET (personal ({NAMES}))")[-1].startswith(b"NO [NOTIFICATIONOVERFLOW] ")
        monkeypatch.setattr(imap_notify, "WATCHED_MAX", 6)
        listener.ok(f"NOTIFY SET (personal ({NAMES})) (selected ({MESSAGES}))")
        other.ok("CREATE seventh")
        assert listener.line().startswith(b"* OK [NOTIFICATIONOVERFLOW] ")
        other.append(message(1))
        assert listener.ok("NOOP") == []


@pytest.mark.rfc(5465, "5.7")
def test_what_is_annotated_for_all(shared: Server) -> None:
    async def annotate(store: Store) -> None:
        await store.write(0, annotations.write, 1, annotations.SERVER, 1, [("/shared/comment", b"x")], 0)

    with Imap(shared, user=OTHER, mailbox=None) as listener:
        listener.ok("NOTIFY SET (inboxes (ServerMetadataChange))")
        shared.run(annotate)
        assert listener.line() == b'* METADATA "" /shared/comment'


def test_news_come_without_hints_and_from_another_worker(pochta: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with second_worker(pochta) as port, Imap(pochta) as listener, Imap(pochta, port=port) as other:
        monkeypatch.setattr(HintHub, "publish", lambda self, hints: None)
        listener.ok(f"NOTIFY SET (selected ({MESSAGES})) (personal ({MESSAGES} {NAMES}))")
        other.ok("CREATE there")
        assert listener.line() == b'* LIST (\\HasNoChildren) "/" there'
        assert listener.line().startswith(b"* STATUS there ")
        other.append(message(1))
        assert heard(listener, 2) == exists(1, 1)


def test_it_ends_with_the_connection_and_the_sign_in(pochta: Server) -> None:
    app: App = pochta.app
    with Imap(pochta) as listener:
        listener.ok(f"NOTIFY SET (selected ({MESSAGES})) (personal ({NAMES}))")
        assert app.watching
        listener.ok("UNAUTHENTICATE")
        assert not app.watching
        listener.ok("LOGIN anna@example.org secret")
        listener.ok(f"NOTIFY SET (subscribed ({NAMES}))")
        assert app.watching
        listener.ok("NOTIFY NONE")
        assert not app.watching


class Listener:
    """A client that says nothing, and what it takes the mailboxes to be by what it hears."""

    def __init__(self, imap: Imap) -> None:
        self.imap = imap
        self.counts: dict[bytes, dict[bytes, int]] = {}
        self.names: dict[bytes, bool] = {}  # whether there are others below
        self.subscribed: set[bytes] = set()
        self.messages: list[tuple[int, frozenset[bytes]]] = []

    def hear(self, line: bytes) -> None:
        if match := re.fullmatch(rb'\* LIST \(([^)]*)\) "/" (\S+)(?: \("OLDNAME" \((\S+)\)\))?', line):
            self._hear_name(match[2], frozenset(match[1].split()), match[3])
        elif match := re.fullmatch(rb"\* STATUS (\S+) \((.*)\)", line):
            words = match[2].split()
            self.counts.setdefault(match[1], {}).update(zip(words[::2], map(int, words[1::2]), strict=True))
        elif match := re.fullmatch(rb"\* (\d+) EXPUNGE", line):
            self.messages.pop(int(match[1]) - 1)
        elif match := re.fullmatch(rb"\* (\d+) EXISTS", line):
            self.messages += [(0, frozenset())] * (int(match[1]) - len(self.messages))
        elif match := re.fullmatch(rb"\* (\d+) FETCH \(UID (\d+) FLAGS \(([^)]*)\)\)", line):
            self.messages[int(match[1]) - 1] = (int(match[2]), frozenset(match[3].split()) - {b"\\Recent"})

    def _hear_name(self, name: bytes, attributes: frozenset[bytes], old: bytes | None) -> None:
        if old is not None:
            for known in [one for one in self.names if one == old or one.startswith(old + b"/")]:
                new = name + known[len(old) :]
                self.names[new] = self.names.pop(known)
                if known in self.counts:
                    self.counts[new] = self.counts.pop(known)
        (self.subscribed.add if b"\\Subscribed" in attributes else self.subscribed.discard)(name)
        if b"\\NonExistent" in attributes and b"\\HasChildren" not in attributes:
            self.names.pop(name, None)
            self.counts.pop(name, None)
            return
        if attributes & {b"\\NonExistent", b"\\Noselect"}:
            self.counts.pop(name, None)
        self.names[name] = b"\\HasChildren" in attributes


WALK_STEPS = 60
ITEMS = b"MESSAGES UIDNEXT UIDVALIDITY UNSEEN"


@pytest.mark.rfc(5465, "5.4")
@pytest.mark.parametrize("seed", range(20))
def test_whoever_only_listens_knows_everything(seed: int, pochta: Server) -> None:
    random = Random(seed)
    with second_worker(pochta) as port, Imap(pochta) as quiet, Imap(pochta) as one, Imap(pochta, port=port) as two:
        listener = Listener(quiet)
        for line in quiet.ok('LIST "" * RETURN (SUBSCRIBED CHILDREN)'):
            listener.hear(line)
        delayed = random.choice(["selected", "selected-delayed"])
        selected = f"({delayed} (MessageNew (UID FLAGS) MessageExpunge FlagChange))"
        for line in quiet.ok(f"NOTIFY SET STATUS {selected} (personal ({MESSAGES} {NAMES}))"):
            listener.hear(line)
        for _ in range(WALK_STEPS):
            _step(random, random.choice([one, two]))
        # IDLE tells what is still owed, removals too; the last line of all is ours
        tag = quiet.begin("IDLE")
        one.ok('SETMETADATA "" (/private/comment "end")')
        while (line := quiet.line()) != b'* METADATA "" /private/comment':
            listener.hear(line)
        for line in quiet.done(tag):
            listener.hear(line)
        _compare(listener, pochta)


def _step(random: Random, imap: Imap) -> None:
    names = ["a", "b", "a/b", "b/c", "a/b/c", "Junk"]
    name, other = random.choice(names), random.choice(names)
    number = random.randint(1, 3)
    commands = [
        f"CREATE {name}",
        f"DELETE {name}",
        f"RENAME {name} {other}",
        f"SUBSCRIBE {name}",
        f"UNSUBSCRIBE {name}",
        f"STORE {number} +FLAGS (\\Seen)",
        f"STORE {number} -FLAGS (\\Seen)",
        f"STORE {number} +FLAGS (\\Deleted)",
        f"COPY {number} {name}",
        f"MOVE {number} {name}",
        "EXPUNGE",
        "SELECT Archive",
        "SELECT INBOX",
    ]
    if random.random() < 0.3:
        imap.append(message(1), random.choice(["INBOX", name]))
    imap.do(random.choice(commands))


def _compare(listener: Listener, server: Server) -> None:
    with Imap(server, mailbox=None) as fresh:
        truth = Listener(fresh)
        items = ITEMS.decode()
        for line in fresh.ok(f'LIST "" * RETURN (SUBSCRIBED CHILDREN STATUS ({items}))'):
            truth.hear(line)
        for line in fresh.ok("EXAMINE INBOX"):
            truth.hear(line)
        if truth.messages:
            for line in fresh.ok("FETCH 1:* (UID FLAGS)"):
                truth.hear(line)
    assert listener.names == truth.names
    assert listener.subscribed & truth.names.keys() == truth.subscribed
    truth.counts.pop(b"INBOX")
    for counts in listener.counts.values():
        counts.pop(b"HIGHESTMODSEQ", None)
    assert listener.counts == truth.counts
    assert listener.messages == truth.messages


def test_bounds_are_named() -> None:
    assert watched.WATCHED_MAX * 300 <= 1 << 20
