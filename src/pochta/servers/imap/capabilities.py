"""What CAPABILITY says, and when."""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

CAPABILITIES: Final = (
    "IMAP4rev1",
    "ACL",
    "BINARY",
    "CATENATE",
    "CHILDREN",
    "CONDSTORE",
    "CREATE-SPECIAL-USE",
    "CONTEXT=SEARCH",
    "CONTEXT=SORT",
    "ENABLE",
    "ESEARCH",
    "ESORT",
    "I18NLEVEL=1",
    "ID",
    "IDLE",
    "IMAP4rev2",
    "INPROGRESS",
    "LIST-EXTENDED",
    "LIST-METADATA",
    "LIST-MYRIGHTS",
    "LIST-STATUS",
    "LITERAL+",
    "METADATA",
    "MOVE",
    "MULTIAPPEND",
    "MULTISEARCH",
    "NAMESPACE",
    "NOTIFY",
    "OBJECTID",
    "PARTIAL",
    "PREVIEW",
    "QRESYNC",
    "QUOTA",
    "QUOTA=RES-MAILBOX",
    "QUOTA=RES-MESSAGE",
    "QUOTA=RES-STORAGE",
    "QUOTASET",
    "REPLACE",
    "RIGHTS=texk",
    "SASL-IR",
    "SAVEDATE",
    "SEARCH=FUZZY",
    "SEARCHRES",
    "SORT",
    "SORT=DISPLAY",
    "SPECIAL-USE",
    "STATUS=SIZE",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "THREAD=REFS",
    "UIDONLY",
    "UIDPLUS",
    "UNSELECT",
    "UTF8=ACCEPT",
    "WITHIN",
)
_ALWAYS: Final = " ".join(CAPABILITIES)


def shown(connection: "ImapConnection") -> bytes:
    """The capabilities in force, as after `CAPABILITY `."""
    # RFC 7889 §2: the same limit for every mailbox
    words = [_ALWAYS, f"APPENDLIMIT={connection.context.message_size_bytes}"]
    if connection.context.message_limit:
        words.append(f"MESSAGELIMIT={connection.context.message_limit}")  # RFC 9738 §3
    if not connection.account_id:
        if connection.starttls_offered and not connection.is_secure:
            words.append("STARTTLS")
        # RFC 3501 §6.2.3: LOGINDISABLED where a password would be read by others
        mechanisms = connection.context.sign_ins.mechanisms(connection.channel)
        words += [f"AUTH={one}" for one in mechanisms] or ["LOGINDISABLED"]
    elif connection.context.has_unauthenticate:
        words.append("UNAUTHENTICATE")  # RFC 8437 §3: may be shown after the sign-in alone
    if connection.account_id and connection.deflate is None:
        words.append("COMPRESS=DEFLATE")  # RFC 4978 §5: a command of the authenticated state
    return " ".join(words).encode("ascii")
