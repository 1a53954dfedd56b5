"""What is known of one transaction: who was accepted, who was refused, and by which reply.

Decides every recipient's fate; refuses to know in which order commands leave. A recipient is served only when MAIL and
its RCPT were accepted and the answer to the whole message is 2xx; whatever else the server says is no success.
"""

from typing import Final

from pochta.proto.smtp.client.events import Sent
from pochta.proto.smtp.replies import Reply

NO_ANSWER: Final = Reply(451, "4.4.2", "No answer to the message")


class Outgoing:
    """One transaction under way. `data` is the answer to DATA where that is a refusal, else to the message."""

    __slots__ = ("_count", "_data", "_is_lmtp", "_is_refused", "_rcpt", "accepted", "is_bdat", "is_complete", "mail")

    def __init__(self, count: int, *, is_lmtp: bool, is_bdat: bool) -> None:
        self._count = count
        self._is_lmtp = is_lmtp
        self.is_bdat = is_bdat
        self.is_complete = False  # the whole message has left
        self._is_refused = False  # before its end
        self.mail: Reply | None = None
        self._rcpt: list[Reply] = []
        self.accepted = 0
        self._data: list[Reply] = []

    @property
    def has_recipients(self) -> bool:
        """Whether there is anybody to send the message to."""
        return self.accepted > 0 and self.mail is not None and self.mail.is_positive

    @property
    def replies_due(self) -> int:
        """How many replies a complete message gets."""
        # RFC 2033 §4.2: LMTP answers once for each accepted recipient, in their order.
        return self.accepted if self._is_lmtp else 1

    def add_rcpt(self, reply: Reply) -> None:
        """The answer to the next RCPT."""
        self._rcpt.append(reply)
        self.accepted += reply.is_positive

    def add_data(self, reply: Reply) -> None:
        """An answer to the whole message; ignored when a part of it was refused."""
        if not self._is_refused:
            self._data.append(reply)

    def decide(self, refusal: Reply) -> None:
        """The fate of everybody who was accepted and has no answer yet."""
        if not self._is_refused:
            self._is_refused = True
            self._data += [refusal] * (self.replies_due - len(self._data))

    @property
    def is_served(self) -> bool:
        """Whether the server's last word to the message was a yes, which closes the transaction there."""
        return self.has_recipients and bool(self._data) and self._data[-1].is_positive

    def fates(self) -> tuple[Reply | None, ...]:
        """What has been decided over each recipient."""
        if self.mail is not None and not self.mail.is_positive:
            return (self.mail,) * self._count
        data = iter(self._data)
        fates: list[Reply | None] = []
        for reply in self._rcpt:
            if not reply.is_positive:
                fates.append(reply)
            else:
                fates.append(next(data, None) if self._is_lmtp else self._data[-1] if self._data else None)
        return (*fates, *[None] * (self._count - len(fates)))

    def sent(self, otherwise: Reply = NO_ANSWER) -> Sent:
        """The transaction's end; `otherwise` goes to recipients over whom nothing was decided."""
        recipients = tuple([otherwise if fate is None else fate for fate in self.fates()])
        data = self._data[-1] if self._data else None
        return Sent(self.mail or otherwise, recipients, data)
