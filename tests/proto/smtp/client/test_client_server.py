"""Both engines talking in memory: what the server takes is what the client was given, whatever is offered and cut."""

import re

from client_rig import LIMITS, at_cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from pochta.proto.smtp import events as server_events
from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.engine import SmtpClient
from pochta.proto.smtp.client.envelope import Envelope, Recipient
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer

NO_USER = Reply(550, "5.1.1", "No such user")
FULL = Reply(452, "4.2.2", "Full")
HIDEABLE = ["PIPELINING", "CHUNKING", "SIZE", "8BITMIME"]


class Wire:
    """A client and a server engine, and what of the server's offers the client gets to see."""

    def __init__(self, hidden: set[str], *, is_lmtp: bool, cuts: list[int]) -> None:
        self.client = SmtpClient("me.example", limits=LIMITS, is_lmtp=is_lmtp)
        self.server = SmtpServer(
            "mx.example", limits=SmtpLimits(), can_start_tls=False, is_secure=False, is_lmtp=is_lmtp
        )
        self.server.greet()
        self.hidden = hidden
        self.cut = at_cuts(cuts)
        self.found: list[events.Event] = []
        self.received: list[tuple[list[str], bytes]] = []
        self._recipients: list[str] = []
        self._spool = b""

    def _answer(self, event: server_events.Event) -> None:
        match event:
            case server_events.DataChunk(data):
                self._spool += data
            case server_events.Rcpt(path) if path.local_part.startswith("no"):
                self.server.reply(NO_USER)
            case server_events.Rcpt(path):
                self._recipients.append(str(path))
                self.server.accept()
            case server_events.DataEnd():
                self.received.append((self._recipients, self._spool))
                for name in self._recipients if self.server.is_lmtp else [""]:
                    if name.startswith("full"):
                        self.server.reply(FULL)
                    else:
                        self.server.accept()
                self._recipients, self._spool = [], b""
            case server_events.Reset() | server_events.DataRejected():
                self._recipients, self._spool = [], b""
            case _ if self.server.has_question:
                self.server.accept()

    def talk(self) -> None:
        """Until both have nothing left to say."""
        while True:
            said = self.server.data_to_send()
            for keyword in self.hidden:
                said = re.sub(rb"250([ -])%b\b" % keyword.encode(), rb"250\1X-HIDDEN", said)
            for piece in self.cut(said):
                self.client.receive_data(piece)
                while (event := self.client.next_event()) is not None:
                    self.found.append(event)
            asked = self.client.data_to_send()
            for piece in self.cut(asked):
                self.server.receive_data(piece)
                while (told := self.server.next_event()) is not None:
                    self._answer(told)
            if not said and not asked:
                return


NAMES = st.lists(st.sampled_from(["b", "c", "no", "nobody", "full", '"a b"', "d+x"]), min_size=1, max_size=4)
BODIES = st.lists(
    st.sampled_from([b"Subject: x\r\n", b"\r\n", b".", b"..", b"\n", b"\r", b"\r\n.\r\n", b"x" * 2000, b"QUIT\r\n"]),
    max_size=8,
).map(b"".join)


@settings(max_examples=300)
@given(
    messages=st.lists(st.tuples(NAMES, BODIES, st.none() | st.lists(st.integers(0, 9999), max_size=4)), max_size=3),
    hidden=st.sets(st.sampled_from(HIDEABLE)),
    is_lmtp=st.booleans(),
    cuts=st.lists(st.integers(0, 5000), max_size=5),
)
def test_what_is_sent_is_what_arrives(
    messages: list[tuple[list[str], bytes, list[int] | None]], hidden: set[str], is_lmtp: bool, cuts: list[int]
) -> None:
    wire = Wire(hidden, is_lmtp=is_lmtp, cuts=cuts)
    wire.talk()
    assert isinstance(wire.found.pop(), events.Ready)
    expected = []
    for names, body, places in messages:
        made = Envelope(reverse_path="a@x", recipients=tuple([Recipient(f"{name}@y") for name in names]))
        wire.client.send(made, size_bytes=len(body), body=body if places is None else None)
        wire.talk()
        if places is not None:
            for piece in at_cuts(places)(body):
                if wire.client.wants_body:
                    wire.client.send_body(piece)
                    wire.talk()
            if wire.client.wants_body:
                wire.client.end_body()
                wire.talk()
        (event,) = wire.found
        wire.found.clear()
        assert isinstance(event, events.Sent)
        fates = ["no" if name.startswith("no") else "full" if is_lmtp and name == "full" else "ok" for name in names]
        assert [one.code for one in event.recipients] == [{"no": 550, "full": 452, "ok": 250}[fate] for fate in fates]
        taken = [f"{name}@y" for name in names if not name.startswith("no")]
        if taken:
            text = re.sub(rb"\r\n|\r|\n", b"\r\n", body)
            expected.append((taken, text + b"\r\n" if text and not text.endswith(b"\r\n") else text))
    assert wire.received == expected
    assert wire.client.is_idle
    wire.client.quit()
    wire.talk()
    assert wire.found == [events.Closed()]
    assert wire.server.is_closed
