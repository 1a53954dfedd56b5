"""What must stand in the mailboxes, after every kill: nothing lost, nothing twice, no number that goes back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from crash_peers import Effect, Place, Reader, body_of

from pochta.store import flags as flag_bits
from pochta.store import mailboxes
from pochta.store.sqlite import DATABASE_NAME, SqliteTx, connect

MAILBOXES = ("INBOX", "Archive")
_NAMES = (
    (flag_bits.SEEN, "\\Seen"),
    (flag_bits.ANSWERED, "\\Answered"),
    (flag_bits.FLAGGED, "\\Flagged"),
    (flag_bits.DELETED, "\\Deleted"),
    (flag_bits.DRAFT, "\\Draft"),
)

Rows = dict[int, tuple[str, frozenset[str]]]  # uid -> (subject, flags)


@dataclass
class Seen:
    """Everything that a look at the server found."""

    rows: dict[Place, Rows] = field(default_factory=dict)
    uid_validity: dict[Place, int] = field(default_factory=dict)
    uid_next: dict[Place, int] = field(default_factory=dict)
    mod_seq: dict[str, int] = field(default_factory=dict)
    floor: int = 0


def look(imap: tuple[str, int], accounts: Iterable[str], known: Seen) -> Seen:
    """By IMAP; the text of messages that `known` does not have is compared with what was sent."""
    seen = Seen()
    for account in accounts:
        reader = Reader(imap, account)
        for mailbox in MAILBOXES:
            place = account, mailbox
            seen.uid_validity[place], seen.uid_next[place] = reader.open(mailbox)
            seen.rows[place] = rows = reader.rows()
            news = {uid: row[0] for uid, row in rows.items() if uid not in known.rows.get(place, {})}
            texts = reader.texts(news)
            assert all(texts[uid] == body_of(subject) for uid, subject in news.items()), place
        reader.close()
    return seen


def look_into(data_dir: Path) -> Seen:
    """By the store's own rows."""
    connection = connect(data_dir / DATABASE_NAME, writable=False)
    try:
        connection.execute("BEGIN")
        return _read(connection)
    finally:
        connection.close()


def _read(connection: apsw.Connection) -> Seen:
    tx = SqliteTx(connection, 0)
    seen = Seen()
    for account_id, address, mod_seq in tx.rows("SELECT id, address, mod_seq FROM account"):
        account = address.partition("@")[0]
        seen.mod_seq[account] = mod_seq
        names = dict(_NAMES)
        for mailbox in mailboxes.list_all(tx, account_id):
            if mailbox.path in MAILBOXES:
                place = account, mailbox.path
                seen.uid_next[place], seen.uid_validity[place] = mailbox.uid_next, mailbox.uid_validity
                found = tx.rows(
                    "SELECT p.uid, m.base_subject, p.flags FROM placement p JOIN message m ON m.account_id ="
                    " p.account_id AND m.id = p.message_id WHERE p.account_id = ? AND p.mailbox_id = ?",
                    (account_id, mailbox.id),
                )
                seen.rows[place] = {
                    uid: (subject, frozenset(name for bit, name in names.items() if bits & bit))
                    for uid, subject, bits in found
                }
    floor = tx.row("SELECT number FROM meta WHERE name = 'mod_seq_floor'")
    seen.floor = floor[0] if floor else 0
    return seen


class Ledger:
    """What was promised. `settle` compares it with what is there, and goes on from that."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.answered = 0
        self.unanswered = 0
        self.unanswered_applied = 0

    def settle(self, found: Seen, in_store: Seen, done: Sequence[Effect], open_: Sequence[Effect]) -> None:
        """Every effect of `done` is there, each of `open_` as a whole or not at all, and nothing else has changed."""
        assert (found.rows, found.uid_next, found.uid_validity) == (
            in_store.rows,
            in_store.uid_next,
            in_store.uid_validity,
        )
        self._compare_counts(found, done, open_)
        self._compare_flags(found, done, open_)
        self._compare_numbers(found, in_store)
        for effect in (*done, *open_):
            for (place, uid), subject in effect.told.items():
                assert found.rows[place][uid][0] == subject, (place, uid)
        found.mod_seq, found.floor = in_store.mod_seq, in_store.floor
        self.seen = found
        self.answered += len(done)
        self.unanswered += len(open_)

    def _compare_counts(self, found: Seen, done: Sequence[Effect], open_: Sequence[Effect]) -> None:
        expected = _counts(self.seen)
        for effect in done:
            expected.update(effect.counts)
        actual = _counts(found)
        for effect in open_:
            change = {key: actual[key] - expected[key] for key in effect.counts}
            assert change == effect.counts or not any(change.values()), (effect, change)
            expected.update(change)
            self.unanswered_applied += any(change.values())
        # `Counter` keeps zeros; `+` drops them, and would hide a negative number: those are looked for first
        assert min(expected.values(), default=0) >= 0
        assert +actual == +expected, {key: (expected[key], actual[key]) for key in actual | expected}

    def _compare_flags(self, found: Seen, done: Sequence[Effect], open_: Sequence[Effect]) -> None:
        allowed = {(place, uid): [row[1]] for place, rows in self.seen.rows.items() for uid, row in rows.items()}
        for effect in done:
            allowed.update({key: [new] for key, new in effect.flags.items()})
        for effect in open_:
            for key, new in effect.flags.items():
                allowed[key].append(new)
        for (place, uid), one_of in allowed.items():
            if uid in found.rows[place]:
                assert found.rows[place][uid][1] in one_of, (place, uid)

    def _compare_numbers(self, found: Seen, in_store: Seen) -> None:
        for place, before in self.seen.rows.items():
            now = found.rows[place]
            assert found.uid_validity[place] == self.seen.uid_validity[place]
            assert found.uid_next[place] >= self.seen.uid_next[place]
            assert all(now[uid][0] == row[0] for uid, row in before.items() if uid in now)
            assert min(now.keys() - before.keys(), default=1 << 32) >= self.seen.uid_next[place]
            assert max(now, default=0) < found.uid_next[place]
        for account, mod_seq in self.seen.mod_seq.items():
            assert in_store.mod_seq[account] >= mod_seq
        assert in_store.floor >= self.seen.floor


def _counts(seen: Seen) -> Counter[tuple[Place, str]]:
    return Counter((place, row[0]) for place, rows in seen.rows.items() for row in rows.values())
