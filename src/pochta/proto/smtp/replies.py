"""Replies: their values, their bytes, and those the engine gives of its own accord.

A text may hold several lines, separated by LF: the reply is then a multi-line one. Whatever else a text holds, the
bytes are well-formed: control characters and non-ASCII characters never reach the wire.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple

# RFC 5321 §4.5.3.1.5: a reply line has at most 512 octets. "250-", "5.123.123 " and CRLF take up to 16 of them.
MAX_TEXT_LINE_CHARS: Final = 512 - 16

_UNPRINTABLE = re.compile(r"[^\t\n -~]")


class Reply(NamedTuple):
    """An answer: three-digit code, enhanced status (`""` for none), text without line ends but LF between lines."""

    code: int
    enhanced: str
    text: str

    @property
    def is_positive(self) -> bool:
        """Whether the command did what it says (2xx)."""
        return self.code < 300


@lru_cache(maxsize=512)  # replies with a peer's text pass through; the usual ones stay
def encode_reply(reply: Reply) -> bytes:
    """The reply's bytes, CRLF included. Lines longer than `MAX_TEXT_LINE_CHARS` go on in the next line."""
    # RFC 2034 §4: every line of a multi-line reply carries the same enhanced status code.
    prefix = f"{reply.enhanced} " if reply.enhanced else ""
    # RFC 5321 §4.2: reply text is printable ASCII. RFC 6531 §3.7.4.1 allows UTF-8 to some clients; never used here.
    text = _UNPRINTABLE.sub("?", reply.text)
    lines: list[str] = []
    for line in text.split("\n"):
        cuts = range(0, max(1, len(line)), MAX_TEXT_LINE_CHARS)
        lines += [line[cut : cut + MAX_TEXT_LINE_CHARS] for cut in cuts]
    last = len(lines) - 1
    return "".join(
        f"{reply.code}{' ' if number == last else '-'}{prefix}{line}\r\n" for number, line in enumerate(lines)
    ).encode("ascii")


BYE: Final = Reply(221, "2.0.0", "Bye")
OK: Final = Reply(250, "2.0.0", "OK")
CHUNK_OK: Final = Reply(250, "2.0.0", "Chunk received")
RESET: Final = Reply(250, "2.0.0", "Reset")
SENDER_OK: Final = Reply(250, "2.1.0", "Sender OK")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Recipient OK")
MESSAGE_OK: Final = Reply(250, "2.0.0", "Message accepted")
# RFC 5321 §3.5.3: 252 says neither yes nor no about the user.
# DEVIATES RFC 5321 §3.5.1, §3.5.2: no user is recognised and no mailbox named, so that nobody collects addresses.
CANNOT_VERIFY: Final = Reply(252, "2.5.0", "Cannot verify the user, but will take mail and attempt delivery")
START_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
START_MAIL: Final = Reply(354, "", "Start mail input; end with <CRLF>.<CRLF>")
AUTH_OK: Final = Reply(235, "2.7.0", "Authentication successful")

TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "Too many errors; closing")
TOO_MANY_TRANSACTIONS: Final = Reply(421, "4.5.3", "Too many messages in one connection; come again for the rest")
NOT_SMTP: Final = Reply(421, "4.7.0", "This is a mail server; closing")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Line too long")
# RFC 4954 §4: 5.5.6 is the status of an over-long line in an authentication exchange.
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Authentication exchange line is too long")
BARE_NEWLINE: Final = Reply(500, "5.5.2", "Bare CR or LF; lines end with CRLF")
BAD_CHARACTERS: Final = Reply(501, "5.5.2", "Command is not clean UTF-8 text")
UNKNOWN_COMMAND: Final = Reply(500, "5.5.1", "Command not recognized")
WRONG_HELLO: Final = Reply(500, "5.5.1", "Not the greeting command of this protocol")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Command not implemented")
NO_PARAMETERS: Final = Reply(501, "5.5.4", "This command takes no parameters")
HELLO_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: EHLO hostname")
MAIL_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
VRFY_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: VRFY address")
BDAT_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
AUTH_SYNTAX: Final = Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial response]")
PARAMETER_SYNTAX: Final = Reply(501, "5.5.4", "Bad parameter syntax")
PARAMETER_UNKNOWN: Final = Reply(555, "5.5.4", "Parameter not recognized")
HOLD_TOO_LONG: Final = Reply(501, "5.5.4", "Messages are not held that long here")
DELIVER_BY_TOO_SOON: Final = Reply(501, "5.5.4", "Delivery in that time cannot be promised")
# RFC 6531 §3.5: 550 for MAIL, 553 for RCPT, both X.6.7.
SENDER_NOT_ASCII: Final = Reply(550, "5.6.7", "Non-ASCII sender needs the SMTPUTF8 parameter")
RECIPIENT_NOT_ASCII: Final = Reply(553, "5.6.7", "Non-ASCII recipient needs the SMTPUTF8 parameter of MAIL")
HELLO_FIRST: Final = Reply(503, "5.5.1", "Say hello first")
MAIL_FIRST: Final = Reply(503, "5.5.1", "MAIL first")
RCPT_FIRST: Final = Reply(503, "5.5.1", "RCPT first")
NO_VALID_RECIPIENTS: Final = Reply(554, "5.5.1", "No valid recipients")
NESTED_MAIL: Final = Reply(503, "5.5.1", "A mail transaction is open already")
NOT_IN_TRANSACTION: Final = Reply(503, "5.5.1", "Not during a mail transaction")
# RFC 3030 §2: 503 for DATA behind BDAT, and for BDAT behind one that failed.
CHUNKS_BEGUN: Final = Reply(503, "5.5.1", "The message is coming by BDAT")
CHUNKS_FAILED: Final = Reply(503, "5.5.1", "A chunk of this message was refused; RSET or MAIL")
# RFC 3030 §3: 503 for DATA where the message is binary.
BINARY_BY_BDAT: Final = Reply(503, "5.5.1", "A BINARYMIME message comes by BDAT")
SERVICE_REFUSED: Final = Reply(503, "5.5.1", "No service here; only QUIT")
# RFC 5321 §4.5.3.1.10: the code is 452, so that the client comes again with the rest.
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Too many recipients")
# RFC 1870 §6.1: 552 for more than the fixed maximum.
MESSAGE_TOO_LARGE: Final = Reply(552, "5.3.4", "Message size exceeds fixed maximum message size")
BARE_NEWLINE_IN_DATA: Final = Reply(550, "5.5.2", "Bare CR or LF in message; lines end with CRLF")

TLS_ACTIVE: Final = Reply(503, "5.5.1", "TLS is active already")
# RFC 4954 §6: 530 5.7.0 and 538 5.7.11.
AUTH_REQUIRED: Final = Reply(530, "5.7.0", "Authentication required")
ENCRYPTION_REQUIRED: Final = Reply(538, "5.7.11", "Encryption required for requested authentication mechanism")
AUTH_DONE: Final = Reply(503, "5.5.1", "Already authenticated")
AUTH_UNKNOWN: Final = Reply(504, "5.5.4", "Unrecognized authentication type")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_BAD_RESPONSE: Final = Reply(501, "5.5.2", "Cannot decode response")
