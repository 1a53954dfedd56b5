"""Dialogues with the client engine: what the server says is fed in pieces, what leaves is compared byte by byte."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from pochta.proto.smtp.client import events
from pochta.proto.smtp.client.engine import SmtpClient
from pochta.proto.smtp.client.envelope import Envelope, Recipient
from pochta.proto.smtp.client.events import Event
from pochta.proto.smtp.client.limits import ClientLimits

LIMITS = ClientLimits()
Cut = Callable[[bytes], Iterable[bytes]]
Step = str | Callable[[SmtpClient], None]


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def at_cuts(cuts: Sequence[int]) -> Cut:
    """Cut everything that is fed at these places."""

    def cut(data: bytes) -> list[bytes]:
        edges = sorted({0, len(data), *(one % (len(data) + 1) for one in cuts)})
        return [data[start:stop] for start, stop in pairwise(edges)]

    return cut


WAYS = [whole, bytewise, at_cuts([1, 3, 7, 20, 33])]
WAY_IDS = ["whole", "bytewise", "cuts"]


def envelope(*names: str, sender: str = "a@from.example", **more: object) -> Envelope:
    recipients = tuple([Recipient(f"{name}@to.example") for name in names or ("b",)])
    return Envelope(reverse_path=sender, recipients=recipients, **more)  # type: ignore[arg-type]  # by name


def feed(client: SmtpClient, data: bytes, cut: Cut = whole) -> list[Event]:
    """The events that `data` brings."""
    found = []
    for piece in cut(data):
        client.receive_data(piece)
        while (event := client.next_event()) is not None:
            found.append(event)
    return found


def play(client: SmtpClient, script: Iterable[Step], cut: Cut = whole) -> list[Event]:
    """Play `S:` and `C:` lines (`\\n` stands for CRLF inside of them) and calls; nothing else may leave.

    `S:` lines that follow each other are fed as one piece; `EOF` ends the server.
    """
    found: list[Event] = []
    out = b""
    pending = b""

    def flush() -> None:
        nonlocal pending, out
        if pending:
            found.extend(feed(client, pending, cut))
            pending = b""
        while (event := client.next_event()) is not None:
            found.append(event)
        out += client.data_to_send()

    for step in script:
        if isinstance(step, str) and step.startswith("S:"):
            if not pending:
                assert out == b"", f"before {step!r}"
            pending += step[2:].replace("\n", "\r\n").encode("utf-8", "surrogateescape") + b"\r\n"
            continue
        flush()
        if callable(step):
            assert out == b""
            step(client)
            out += client.data_to_send()
        elif step == "EOF":
            client.receive_eof()
        else:
            expected = step[2:].replace("\n", "\r\n").encode() + b"\r\n"
            assert out[: len(expected)] == expected
            out = out[len(expected) :]
    flush()
    assert out == b""
    return found


def ready(*keywords: str, is_lmtp: bool = False, **settings: object) -> SmtpClient:
    """A client behind the hello of a server with these extensions."""
    client = SmtpClient("me.example", limits=LIMITS, is_lmtp=is_lmtp, **settings)  # type: ignore[arg-type]
    lines = ["mx.example", *keywords]
    said = "".join([f"250{'-' if number < len(lines) - 1 else ' '}{line}\r\n" for number, line in enumerate(lines)])
    found = feed(client, b"220 mx.example\r\n")
    assert found == []
    assert client.data_to_send() == (b"LHLO me.example\r\n" if is_lmtp else b"EHLO me.example\r\n")
    (event,) = feed(client, said.encode())
    assert isinstance(event, events.Ready)
    return client


def sending(
    *names: str, body: bytes | None = b"Subject: x\r\n\r\ntext\r\n", **more: object
) -> Callable[[SmtpClient], None]:
    """The call that begins a transaction."""
    made = envelope(*names, **more)  # type: ignore[arg-type]  # by name
    return lambda client: client.send(made, size_bytes=None if body is None else len(body), body=body)


def codes(event: Event) -> tuple[int, list[int], int | None]:
    """MAIL's code, each recipient's, the data's."""
    assert isinstance(event, events.Sent)
    data = None if event.data is None else event.data.code
    return event.mail.code, [one.code for one in event.recipients], data
