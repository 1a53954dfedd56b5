"""Coverage-guided fuzzing of POP3: `pip install atheris`, then `python tests/fuzz/fuzz_pop3.py [FOLDER...] -runs=N`.

`consume` holds one conversation whole and in pieces and compares what the peer sees. It is the same check that the
property tests make (tests/proto/pop3/test_pop3_properties.py).
"""

import sys
from array import array

from pochta.proto.pop3 import events
from pochta.proto.pop3.commands import MAX_AUTH_BYTES
from pochta.proto.pop3.maildrop import Maildrop
from pochta.proto.pop3.multiline import TopCutter
from pochta.proto.pop3.server import Pop3Server

MESSAGES = (b"Subject: a\r\n\r\n.b\r\nc", b"", b"\n.\n.\r\n", b"Subject: d\r\n\r\n" + b"line\r\n" * 100)


def consume(data: bytes, sizes: tuple[int, ...] = (1, 7, 64)) -> bytes:
    """What the peer sees in answer to any octets; an AssertionError where pieces make a difference.

    The first octet says how the connection is set up.
    """
    setting, wire = data[:1] or b"\0", data[1:]
    sent = converse([wire], setting[0])
    if b"Begin TLS" not in sent:  # what is dropped behind STLS depends on the cuts
        for size in sizes:
            assert converse([wire[at : at + size] for at in range(0, len(wire), size)], setting[0]) == sent
    return sent


def converse(chunks: list[bytes], setting: int) -> bytes:
    """One conversation; every sign-in but those of `no…` is granted."""
    server = Pop3Server("x", can_start_tls=bool(setting & 1), is_secure=False, allows_plaintext_auth=not setting & 2)
    server.greet()
    sent = server.data_to_send()
    for chunk in chunks:
        server.receive_data(chunk)
        while (event := server.next_event()) is not None:
            answer(server, event, setting)
            sent += server.data_to_send()
        sent += server.data_to_send()
        assert server.buffered_bytes <= MAX_AUTH_BYTES
    return sent


def answer(server: Pop3Server, event: events.Event, setting: int) -> None:
    """Answer one question."""
    match event:
        case events.Credentials(username=username):
            if username.startswith("no"):
                server.refuse("No", b"AUTH")
            else:
                sizes = array("I", [len(message) for message in MESSAGES])
                server.accept_sign_in(Maildrop(1, array("I", range(1, len(MESSAGES) + 1)), sizes))
        case events.Auth(_, None) | events.AuthResponse(b"again"):
            server.challenge(b"more")
        case events.Auth(_, bytes(data)) | events.AuthResponse(bytes(data)):
            if data.startswith(b"no"):
                server.refuse("No", b"AUTH")
            else:
                server.reject("Malformed")
        case events.StartTls():
            server.accept_tls()
            server.start_tls_done()
        case events.Retrieve(indexes):
            for index in indexes:
                server.send_message(MESSAGES[index])
        case events.Top(index, lines):
            message = MESSAGES[index]
            server.begin_message(None)
            server.continue_message(TopCutter(message.find(b"\r\n\r\n") + 4, lines).feed(message))
            server.end_message()
        case events.Update():
            if setting & 4:
                server.refuse("No", b"SYS/TEMP")
            else:
                server.accept_update()


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, consume)
    atheris.Fuzz()
