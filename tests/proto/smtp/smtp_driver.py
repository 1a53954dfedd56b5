"""A driver for the engine without sockets: feeds bytes, answers questions, keeps events and replies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from pochta.errors import RemoteProtocolError
from pochta.proto import sasl
from pochta.proto.smtp import events, replies
from pochta.proto.smtp.events import Event
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer

LIMITS = SmtpLimits(max_message_bytes=1000, max_recipients=3, max_errors=20)
NO_USER = Reply(550, "5.1.1", "No such user")
DENIED = Reply(535, "5.7.8", "Bad credentials")
HELLO = b"EHLO client.example\r\n"


_ENDS_MESSAGE = (
    events.DataEnd,
    events.DataRejected,
    events.Reset,
    events.Hello,
    events.StartTls,
    events.Closed,
)
Decision = Reply | bytes | None
"""A reply, a challenge, or None for the usual yes."""


def decide_plain(message: bytes) -> Decision:
    """What a server says to a message of PLAIN."""
    try:
        credentials = sasl.decode_plain(message)
    except RemoteProtocolError:
        return replies.AUTH_BAD_RESPONSE
    return None if (credentials.authcid, credentials.password) == ("user", "pässword") else DENIED


def decide(event: Event) -> Decision:
    """The policy of these tests, told by the local part: `no…` is refused, `later…` deferred. None accepts.

    PLAIN takes one message, LOGIN two; others go as SCRAM does: first message, challenge, `final`, signature, empty
    response.
    """
    match event:
        case events.Rcpt(address) | events.Mail(reverse_path=address) if address is not None:
            if address.local_part.startswith("no"):
                return NO_USER
            if address.local_part.startswith("later"):
                return Reply(451, "4.3.0", "Come again")
        case events.Auth("LOGIN", None):
            return sasl.LOGIN_USERNAME
        case events.Auth("LOGIN") | events.AuthResponse(b"user"):
            return sasl.LOGIN_PASSWORD
        case events.Auth("PLAIN", bytes(message)):
            return decide_plain(message)
        case events.AuthResponse(message) if b"\0" in message:
            return decide_plain(message)
        case events.AuthResponse(data) if data == "pässword".encode():
            return None
        case events.Auth(_, initial):
            return b"" if initial is None else b"r=nonce"
        case events.AuthResponse(b"first"):
            return b"r=nonce"
        case events.AuthResponse(b"final"):
            return b"v=signature"
        case events.AuthResponse(data) if data:
            return DENIED
    return None


@dataclass
class Driver:
    """One connection. Chunks of messages are joined in `messages` so that cuts do not show in `events`."""

    server: SmtpServer
    decide: Callable[[Event], Decision] = decide
    events: list[Event] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    sent: bytes = b""
    _spool: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """What the peer sees in answer to `data`."""
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not None:
            self._on(event)
        sent = self.server.data_to_send()
        self.sent += sent
        return sent

    def feed_all(self, chunks: Iterable[bytes]) -> bytes:
        return b"".join([self.feed(chunk) for chunk in chunks])

    def _on(self, event: Event) -> None:
        if isinstance(event, events.DataChunk):
            assert event.data
            self._spool += event.data
            return
        if isinstance(event, events.Turn):
            return
        self.events.append(event)
        if isinstance(event, events.DataEnd):
            assert event.size == len(self._spool)
            self.messages.append(self._spool)
        if isinstance(event, _ENDS_MESSAGE):
            self._spool = b""
        answer: Decision = None
        while self.server.has_question:
            assert self.server.next_event() is None
            answer = self.decide(event)
            if answer is None:
                self.server.accept()
            elif isinstance(answer, bytes):
                self.server.challenge(answer)
            else:
                self.server.reply(answer)
        if isinstance(event, events.StartTls) and answer is None:
            self.sent += self.server.data_to_send()
            self.server.start_tls_done()


def connect(
    *, is_lmtp: bool = False, is_secure: bool = False, limits: SmtpLimits = LIMITS, **settings: object
) -> Driver:
    """A driver behind the greeting; `settings` go to the engine."""
    server = SmtpServer(
        "mx.example",
        limits=limits,
        is_lmtp=is_lmtp,
        is_secure=is_secure,
        **{"can_start_tls": True, **settings},  # type: ignore[arg-type]  # test settings by name
    )
    server.greet()
    assert server.data_to_send().startswith(b"220 mx.example ")
    return Driver(server)


def ways(wire: bytes, *, halves: int = 0) -> list[list[bytes]]:
    """The wire whole, byte by byte, and in two at each of the first `halves` places."""
    return [
        [wire],
        [wire[at : at + 1] for at in range(len(wire))],
        *([wire[:at], wire[at:]] for at in range(1, min(len(wire), halves + 1))),
    ]


def at_cuts(wire: bytes, cuts: list[int]) -> list[bytes]:
    """The wire cut at these places."""
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    return [wire[start:stop] for start, stop in pairwise(edges)]


def codes(replies: bytes) -> list[str]:
    """Code and enhanced status of each reply, `250 2.1.0`; the last line of a multi-line one."""
    found = []
    for line in replies.decode("ascii").splitlines():
        code, _, status = line[:3], line[3], line[4:].partition(" ")[0]
        if line[3] == " ":
            found.append(f"{code} {status}" if status.replace(".", "").isdecimal() else code)
    return found
