"""A driver for the POP3 engine without sockets: feeds bytes, answers questions from a list of messages."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from pochta.errors import RemoteProtocolError
from pochta.proto.pop3 import events
from pochta.proto.pop3.events import Event
from pochta.proto.pop3.maildrop import Maildrop
from pochta.proto.pop3.multiline import TopCutter
from pochta.proto.pop3.server import Pop3Server
from pochta.proto.sasl import LOGIN_PASSWORD, LOGIN_USERNAME, LoginExchange, decode_plain

UID_VALIDITY = 77
MESSAGES = (
    b"Subject: one\r\n\r\nfirst\r\nsecond\r\nthird\r\n",
    b"Subject: two\r\n\r\n.dot\r\n..\r\n.\r\nend",
    b"",
    b"Subject: four\r\n\r\n",
    b"Subject: large\r\n\r\n" + b".line\r\n" * 40,
)
GONE = 4  # the number of a message that cannot be read
SIGN_IN = b"USER user\r\nPASS p\xc3\xa4ss word\r\n"
SIGNED_IN = b"+OK Send PASS\r\n+OK 5 messages (%d octets)\r\n" % sum(map(len, MESSAGES))


def maildrop(messages: Iterable[bytes] = MESSAGES) -> Maildrop:
    """A list whose uids are 10, 20, 30 …"""
    sizes = array("I", [len(message) for message in messages])
    return Maildrop(UID_VALIDITY, array("I", range(10, 10 * len(sizes) + 10, 10)), sizes)


@dataclass
class Driver:
    """One connection. User `user` has the password `päss word`; `busy` is refused, `locked` too."""

    server: Pop3Server
    messages: tuple[bytes, ...] = MESSAGES
    chunk: int = 0  # messages go in chunks of so many bytes; 0: whole
    can_update: bool = True
    grants_tls: bool = True
    events: list[Event] = field(default_factory=list)
    updates: list[list[int]] = field(default_factory=list)
    sent: bytes = b""
    _login: LoginExchange | None = None

    def feed(self, data: bytes) -> bytes:
        """What the peer sees in answer to `data`."""
        begin = len(self.sent)
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not None:
            self._on(event)
            self.sent += self.server.data_to_send()
        self.sent += self.server.data_to_send()
        assert self.server.pending_bytes == 0
        return self.sent[begin:]

    def feed_all(self, chunks: Iterable[bytes]) -> bytes:
        """As `feed`, one chunk after the other."""
        return b"".join([self.feed(chunk) for chunk in chunks])

    def _on(self, event: Event) -> None:
        if isinstance(event, events.Turn):
            assert self.server.pending_bytes or not self.server.has_question
            return
        assert self.server.has_question
        assert self.server.next_event() is None
        server = self.server
        match event:
            case events.Credentials(username, password):
                self.events.append(event)
                self._sign_in("", username, password)
            case events.Auth(mechanism, initial):
                self.events.append(event)
                self._login = LoginExchange() if mechanism == "LOGIN" else None
                if initial is None:
                    server.challenge(b"" if self._login is None else LOGIN_USERNAME)
                else:
                    self._respond(initial)
            case events.AuthResponse(data):
                self.events.append(event)
                self._respond(data)
            case events.StartTls():
                self.events.append(event)
                if self.grants_tls:
                    server.accept_tls()
                    self.sent += server.data_to_send()
                    server.receive_data(b"QUIT\r\n")
                    assert server.next_event() is None
                    server.start_tls_done()
                else:
                    server.refuse("Not now", b"SYS/TEMP")
            case events.Retrieve(indexes):
                assert indexes
                for index in indexes:
                    self.events.append(events.Retrieve((index,)))  # so that cuts do not show
                    self._answer(index, len(self.messages[index]), None)
            case events.Top(index, lines):
                self.events.append(event)
                header = self.messages[index].find(b"\r\n\r\n") + 4
                self._answer(index, None, TopCutter(header, lines))
            case events.Update():
                self.events.append(event)
                assert server.maildrop is not None
                self.updates.append(server.maildrop.deleted_uids())
                if self.can_update:
                    server.accept_update()
                else:
                    server.refuse("Disk full", b"SYS/TEMP")

    def _respond(self, data: bytes) -> None:
        """PLAIN and LOGIN as the server reads them."""
        try:
            if self._login is None:
                credentials = decode_plain(data)
            else:
                self._login.respond(data)
                if self._login.credentials is None:
                    self.server.challenge(LOGIN_PASSWORD)
                    return
                credentials = self._login.credentials
        except RemoteProtocolError as error:
            self.server.reject(str(error)[:1].upper() + str(error)[1:])
            return
        self._sign_in(credentials.authzid, credentials.authcid, credentials.password)

    def _sign_in(self, authzid: str, username: str, password: str) -> None:
        if (username, password) == ("user", "päss word") and authzid in ("", "user"):
            self.server.accept_sign_in(maildrop(self.messages))
        elif username == "locked":
            self.server.refuse("In use", b"IN-USE")
        else:
            self.server.refuse("Wrong password", b"AUTH")

    def _answer(self, index: int, size: int | None, cutter: TopCutter | None) -> None:
        server, message = self.server, self.messages[index]
        if index + 1 == GONE:
            server.refuse("Damaged", b"SYS/PERM")
        elif not self.chunk and cutter is None:
            server.send_message(message)
        else:
            server.begin_message(size)
            step = self.chunk or len(message) or 1
            for at in range(0, len(message), step):
                part = message[at : at + step]
                server.continue_message(part if cutter is None else cutter.feed(part))
                if cutter is not None and cutter.is_done:
                    break
            server.end_message()


def connect(
    *,
    is_secure: bool = False,
    can_start_tls: bool = True,
    allows_plaintext_auth: bool = True,
    signs_in: bool = False,
    **settings: object,
) -> Driver:
    """A driver behind the greeting; `settings` are the driver's."""
    server = Pop3Server(
        "mx.example",
        can_start_tls=can_start_tls,
        is_secure=is_secure,
        allows_plaintext_auth=allows_plaintext_auth,
    )
    server.greet()
    assert server.data_to_send() == b"+OK mx.example Pochta ready\r\n"
    driver = Driver(server, **settings)  # type: ignore[arg-type]  # test settings by name
    if signs_in:
        assert driver.feed(SIGN_IN).startswith(b"+OK Send PASS\r\n+OK ")
        driver.sent = b""
        driver.events.clear()
    return driver


def ways(wire: bytes) -> list[list[bytes]]:
    """Whole, and byte by byte."""
    return [[wire], [wire[i : i + 1] for i in range(len(wire))]]


def at_cuts(wire: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Cut at these offsets."""
    edges = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    return [wire[a:b] for a, b in pairwise(edges)]


def statuses(sent: bytes) -> list[str]:
    """The status lines of what was sent, cut to status and response code; bodies of `+OK` lists are passed over."""
    found = []
    for line in sent.split(b"\r\n"):
        for status in (b"+OK", b"-ERR", b"+ "):
            if line.startswith(status):
                code = line.split(b"]")[0].split(b"[")[1] if line.startswith(status + b" [") else b""
                found.append((status.strip() + (b" " + code if code else b"")).decode())
                break
    return found
