"""What must hold in every store, as questions to its tables: each answer row is a finding.

Decides: which rows contradict each other. Refuses to know: files and backends (`check` looks at those). Every step is
one transaction of its own, complete in itself, so that a store in use can be asked as well and no snapshot lives long.
The contract suite asks after every test; `pochta check` asks for people.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple

from pochta.errors import Refusal
from pochta.store import blobs, changes, flags, mailboxes, messages
from pochta.store.changes import Kind, UidRange
from pochta.store.tx import Tx

SHOWN: Final = 20  # findings of one rule and account; the twenty-first tells nobody anything new
SLICE_ROWS: Final = 1000
RETENTION_MIN_S: Final = 3600  # bytes of a removed message live at least so long, whatever is configured

RESTORE: Final = "restore a backup, or save what is readable with `pochta check --salvage`"
HARMLESS: Final = "nothing; the sweeper removes it"


class Severity(StrEnum):
    """Whether somebody has to act."""

    ERROR = "error"
    NOTE = "note"


class Finding(NamedTuple):
    """One contradiction, or one thing worth knowing: what it is, where it is, what to do."""

    severity: Severity
    what: str
    where: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.what}; {self.remedy}"


class Rule(NamedTuple):
    """A question whose answer rows are findings; `where` is filled with their columns, each `?` with the account.

    `since`: the version of the store that brought its tables; an older one, which `check` takes too, is not asked.
    """

    what: str
    where: str
    sql: str
    severity: Severity = Severity.ERROR
    remedy: str = RESTORE
    since: int = 1


AccountStep = Callable[[Tx, int], Iterator[Finding]]
SharedStep = Callable[[Tx], Iterator[Finding]]

_MAILBOX: Final = "mailbox {0}"
_UID: Final = "mailbox {0} uid {1}"

_ACCOUNT_RULES: Final = (
    Rule(
        "the counters are not what the messages add up to (messages, unseen, deleted, bytes)",
        "mailbox {0}: stored {1} {2} {3} {4}, counted {5} {6} {7} {8}",
        "SELECT m.id, m.message_count, m.unseen_count, m.deleted_count, m.total_bytes, coalesce(p.number, 0),"
        " coalesce(p.unseen, 0), coalesce(p.deleted, 0), coalesce(p.total, 0) FROM mailbox m LEFT JOIN"
        " (SELECT mailbox_id, count(*) AS number, CAST(sum(1 - (flags & 1)) AS BIGINT) AS unseen,"
        " CAST(sum((flags & 8) / 8) AS BIGINT) AS deleted, CAST(sum(size) AS BIGINT) AS total"
        " FROM placement WHERE account_id = ? GROUP BY mailbox_id) p ON p.mailbox_id = m.id"
        " WHERE m.account_id = ? AND m.removed_at IS NULL AND (m.message_count <> coalesce(p.number, 0)"
        " OR m.unseen_count <> coalesce(p.unseen, 0) OR m.deleted_count <> coalesce(p.deleted, 0)"
        " OR m.total_bytes <> coalesce(p.total, 0))",
    ),
    Rule(
        "the quota's counters are not what the messages add up to (messages, bytes)",
        "stored {0} {1}, counted {2} {3}",
        "SELECT a.message_count, a.used_bytes, p.number, p.total FROM account a CROSS JOIN"
        " (SELECT count(*) AS number, CAST(coalesce(sum(size), 0) AS BIGINT) AS total FROM (SELECT message_id,"
        " max(size) AS size FROM placement WHERE account_id = ? GROUP BY message_id) AS once) p"
        " WHERE a.id = ? AND a.removed_at IS NULL AND (a.message_count <> p.number OR a.used_bytes <> p.total)",
    ),
    Rule(
        "a message stands in a mailbox that does not exist",
        _UID,
        "SELECT mailbox_id, uid FROM placement WHERE account_id = ? AND mailbox_id NOT IN"
        " (SELECT id FROM mailbox WHERE account_id = ?)",
    ),
    Rule(
        "a mailbox names a message that does not exist, or its size is another",
        _UID,
        "SELECT p.mailbox_id, p.uid FROM placement p LEFT JOIN message m ON m.account_id = p.account_id"
        " AND m.id = p.message_id WHERE p.account_id = ? AND (m.id IS NULL OR m.size <> p.size)",
    ),
    Rule(
        "a message names bytes that do not exist, or its size is another",
        "message {0}",
        "SELECT m.id FROM message m LEFT JOIN blob b ON b.id = m.blob_id"
        " WHERE m.account_id = ? AND (b.id IS NULL OR b.size <> m.size)",
    ),
    Rule(
        "sizes, dates, thread or described structure of a message make no sense",
        "message {0}",
        "SELECT id FROM message WHERE account_id = ? AND (header_size < 0 OR header_size > size OR thread_id < 1"
        " OR thread_id > id OR length(envelope) = 0 OR length(body_structure) = 0)",
    ),
    Rule(
        "a uid is not below UIDNEXT, or stands for two messages",
        _UID,
        "SELECT p.mailbox_id, p.uid FROM (SELECT mailbox_id, uid FROM placement WHERE account_id = ? UNION ALL"
        " SELECT mailbox_id, uid FROM removed WHERE account_id = ?) p JOIN mailbox m ON m.account_id = ?"
        " AND m.id = p.mailbox_id GROUP BY p.mailbox_id, p.uid, m.uid_next"
        " HAVING p.uid < 1 OR p.uid >= m.uid_next OR count(*) > 1",
    ),
    Rule(
        "a change number is past the account's, or below that of its making",
        _UID,
        "SELECT p.mailbox_id, p.uid FROM (SELECT mailbox_id, uid, mod_seq, created_mod_seq FROM placement"
        " WHERE account_id = ? UNION ALL SELECT mailbox_id, uid, mod_seq, created_mod_seq FROM removed"
        " WHERE account_id = ?) p LEFT JOIN mailbox m ON m.account_id = ? AND m.id = p.mailbox_id"
        " WHERE p.mod_seq > (SELECT mod_seq FROM account WHERE id = ?) OR p.mod_seq > m.mod_seq"
        " OR p.created_mod_seq > p.mod_seq OR p.created_mod_seq < 1",
    ),
    Rule(
        "a change number of the mailbox is past the account's, or below that of its making",
        _MAILBOX,
        "SELECT id FROM mailbox WHERE account_id = ? AND (mod_seq > (SELECT mod_seq FROM account WHERE id = ?)"
        " OR counts_mod_seq > mod_seq OR created_mod_seq > counts_mod_seq OR created_mod_seq < 1)",
    ),
    Rule(
        "a change number of the log or of a message is past the account's",
        "change number {0}",
        "SELECT c.mod_seq FROM (SELECT mod_seq FROM change WHERE account_id = ? UNION ALL SELECT created_mod_seq"
        " FROM message WHERE account_id = ? UNION ALL SELECT log_floor_mod_seq FROM account WHERE id = ?) c"
        " WHERE c.mod_seq > (SELECT mod_seq FROM account WHERE id = ?)",
    ),
    Rule(
        "an id in use would be given out again",
        "id {0}",
        "SELECT i.id FROM (SELECT id FROM mailbox WHERE account_id = ? UNION ALL SELECT id FROM message"
        " WHERE account_id = ? UNION ALL SELECT thread_id FROM message WHERE account_id = ? UNION ALL"
        " SELECT thread_id FROM message_ref WHERE account_id = ?) i"
        " WHERE i.id < 1 OR i.id >= (SELECT next_id FROM account WHERE id = ?)",
    ),
    Rule(
        "UIDVALIDITY stands for two mailboxes, or would be given out again",
        "UIDVALIDITY {0}",
        "SELECT uid_validity FROM mailbox WHERE account_id = ? GROUP BY uid_validity HAVING count(*) > 1"
        f" OR uid_validity < 1 OR uid_validity > {messages.UID_LIMIT}"
        " OR uid_validity >= (SELECT next_uid_validity FROM account WHERE id = ?)",
    ),
    Rule(
        "numbers of the mailbox make no sense (UIDNEXT, recent)",
        _MAILBOX,
        "SELECT id FROM mailbox WHERE account_id = ? AND (uid_next < 1"
        f" OR uid_next > {messages.UID_LIMIT} OR recent_uid < 1 OR recent_uid > uid_next)",
    ),
    Rule(
        "a keyword overflows its message's flags, or a reader saw what is not there",
        _UID,
        "SELECT k.mailbox_id, k.uid FROM (SELECT account_id, mailbox_id, uid FROM placement_keyword UNION ALL"
        " SELECT account_id, mailbox_id, uid FROM reader_seen) k LEFT JOIN placement p ON p.account_id = k.account_id"
        " AND p.mailbox_id = k.mailbox_id AND p.uid = k.uid WHERE k.account_id = ? AND p.uid IS NULL",
    ),
    Rule(
        "a list of rights, or an annotation, belongs to a mailbox that does not exist",
        _MAILBOX,
        "SELECT k.mailbox_id FROM (SELECT account_id, mailbox_id FROM mailbox_right UNION SELECT account_id,"
        " mailbox_id FROM annotation WHERE mailbox_id > 0) k LEFT JOIN mailbox m ON m.account_id = k.account_id"
        " AND m.id = k.mailbox_id AND m.removed_at IS NULL WHERE k.account_id = ? AND m.id IS NULL",
        remedy="nothing; nobody has them",
        since=4,
    ),
    Rule(
        "a list of rights names its owner, an account that does not exist, or no right",
        "mailbox {0} reader {1}",
        "SELECT mailbox_id, reader_id FROM mailbox_right WHERE account_id = ? AND (reader_id = account_id"
        " OR granted || denied = '' OR (reader_id <> 0 AND reader_id NOT IN (SELECT id FROM account)))",
        since=4,
    ),
    Rule(
        "what a reader saw is noted for the owner, or for an account that does not exist",
        "mailbox {0} reader {1}",
        "SELECT DISTINCT mailbox_id, reader_id FROM reader_seen WHERE account_id = ? AND (reader_id = account_id"
        " OR reader_id NOT IN (SELECT id FROM account))",
    ),
    Rule(
        "nothing refers to the message any more",
        "message {0}",
        "SELECT id FROM message WHERE account_id = ? AND id NOT IN (SELECT message_id FROM placement"
        " WHERE account_id = ?) AND id NOT IN (SELECT message_id FROM removed WHERE account_id = ?)",
        Severity.NOTE,
        HARMLESS,
    ),
)

# Tables with rows of accounts, by the version of the store that brought them.
_OF_ACCOUNTS: Final = {
    1: (
        *("keyword", "mailbox", "subscription", "message", "message_ref"),
        *("placement", "placement_keyword", "reader_seen", "removed", "change"),
    ),
    2: ("app_password", "sign_in_success"),
    3: ("sending", "correspondent"),
    4: ("mailbox_right",),
}

# INV-9: whoever was accepted is in one state, somebody looks at it in time, and its way can be told.
_QUEUE_RULES: Final = (
    Rule(
        "a message on its way has no recipient left",
        "queue {0}",
        "SELECT id FROM outgoing WHERE id NOT IN (SELECT outgoing_id FROM outgoing_recipient)",
        remedy="nothing; it is in nobody's way",
        since=3,
    ),
    Rule(
        "a recipient in the queue has no message",
        "queue {0} recipient {1}",
        "SELECT outgoing_id, n FROM outgoing_recipient WHERE outgoing_id NOT IN (SELECT id FROM outgoing)",
        since=3,
    ),
    Rule(
        "a message on its way names bytes that do not exist, or its size is another",
        "queue {0}",
        "SELECT o.id FROM outgoing o LEFT JOIN blob b ON b.id = o.blob_id"
        " WHERE b.id IS NULL OR b.size <> o.size OR o.header_size > o.size",
        since=3,
    ),
    Rule(
        "a message on its way has no trail",
        "queue {0}",
        "SELECT id FROM outgoing WHERE trail_id NOT IN (SELECT id FROM trail)",
        since=3,
    ),
    Rule(
        "the state of a recipient in the queue makes no sense (state, report owed)",
        "queue {0} recipient {1}: {2} {3}",
        "SELECT outgoing_id, n, state, report FROM outgoing_recipient WHERE state NOT IN (0, 1, 2, 3)"
        " OR report NOT IN (0, 1, 2, 3, 4) OR (state = 3) <> (report > 1)",
        since=3,
    ),
    Rule(
        "a recipient waits at a destination that nobody will look at in time",
        "queue {0} recipient {1}, destination {2}",
        "SELECT r.outgoing_id, r.n, r.destination FROM outgoing_recipient r LEFT JOIN destination d"
        " ON d.name = r.destination WHERE r.state = 0 AND (d.name IS NULL OR (d.next_at > r.next_at"
        " AND d.next_at > d.not_before AND d.next_at > coalesce(d.last_at, 0)))",
        remedy="`pochta queue retry --all` wakes it; then report this",
        since=3,
    ),
    Rule(
        "a step, or an address, belongs to a trail that does not exist",
        "trail {0}",
        "SELECT trail_id FROM trail_step WHERE trail_id NOT IN (SELECT id FROM trail) UNION"
        " SELECT trail_id FROM trail_address WHERE trail_id NOT IN (SELECT id FROM trail)",
        remedy="nothing; it takes a little room",
        since=3,
    ),
)

_SHARED_RULES: Final = (
    Rule(
        "an account, or an alias, belongs to a domain that does not exist",
        "{0}",
        "SELECT address FROM account WHERE domain_id NOT IN (SELECT id FROM domain) UNION ALL"
        " SELECT address FROM alias WHERE domain_id NOT IN (SELECT id FROM domain)",
    ),
    Rule(
        "an address is an account and an alias",
        "{0}",
        "SELECT a.address FROM alias a JOIN account c ON c.domain_id = a.domain_id AND c.local_part = a.local_part",
        remedy="remove the alias",
    ),
    Rule(
        "an account is half removed",
        "account {0}",
        "SELECT id FROM account WHERE (local_part IS NULL) <> (removed_at IS NOT NULL)",
    ),
    Rule(
        "a target belongs to no alias",
        "alias {0}",
        "SELECT alias_id FROM alias_target WHERE alias_id NOT IN (SELECT id FROM alias)",
    ),
    Rule(
        "the alias stands for nobody",
        "{0}",
        "SELECT address FROM alias WHERE id NOT IN (SELECT alias_id FROM alias_target)",
        remedy="give it a target or remove it",
    ),
    Rule(
        "a DKIM key belongs to a domain that does not exist, or was retired before it signed",
        "DKIM key {0}",
        "SELECT id FROM dkim_key WHERE domain_id NOT IN (SELECT id FROM domain WHERE name <> '')"
        " OR (retired_at IS NOT NULL AND (signs_from IS NULL OR retired_at < signs_from))",
        since=3,
    ),
    Rule(
        "a domain has two DKIM keys of one algorithm that sign",
        "{0}, {1}",
        "SELECT domain.name, algorithm FROM dkim_key k JOIN domain ON domain.id = k.domain_id WHERE signs_from IS NOT"
        " NULL AND retired_at IS NULL GROUP BY domain.name, algorithm HAVING count(*) > 1",
        remedy="make new ones with `pochta domain rotate-keys`; those retire both",
        since=3,
    ),
    Rule(
        "bytes stand in the store and in a file, or in neither",
        "blob {0}",
        "SELECT b.id FROM blob b LEFT JOIN blob_inline i ON i.blob_id = b.id"
        " WHERE (i.blob_id IS NULL) = (b.file IS NULL)",
    ),
    Rule(
        "the bytes are fewer or more than noted, or packed in an unknown way",
        "blob {0}",
        "SELECT b.id FROM blob b LEFT JOIN blob_inline i ON i.blob_id = b.id"
        f" WHERE length(i.bytes) <> b.stored_size OR b.codec <> {blobs.CODEC_PLAIN}"
        f" OR (b.codec = {blobs.CODEC_PLAIN} AND b.size <> b.stored_size)",
    ),
    Rule(
        "bytes stand in the store without a row that names them",
        "blob {0}",
        "SELECT blob_id FROM blob_inline WHERE blob_id NOT IN (SELECT id FROM blob)",
    ),
    Rule(
        "nothing refers to the bytes any more",
        "blob {0}",
        "SELECT id FROM blob WHERE id NOT IN (SELECT blob_id FROM message)"
        " AND id NOT IN (SELECT blob_id FROM outgoing)",
        Severity.NOTE,
        HARMLESS,
        since=3,
    ),
    Rule(
        "an annotation belongs to an account that does not exist",
        "account {0} reader {1}",
        "SELECT DISTINCT account_id, reader_id FROM annotation WHERE (account_id <> 0 AND account_id NOT IN"
        " (SELECT id FROM account)) OR (reader_id <> 0 AND reader_id NOT IN (SELECT id FROM account))",
        since=4,
    ),
    *_QUEUE_RULES,
    *(
        Rule(
            f"rows of `{table}` belong to an account that does not exist",
            "account {0}",
            f"SELECT DISTINCT account_id FROM {table} WHERE account_id NOT IN (SELECT id FROM account)",
            since=since,
        )
        for since, tables in _OF_ACCOUNTS.items()
        for table in tables
    ),
)


def _ask(rule: Rule, tx: Tx, *, account_id: int = 0, prefix: str = "") -> Iterator[Finding]:
    if rule.since > 1 and tx.rows("SELECT number FROM meta WHERE name = 'schema_version'")[0][0] < rule.since:
        return
    for row in tx.rows(f"{rule.sql} LIMIT {SHOWN}", (account_id,) * rule.sql.count("?")):
        yield Finding(rule.severity, rule.what, prefix + rule.where.format(*row), rule.remedy)


def _account_step(rule: Rule) -> AccountStep:
    return lambda tx, account_id: _ask(rule, tx, account_id=account_id, prefix=f"account {account_id} ")


def _shared_step(rule: Rule) -> SharedStep:
    return lambda tx: _ask(rule, tx)


def _error(account_id: int, where: str, what: str, remedy: str = RESTORE) -> Finding:
    return Finding(Severity.ERROR, what, f"account {account_id} {where}".rstrip(), remedy)


def _check_tree(tx: Tx, account_id: int) -> Iterator[Finding]:
    """INBOX is there; every mailbox hangs on the root; names are as `mailboxes.split_path` leaves them."""
    rows = tx.rows(
        "SELECT id, parent_id, name, role, removed_at FROM mailbox WHERE account_id = ? ORDER BY id", (account_id,)
    )
    live = {row[0]: row[1] for row in rows if row[2] is not None}
    if not any(row[1:4] == (mailboxes.ROOT, mailboxes.INBOX, "inbox") for row in rows):
        yield _error(account_id, "", "there is no INBOX")
    hanging = {mailboxes.ROOT}
    for mailbox_id, parent_id, name, _, removed_at in rows:
        if (name is None) != (removed_at is not None):
            yield _error(account_id, f"mailbox {mailbox_id}", "the mailbox is half removed")
        if name is None:
            continue
        way = [mailbox_id]
        while parent_id not in hanging and parent_id in live and parent_id not in way:
            way.append(parent_id)
            parent_id = live[parent_id]
        if parent_id in hanging:
            hanging.update(way)
        else:
            yield _error(account_id, f"mailbox {mailbox_id}", "no way leads from the mailbox up to the top")
        if not _is_name(name):
            yield _error(account_id, f"mailbox {mailbox_id}", f"the mailbox has an impossible name: {name!a}")


def _is_name(name: str) -> bool:
    try:
        return mailboxes.split_path(name) in ([name], [name.upper()])  # "Inbox" may stand below the top
    except Refusal:
        return False


def _check_keywords(tx: Tx, account_id: int) -> Iterator[Finding]:
    """Every bit of every flag set has a name; the dictionary is one."""
    rows = tx.rows("SELECT bit, name, folded FROM keyword WHERE account_id = ?", (account_id,))
    known = (1 << flags.FIRST_KEYWORD_BIT) - 1
    for bit, name, folded in rows:
        if not flags.FIRST_KEYWORD_BIT <= bit < flags.FIRST_KEYWORD_BIT + flags.KEYWORD_BITS or folded != name.lower():
            yield _error(account_id, f"keyword {bit}", f"the keyword makes no sense: {name!a}")
        else:
            known |= 1 << bit
    for table in ("placement", "removed"):
        rule = Rule(
            "a flag has no name", _UID, f"SELECT mailbox_id, uid FROM {table} WHERE account_id = ? AND (flags & ?) <> 0"
        )
        for row in tx.rows(f"{rule.sql} LIMIT {SHOWN}", (account_id, ~known)):
            yield _error(account_id, _UID.format(*row), rule.what)


def _read_log(tx: Tx, account_id: int, floor: int) -> tuple[dict[tuple[int, int, bool], list[UidRange]], list[Finding]]:
    """Uids by (mailbox, mod_seq, is removal), and what is wrong with the log itself."""
    log: dict[tuple[int, int, bool], list[UidRange]] = {}
    findings: list[Finding] = []
    uid_next: dict[int, int] = dict(tx.rows("SELECT id, uid_next FROM mailbox WHERE account_id = ?", (account_id,)))
    rows = tx.rows(
        "SELECT mailbox_id, mod_seq, kind, uids FROM change WHERE account_id = ? AND mod_seq > ?", (account_id, floor)
    )
    for mailbox_id, mod_seq, kind, text in rows:
        if kind == Kind.ANNOTATED:
            continue  # names, no uids
        ranges = _decode(text)
        is_lawful = kind in tuple(Kind) and ranges is not None and (kind == Kind.MAILBOX) == (not ranges)
        if not is_lawful or (ranges and ranges[-1][1] >= uid_next.get(mailbox_id, messages.UID_LIMIT + 1)):
            where = f"mailbox {mailbox_id} change number {mod_seq}"
            findings.append(_error(account_id, where, f"the change log holds an impossible row: {kind} {text[:60]!a}"))
        elif kind != Kind.MAILBOX:
            log.setdefault((mailbox_id, mod_seq, kind == Kind.REMOVED), []).extend(ranges or [])
    return {key: changes.merge_ranges(ranges) for key, ranges in log.items()}, findings[:SHOWN]


def _decode(text: str) -> list[UidRange] | None:
    """The ranges, or None for what `encode_ranges` cannot have written."""
    try:
        ranges = changes.decode_ranges(text)
    except ValueError:
        return None
    is_rising = all(first <= last for first, last in ranges) and all(
        ranges[n][1] + 1 < ranges[n + 1][0] for n in range(len(ranges) - 1)
    )
    is_same = ",".join(str(a) if a == b else f"{a}:{b}" for a, b in ranges) == text
    return ranges if is_rising and is_same and (not ranges or ranges[0][0] >= 1) else None


def _check_log(tx: Tx, account_id: int) -> Iterator[Finding]:
    """As far back as the log reaches, it names every placement under the mod_seq that the placement carries."""
    row = tx.row("SELECT log_floor_mod_seq FROM account WHERE id = ?", (account_id,))
    floor = row[0] if row else 0
    log, findings = _read_log(tx, account_id, floor)
    yield from findings
    shown = 0
    for table, is_removal in (("placement", False), ("removed", True)):
        mailbox_id = uid = 0
        while shown < SHOWN:
            rows = tx.rows(
                f"SELECT t.mailbox_id, t.uid, t.mod_seq FROM {table} t WHERE account_id = ? AND (mailbox_id, uid) >"
                f" (?, ?) ORDER BY mailbox_id, uid LIMIT {SLICE_ROWS}",
                (account_id, mailbox_id, uid),
            )
            for mailbox_id, uid, mod_seq in rows:  # the last row is where the next slice begins
                if mod_seq > floor and not _names(log.get((mailbox_id, mod_seq, is_removal)), uid):
                    shown += 1
                    what = f"the change log does not tell of change number {mod_seq}"
                    yield _error(account_id, f"mailbox {mailbox_id} uid {uid}", what)
            if len(rows) < SLICE_ROWS:
                break


def _names(ranges: list[UidRange] | None, uid: int) -> bool:
    if not ranges:
        return False
    place = bisect_right(ranges, (uid, messages.UID_LIMIT + 1)) - 1
    return place >= 0 and ranges[place][0] <= uid <= ranges[place][1]


def _check_addresses(tx: Tx) -> Iterator[Finding]:
    """What aliases and catch-alls send to addresses of ours can arrive; `+detail` is not looked into."""
    domains: dict[str, int] = {name: id for id, name in tx.rows("SELECT id, name FROM domain") if name}
    keys = set(tx.rows("SELECT domain_id, local_part FROM account UNION SELECT domain_id, local_part FROM alias"))
    sql = (
        "SELECT a.address, t.target FROM alias_target t JOIN alias a ON a.id = t.alias_id"
        " UNION ALL SELECT shown, catch_all FROM domain WHERE catch_all IS NOT NULL"
    )
    for address, target in tx.rows(sql):
        local_part, _, domain = unicodedata.normalize("NFC", target).casefold().rpartition("@")
        id = domains.get(domain)
        if id is not None and "+" not in local_part and (id, local_part) not in keys:
            yield no_such_target(address, target)


def no_such_target(where: str, target: str) -> Finding:
    """An alias or catch-all sends to an address of ours that nobody has."""
    what = f"sends to {target}, which does not exist here"
    return Finding(Severity.NOTE, what, where, "make the address or change the alias")


ACCOUNT_STEPS: Final[tuple[AccountStep, ...]] = (
    *map(_account_step, _ACCOUNT_RULES),
    _check_tree,
    _check_keywords,
    _check_log,
)
SHARED_STEPS: Final[tuple[SharedStep, ...]] = (*map(_shared_step, _SHARED_RULES), _check_addresses)


def live_accounts(tx: Tx) -> list[int]:
    """The ids of the accounts that were not removed."""
    return [row[0] for row in tx.rows("SELECT id FROM account WHERE removed_at IS NULL ORDER BY id")]


def check_all(tx: Tx) -> list[Finding]:
    """Every finding, in one transaction: for tests, whose stores are small."""
    findings = [finding for step in SHARED_STEPS for finding in step(tx)]
    for account_id in live_accounts(tx):
        findings += [finding for step in ACCOUNT_STEPS for finding in step(tx, account_id)]
    return findings
