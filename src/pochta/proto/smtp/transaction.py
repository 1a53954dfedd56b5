"""One connection's mail transaction: whether it is open, its recipients, and what may come next in it.

Decides the order of MAIL, RCPT, DATA and BDAT; refuses to know who said what. RFC 5321 §4.1.4: a command out of order
is answered 503 and changes nothing.

A transaction by BDAT that had a chunk refused is over (`is_open` is false), but keeps its message until MAIL or RSET:
the chunks still on their way are dropped by it, and a message cannot lose its middle.
"""

from typing import Final

from pochta.proto.smtp import replies
from pochta.proto.smtp.bdat import ChunkedMessage
from pochta.proto.smtp.commands import Chunk, CommandError
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import Body, DataFault, Mail
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply

FAULT_REPLIES: Final = {
    DataFault.TOO_LARGE: replies.MESSAGE_TOO_LARGE,
    DataFault.BARE_NEWLINE: replies.BARE_NEWLINE_IN_DATA,
}


class Transaction:
    """From MAIL to the end of the message, and again. `rcpt_accepted` counts the recipients that were taken.

    `chunked` is the message that comes by BDAT, None before its first chunk.
    """

    __slots__ = (
        "_bare_newline",
        "_is_lmtp",
        "_limits",
        "_mail_count",
        "_rcpt_tried",
        "chunked",
        "is_binary",
        "is_open",
        "is_smtputf8",
        "rcpt_accepted",
    )

    def __init__(self, limits: SmtpLimits, *, bare_newline: BareNewline, is_lmtp: bool) -> None:
        self._limits = limits
        self._bare_newline = bare_newline
        self._is_lmtp = is_lmtp
        self._mail_count = 0  # of the connection
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self.is_open = self.is_smtputf8 = self.is_binary = False
        self._rcpt_tried = self.rcpt_accepted = 0
        self.chunked: ChunkedMessage | None = None

    def open(self, mail: Mail) -> None:
        """MAIL was accepted."""
        self.close()
        self.is_open = True
        self.is_smtputf8 = mail.is_smtputf8
        self.is_binary = mail.body is Body.BINARY

    def name_sender(self) -> bool:
        """Count a MAIL, or return False when this connection had all that it may have."""
        most = self._limits.max_transactions
        # RFC 9422 §4.1: every MAIL counts, whatever became of it.
        if most is not None and self._mail_count >= most:
            return False
        self._mail_count += 1
        return True

    def check_rcpt(self) -> None:
        """Raise the reply to a RCPT that may not come now."""
        # RFC 5321 §3.3: RCPT without MAIL is answered 503, whatever its syntax.
        if not self.is_open:
            raise CommandError(replies.MAIL_FIRST)
        if self.chunked is not None:
            raise CommandError(replies.CHUNKS_BEGUN)

    def name_rcpt(self) -> None:
        """Count a recipient that was named, or raise the reply to one that may not come now."""
        self.check_rcpt()
        self._rcpt_tried += 1

    def check_data(self) -> None:
        """Raise the reply to a DATA that may not come now."""
        refusal = self._refuses_message()
        # RFC 3030 §3: what is binary has no lines, so that no line could end it.
        if refusal is None and self.is_binary:
            refusal = replies.BINARY_BY_BDAT
        # RFC 3030 §2: DATA and BDAT are not used in one transaction.
        if refusal is None and self.chunked is not None:
            refusal = replies.CHUNKS_BEGUN
        if refusal is not None:
            raise CommandError(refusal)

    @property
    def replies_due(self) -> int:
        """How many replies a complete message gets."""
        # RFC 2033 §4.2: LMTP answers once for each accepted recipient, in their order.
        return self.rcpt_accepted if self._is_lmtp else 1

    def begin_chunk(self, chunk: Chunk) -> tuple[ChunkedMessage, Reply | None]:
        """The message that `chunk` belongs to, and why it cannot be taken, None when it can."""
        message = self.chunked
        if message is None:
            message = self.chunked = ChunkedMessage(
                self._limits.max_message_bytes, None if self.is_binary else self._bare_newline
            )
        message.begin_chunk(chunk.size, is_last=chunk.is_last)
        if message.is_failed:
            return message, replies.CHUNKS_FAILED
        refusal = self._refuses_message() or chunk.refusal
        if refusal is None and message.is_too_large:
            refusal = replies.MESSAGE_TOO_LARGE
            message.fault = DataFault.TOO_LARGE if message.is_started else None
        return message, refusal

    def fail_chunk(self, message: ChunkedMessage) -> int:
        """A chunk was refused: end the transaction. Gives the number of replies."""
        # RFC 2033 §4.3: in LMTP the last chunk is answered once for each accepted recipient, any other once.
        count = self.replies_due if message.is_last else 1
        message.fail()
        self.is_open = False
        return max(1, count)

    def _refuses_message(self) -> Reply | None:
        """What a message is refused with before its first byte, None when it can come."""
        if not self.is_open:
            return replies.MAIL_FIRST
        # RFC 2920 §3.2: DATA succeeds only when there is a valid recipient. RFC 2033 §4.2: 503 otherwise in LMTP.
        if not self.rcpt_accepted:
            is_sequence = self._is_lmtp or not self._rcpt_tried
            return replies.RCPT_FIRST if is_sequence else replies.NO_VALID_RECIPIENTS
        return None
