"""The commands of a client as plain values: what was asked, decoded; not whether it is allowed or makes sense.

Names of mailboxes are text (modified UTF-7 undone, every case of INBOX is `INBOX`), flags are text with the system
flags in their RFC spelling, sequence sets keep `*`. Secrets do not appear in `repr`.

Source: RFC 3501 §6 and §9, and the RFC named at each command of an extension.
"""

from dataclasses import dataclass, field
from enum import Enum

from pochta.proto.imap.resync import Resync
from pochta.proto.imap.search_return import PartialRange, SearchReturn
from pochta.proto.imap.seqset import SeqSet


class StatusItem(Enum):
    """What STATUS can be asked for; the value is the word on the wire."""

    MESSAGES = b"MESSAGES"
    RECENT = b"RECENT"
    UIDNEXT = b"UIDNEXT"
    UIDVALIDITY = b"UIDVALIDITY"
    UNSEEN = b"UNSEEN"
    DELETED = b"DELETED"  # RFC 9051 §6.3.11
    DELETED_STORAGE = b"DELETED-STORAGE"  # RFC 9208 §4.1.4
    SIZE = b"SIZE"  # RFC 8438 §2
    HIGHESTMODSEQ = b"HIGHESTMODSEQ"  # RFC 7162 §3.1.7
    APPENDLIMIT = b"APPENDLIMIT"  # RFC 7889 §5
    MAILBOXID = b"MAILBOXID"  # RFC 8474 §4.3


class ListSelect(Enum):
    """Selection options of LIST. Source: RFC 5258 §3.1, RFC 6154 §5.2."""

    SUBSCRIBED = b"SUBSCRIBED"
    REMOTE = b"REMOTE"
    RECURSIVEMATCH = b"RECURSIVEMATCH"
    SPECIAL_USE = b"SPECIAL-USE"


class ListReturn(Enum):
    """Return options of LIST without arguments. Source: RFC 5258 §3.2, RFC 6154 §5.2, RFC 8440 §3."""

    MYRIGHTS = b"MYRIGHTS"
    SUBSCRIBED = b"SUBSCRIBED"
    CHILDREN = b"CHILDREN"
    SPECIAL_USE = b"SPECIAL-USE"


class StoreMode(Enum):
    """What STORE does with the flags it names."""

    REPLACE = b""
    ADD = b"+"
    REMOVE = b"-"


class FetchAttribute(Enum):
    """Fetch items without arguments; the value is the word on the wire."""

    ENVELOPE = b"ENVELOPE"
    BODY = b"BODY"
    BODYSTRUCTURE = b"BODYSTRUCTURE"
    FLAGS = b"FLAGS"
    INTERNALDATE = b"INTERNALDATE"
    UID = b"UID"
    RFC822_SIZE = b"RFC822.SIZE"
    MODSEQ = b"MODSEQ"  # RFC 7162 §3.1.4.2
    EMAILID = b"EMAILID"  # RFC 8474 §5.3
    THREADID = b"THREADID"  # RFC 8474 §5.3
    SAVEDATE = b"SAVEDATE"  # RFC 8514 §4.2
    PREVIEW = b"PREVIEW"  # RFC 8970 §3, with LAZY or without


class SectionKind(Enum):
    """What of a message or part is wanted; WHOLE is `BODY[]` or, with a part number, the part's body."""

    WHOLE = b""
    HEADER = b"HEADER"
    HEADER_FIELDS = b"HEADER.FIELDS"
    HEADER_FIELDS_NOT = b"HEADER.FIELDS.NOT"
    TEXT = b"TEXT"
    MIME = b"MIME"


@dataclass(frozen=True, slots=True)
class BodySection:
    """`BODY[…]`, `BODY.PEEK[…]`, and RFC822, RFC822.HEADER, RFC822.TEXT, which differ in `label` alone.

    `label` stands before the data in the response: `BODY[1.MIME]<0>`. `fields` are header field names as the client
    wrote them. `partial` is (first octet, number of octets).
    """

    label: bytes
    kind: SectionKind
    part: tuple[int, ...] = ()
    fields: tuple[bytes, ...] = ()
    partial: tuple[int, int] | None = None
    is_peek: bool = False


@dataclass(frozen=True, slots=True)
class BinarySection:
    """`BINARY[…]`, `BINARY.PEEK[…]` and, with `is_size`, `BINARY.SIZE[…]`: without its transfer encoding.

    `label` and `partial` as in BodySection. Source: RFC 3516 §4.2.
    """

    label: bytes
    part: tuple[int, ...] = ()
    partial: tuple[int, int] | None = None
    is_size: bool = False
    is_peek: bool = False


FetchItem = FetchAttribute | BodySection | BinarySection


class SizeTest(Enum):
    """How RFC822.SIZE is compared: strictly."""

    LARGER = b"LARGER"
    SMALLER = b"SMALLER"


class DateTest(Enum):
    """How a day is compared: before it, on it, on it or later."""

    BEFORE = b"BEFORE"
    ON = b"ON"
    SINCE = b"SINCE"


class TextScope(Enum):
    """Where a text is looked for: the body, or header and body."""

    BODY = b"BODY"
    TEXT = b"TEXT"


@dataclass(frozen=True, slots=True)
class SearchAll:
    """Every message."""


@dataclass(frozen=True, slots=True)
class SearchRecent:
    """Messages with \\Recent."""


@dataclass(frozen=True, slots=True)
class SearchFlag:
    """Messages with (`is_set`) or without a flag or keyword: SEEN, UNSEEN, KEYWORD, …"""

    flag: str
    is_set: bool


@dataclass(frozen=True, slots=True)
class SearchHeader:
    """Messages with a header field `field` (lower case) that contains `text`; an empty text asks for the field."""

    field: str
    text: str


@dataclass(frozen=True, slots=True)
class SearchText:
    """Messages that contain `text`."""

    scope: TextScope
    text: str


@dataclass(frozen=True, slots=True)
class SearchSize:
    """Messages larger or smaller than `size_bytes`."""

    test: SizeTest
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SearchDate:
    """Messages by internal date or, with `is_sent`, by the Date header; `epoch_day` counts from 1970-01-01."""

    test: DateTest
    epoch_day: int
    is_sent: bool


@dataclass(frozen=True, slots=True)
class SearchWithin:
    """Messages whose internal date is the interval or longer ago (`is_older`), or less. Source: RFC 5032 §2."""

    interval_s: int
    is_older: bool


@dataclass(frozen=True, slots=True)
class SearchSaveDate:
    """Messages by the day they were put into the mailbox. Source: RFC 8514 §4.3."""

    test: DateTest
    epoch_day: int


@dataclass(frozen=True, slots=True)
class SearchObjectId:
    """Messages with this EMAILID or, with `is_thread`, THREADID. Source: RFC 8474 §6."""

    object_id: str
    is_thread: bool


@dataclass(frozen=True, slots=True)
class SearchFuzzy:
    """Messages that match about. Source: RFC 6203 §3."""

    key: "SearchKey"


@dataclass(frozen=True, slots=True)
class SearchSet:
    """Messages whose sequence number or, with `is_uid`, UID is in the set."""

    seq_set: SeqSet
    is_uid: bool


@dataclass(frozen=True, slots=True)
class SearchModSeq:
    """Messages whose mod-sequence is `mod_seq` or larger; 0 asks for all. Source: RFC 7162 §3.1.5."""

    mod_seq: int


@dataclass(frozen=True, slots=True)
class SearchNot:
    """Messages that do not match."""

    key: "SearchKey"


@dataclass(frozen=True, slots=True)
class SearchOr:
    """Messages that match any of two or more keys (nested ORs are flattened)."""

    keys: "tuple[SearchKey, ...]"


@dataclass(frozen=True, slots=True)
class SearchAnd:
    """Messages that match all of two or more keys (nested lists are flattened)."""

    keys: "tuple[SearchKey, ...]"


SearchKey = (
    SearchAll
    | SearchRecent
    | SearchFlag
    | SearchHeader
    | SearchText
    | SearchSize
    | SearchDate
    | SearchWithin
    | SearchSaveDate
    | SearchObjectId
    | SearchFuzzy
    | SearchSet
    | SearchModSeq
    | SearchNot
    | SearchOr
    | SearchAnd
)


class Command:
    """What a client asks for. The modules of larger areas (`search`, `thread`, …) bring commands of their own."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Capability(Command):
    """CAPABILITY"""


@dataclass(frozen=True, slots=True)
class Noop(Command):
    """NOOP"""


@dataclass(frozen=True, slots=True)
class Logout(Command):
    """LOGOUT"""


@dataclass(frozen=True, slots=True)
class StartTls(Command):
    """STARTTLS: answer OK, shake hands, then `ImapServer.start_tls_done`."""


@dataclass(frozen=True, slots=True)
class Unauthenticate(Command):
    """UNAUTHENTICATE. Source: RFC 8437 §3."""


@dataclass(frozen=True, slots=True)
class Check(Command):
    """CHECK"""


@dataclass(frozen=True, slots=True)
class Close(Command):
    """CLOSE: expunge silently and leave the mailbox."""


@dataclass(frozen=True, slots=True)
class Unselect(Command):
    """UNSELECT: leave the mailbox. Source: RFC 3691 §2."""


@dataclass(frozen=True, slots=True)
class Expunge(Command):
    """EXPUNGE"""


@dataclass(frozen=True, slots=True)
class Idle(Command):
    """IDLE: answer NO, or `ImapServer.start_idle`. Source: RFC 2177 §3."""


@dataclass(frozen=True, slots=True)
class Compress(Command):
    """COMPRESS: `mechanism` in upper case. Source: RFC 4978 §3."""

    mechanism: str


@dataclass(frozen=True, slots=True)
class Namespace(Command):
    """NAMESPACE. Source: RFC 2342 §5."""


@dataclass(frozen=True, slots=True)
class Login(Command):
    """LOGIN"""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate(Command):
    """AUTHENTICATE: `mechanism` in upper case; `initial` is the decoded initial response. Source: RFC 4959 §3."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Enable(Command):
    """ENABLE: names in upper case, unknown ones included. Source: RFC 5161 §3.1."""

    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Id(Command):
    """ID: pairs in the client's order; empty for NIL. Source: RFC 2971 §3.1."""

    parameters: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Select(Command):
    """SELECT, or EXAMINE with `is_read_only`; `is_condstore`, `resync`: with these parameters (RFC 7162).

    `old_name`: INBOX as the client has written it, where that was another case.
    """

    mailbox: str
    is_read_only: bool
    is_condstore: bool = False
    resync: Resync | None = None
    old_name: str = ""


@dataclass(frozen=True, slots=True)
class Create(Command):
    """CREATE; `special_use` as attributes (`\\Drafts`). Source: RFC 6154 §3."""

    mailbox: str
    special_use: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete(Command):
    """DELETE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename(Command):
    """RENAME"""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Subscribe(Command):
    """SUBSCRIBE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Unsubscribe(Command):
    """UNSUBSCRIBE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class List(Command):
    """LIST; patterns hold `%` and `*`. `status_items` is not empty when RETURN (STATUS …) was asked for.

    `is_extended` tells a single empty pattern of the extended syntax (which matches nothing) from the question for the
    hierarchy delimiter. `metadata`: entries, in lower case, of RETURN (METADATA …).
    Source: RFC 3501 §6.3.8, RFC 5258 §3, RFC 5819 §2, RFC 9590 §3.
    """

    reference: str
    patterns: tuple[str, ...]
    selection: tuple[ListSelect, ...] = ()
    returns: tuple[ListReturn, ...] = ()
    status_items: tuple[StatusItem, ...] = ()
    is_extended: bool = False
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lsub(Command):
    """LSUB"""

    reference: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Status(Command):
    """STATUS"""

    mailbox: str
    items: tuple[StatusItem, ...]


@dataclass(frozen=True, slots=True)
class UidExpunge(Command):
    """UID EXPUNGE. Source: RFC 4315 §2.1."""

    seq_set: SeqSet


@dataclass(frozen=True, slots=True)
class Search(Command):
    """SEARCH; texts are already decoded from the charset. `returns` is None without RETURN (RFC 4466 §2.6.1)."""

    key: SearchKey
    is_uid: bool
    returns: SearchReturn | None = None
    has_charset: bool = False


@dataclass(frozen=True, slots=True)
class UnknownCharset(Command):
    """A SEARCH in a charset that is not read: answer NO with BADCHARSET (RFC 3501 §6.4.4)."""

    charset: str
    is_saved: bool = False  # RETURN (SAVE …) was asked for


@dataclass(frozen=True, slots=True)
class Fetch(Command):
    """FETCH; macros expanded, repeated items dropped, UID among the items of UID FETCH.

    With CHANGEDSINCE, only messages with a larger mod-sequence, and MODSEQ is among the items (RFC 7162 §3.1.4.1).
    With PARTIAL, only some of those that the set names (RFC 9394 §3.3). `with_vanished`: those that were removed since,
    too (RFC 7162 §3.2.6). `is_uid_implied`: the client has not named UID.
    """

    seq_set: SeqSet
    items: tuple[FetchItem, ...]
    is_uid: bool
    changed_since: int | None = None
    partial: PartialRange | None = None
    with_vanished: bool = False
    is_uid_implied: bool = False


@dataclass(frozen=True, slots=True)
class Store(Command):
    """STORE; with UNCHANGEDSINCE, only messages with no larger mod-sequence (RFC 7162 §3.1.3)."""

    seq_set: SeqSet
    mode: StoreMode
    is_silent: bool
    flags: tuple[str, ...]
    is_uid: bool
    unchanged_since: int | None = None


@dataclass(frozen=True, slots=True)
class Copy(Command):
    """COPY"""

    seq_set: SeqSet
    mailbox: str
    is_uid: bool


@dataclass(frozen=True, slots=True)
class Move(Command):
    """MOVE. Source: RFC 6851 §3.1."""

    seq_set: SeqSet
    mailbox: str
    is_uid: bool
