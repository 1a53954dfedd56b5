"""The uses of mailboxes, and their names on the wire. Source: RFC 6154 §2."""

from typing import Final

# By the role of the mailbox; INBOX has no attribute there
SPECIAL_USE: Final = {
    "drafts": "\\Drafts",
    "sent": "\\Sent",
    "archive": "\\Archive",
    "junk": "\\Junk",
    "trash": "\\Trash",
}
