"""Coverage-guided fuzzing of SMTP: `pip install atheris`, then `python tests/fuzz/fuzz_smtp.py [FOLDER...] -runs=N`.

`consume` holds one conversation whole, byte by byte and in pieces, and compares what the driver and the peer see. Its
first octets choose the settings of the connection.
"""

import sys

from pochta.proto.smtp import events
from pochta.proto.smtp.data import BareNewline
from pochta.proto.smtp.events import Event
from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply
from pochta.proto.smtp.server import SmtpServer

_LIMITS = SmtpLimits(
    max_message_bytes=200, max_recipients=3, max_command_line_bytes=512, max_auth_line_bytes=1024, max_errors=50
)
_NO = Reply(550, "5.7.1", "No")

Outcome = tuple[bytes, list[Event], list[bytes]]
"""What the peer heard, what the driver was told (without chunks), and the messages."""


def consume(data: bytes) -> Outcome:
    """The outcome of a conversation; an AssertionError where it depends on how the octets were cut."""
    options, step, wire = data[:1] or b"\0", (data[1:2] or b"\7")[0] % 32 + 1, data[2:]
    whole = _hold([wire], options[0])
    for size in (1, step):
        pieces = [wire[at : at + size] for at in range(0, len(wire), size)]
        assert _hold(pieces, options[0]) == whole
    for message in whole[2]:
        assert len(message) <= _LIMITS.max_message_bytes
        assert message.count(b"\r\n") == message.count(b"\r") == message.count(b"\n")
    return whole


def _hold(pieces: list[bytes], options: int) -> Outcome:
    server = SmtpServer(
        "mx.example",
        limits=_LIMITS,
        can_start_tls=bool(options & 1),
        is_secure=False,
        is_lmtp=bool(options & 2),
        auth_mechanisms=("PLAIN", "LOGIN", "SCRAM-SHA-256") if options & 4 else (),
        requires_auth=options & 24 == 24,
        bare_newline=BareNewline.NORMALISE if options & 32 else BareNewline.REFUSE,
    )
    server.greet()
    seen: list[Event] = []
    messages: list[bytes] = []
    spool = b""
    for piece in pieces:
        server.receive_data(piece)
        while (event := server.next_event()) is not None:
            if isinstance(event, events.DataChunk):
                spool += event.data
                continue
            if not isinstance(event, events.Turn):
                seen.append(event)
            if isinstance(event, events.DataEnd):
                messages.append(spool)
            if not isinstance(event, events.Turn):
                spool = b""
            while server.has_question:
                _answer(server, event)
            if isinstance(event, events.StartTls):
                # the rest is dropped or would come behind the handshake, as it was cut
                return server.data_to_send(), seen, messages
    return server.data_to_send(), seen, messages


def _answer(server: SmtpServer, event: Event) -> None:
    match event:
        case events.Auth("SCRAM-SHA-256") | events.Auth(_, None) | events.AuthResponse(b"again"):
            server.challenge(b"more")
        case events.Rcpt(path) if path.key[0].startswith("no"):
            server.reply(_NO)
        case events.Mail(path) if path is not None:
            assert path.key
            assert str(path)
            server.accept()
        case events.Hello("no"):
            server.reply(_NO)
        case events.Auth("PLAIN", bytes(message)) if not message.endswith(b"secret"):
            server.reply(_NO)
        case _:
            server.accept()


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, consume)
    atheris.Fuzz()
