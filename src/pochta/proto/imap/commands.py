"""The commands of a client as plain values: what was asked, decoded; not whether it is allowed or makes sense.

Names of mailboxes are text (modified UTF-7 undone, every case of INBOX is `INBOX`), flags are text with the system
flags in their RFC spelling, sequence sets keep `*`. Secrets do not appear in `repr`.

Source: RFC 3501 §6 and §9, and the RFC named at each command of an extension.
"""

from dataclasses import dataclass, field
from enum import Enum

from pochta.proto.imap.seqset import SeqSet


class StatusItem(Enum):
    """What STATUS can be asked for; the value is the word on the wire."""

    MESSAGES = b"MESSAGES"
    RECENT = b"RECENT"
    UIDNEXT = b"UIDNEXT"
    UIDVALIDITY = b"UIDVALIDITY"
    UNSEEN = b"UNSEEN"
    DELETED = b"DELETED"  # RFC 9051 §6.3.11
    SIZE = b"SIZE"  # RFC 8438 §2
    HIGHESTMODSEQ = b"HIGHESTMODSEQ"  # RFC 7162 §3.1.7


class ListSelect(Enum):
    """Selection options of LIST. Source: RFC 5258 §3.1, RFC 6154 §5.2."""

    SUBSCRIBED = b"SUBSCRIBED"
    REMOTE = b"REMOTE"
    RECURSIVEMATCH = b"RECURSIVEMATCH"
    SPECIAL_USE = b"SPECIAL-USE"


class ListReturn(Enum):
    """Return options of LIST except STATUS. Source: RFC 5258 §3.2, RFC 6154 §5.2."""

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


FetchItem = FetchAttribute | BodySection


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
    | SearchSet
    | SearchModSeq
    | SearchNot
    | SearchOr
    | SearchAnd
)


@dataclass(frozen=True, slots=True)
class Capability:
    """CAPABILITY"""


@dataclass(frozen=True, slots=True)
class Noop:
    """NOOP"""


@dataclass(frozen=True, slots=True)
class Logout:
    """LOGOUT"""


@dataclass(frozen=True, slots=True)
class StartTls:
    """STARTTLS: answer OK, shake hands, then `ImapServer.start_tls_done`."""


@dataclass(frozen=True, slots=True)
class Check:
    """CHECK"""


@dataclass(frozen=True, slots=True)
class Close:
    """CLOSE: expunge silently and leave the mailbox."""


@dataclass(frozen=True, slots=True)
class Unselect:
    """UNSELECT: leave the mailbox. Source: RFC 3691 §2."""


@dataclass(frozen=True, slots=True)
class Expunge:
    """EXPUNGE"""


@dataclass(frozen=True, slots=True)
class Idle:
    """IDLE: answer NO, or `ImapServer.start_idle`. Source: RFC 2177 §3."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """NAMESPACE. Source: RFC 2342 §5."""


@dataclass(frozen=True, slots=True)
class Login:
    """LOGIN"""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticate:
    """AUTHENTICATE: `mechanism` in upper case; `initial` is the decoded initial response. Source: RFC 4959 §3."""

    mechanism: str
    initial: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Enable:
    """ENABLE: names in upper case, unknown ones included. Source: RFC 5161 §3.1."""

    capabilities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Id:
    """ID: pairs in the client's order; empty for NIL. Source: RFC 2971 §3.1."""

    parameters: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT, or EXAMINE with `is_read_only`; `is_condstore`: with that parameter (RFC 7162 §3.1.8)."""

    mailbox: str
    is_read_only: bool
    is_condstore: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """CREATE; `special_use` as attributes (`\\Drafts`). Source: RFC 6154 §3."""

    mailbox: str
    special_use: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    """RENAME"""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE"""

    mailbox: str


@dataclass(frozen=True, slots=True)
class List:
    """LIST; patterns hold `%` and `*`. `status_items` is not empty when RETURN (STATUS …) was asked for.

    `is_extended` tells a single empty pattern of the extended syntax (which matches nothing) from the question for the
    hierarchy delimiter. Source: RFC 3501 §6.3.8, RFC 5258 §3, RFC 5819 §2.
    """

    reference: str
    patterns: tuple[str, ...]
    selection: tuple[ListSelect, ...] = ()
    returns: tuple[ListReturn, ...] = ()
    status_items: tuple[StatusItem, ...] = ()
    is_extended: bool = False


@dataclass(frozen=True, slots=True)
class Lsub:
    """LSUB"""

    reference: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Status:
    """STATUS"""

    mailbox: str
    items: tuple[StatusItem, ...]


@dataclass(frozen=True, slots=True)
class UidExpunge:
    """UID EXPUNGE. Source: RFC 4315 §2.1."""

    seq_set: SeqSet


@dataclass(frozen=True, slots=True)
class Search:
    """SEARCH; texts are already decoded from the charset."""

    key: SearchKey
    is_uid: bool


@dataclass(frozen=True, slots=True)
class UnknownCharset:
    """A SEARCH in a charset that is not read: answer NO with BADCHARSET (RFC 3501 §6.4.4)."""

    charset: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """FETCH; macros expanded, repeated items dropped, UID among the items of UID FETCH.

    With CHANGEDSINCE, only messages with a larger mod-sequence, and MODSEQ is among the items (RFC 7162 §3.1.4.1).
    """

    seq_set: SeqSet
    items: tuple[FetchItem, ...]
    is_uid: bool
    changed_since: int | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """STORE; with UNCHANGEDSINCE, only messages with no larger mod-sequence (RFC 7162 §3.1.3)."""

    seq_set: SeqSet
    mode: StoreMode
    is_silent: bool
    flags: tuple[str, ...]
    is_uid: bool
    unchanged_since: int | None = None


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY"""

    seq_set: SeqSet
    mailbox: str
    is_uid: bool


@dataclass(frozen=True, slots=True)
class Move:
    """MOVE. Source: RFC 6851 §3.1."""

    seq_set: SeqSet
    mailbox: str
    is_uid: bool


Command = (
    Capability
    | Noop
    | Logout
    | StartTls
    | Check
    | Close
    | Unselect
    | Expunge
    | Idle
    | Namespace
    | Login
    | Authenticate
    | Enable
    | Id
    | Select
    | Create
    | Delete
    | Rename
    | Subscribe
    | Unsubscribe
    | List
    | Lsub
    | Status
    | UidExpunge
    | Search
    | UnknownCharset
    | Fetch
    | Store
    | Copy
    | Move
)
