"""POP3: marks that meet, dots at a cut, bounds of a batch, what a sign-in says. Found by `.ci/mutation`."""

from array import array
from base64 import b64encode

import pytest
from pop3_driver import SIGN_IN, connect

from pochta.proto.pop3 import events
from pochta.proto.pop3.maildrop import Maildrop
from pochta.proto.pop3.multiline import DotStuffer, stuffed_whole
from pochta.proto.pop3.server import MAX_BAD_COMMANDS, RETRIEVE_BATCH_BYTES

PLAIN = b64encode("\0user\0päss word".encode())


@pytest.mark.rfc(1939, "5")
@pytest.mark.parametrize("is_retrieved_first", [True, False])
def test_rset_keeps_what_was_retrieved(is_retrieved_first: bool) -> None:
    maildrop = Maildrop(5, array("I", [10, 20]), array("I", [1, 2]))
    if is_retrieved_first:
        maildrop.retrieved(1)
    maildrop.delete(1)
    if not is_retrieved_first:
        maildrop.retrieved(1)
    assert maildrop.deleted_uids() == [20]
    assert maildrop.is_deleted(1)
    assert maildrop.retrieved_uids() == []
    maildrop.reset()
    assert not maildrop.is_deleted(1)
    assert maildrop.deleted_uids() == []
    assert maildrop.retrieved_uids() == [20]


@pytest.mark.rfc(1939, "3")
@pytest.mark.parametrize("message", [b"a\r\n.\r\n..b\r\n", b".\r\n.", b"a\n.\nb", b"", b"a\r", b"\n", b"a.\r\n."])
def test_dots_at_every_cut(message: bytes) -> None:
    stuffed = message.replace(b"\n.", b"\n..")
    stuffed = b"." + stuffed if message.startswith(b".") else stuffed
    want = stuffed + (b".\r\n" if not message or message.endswith(b"\r\n") else b"\r\n.\r\n")
    assert stuffed_whole(message) == want
    for at in range(len(message) + 1):
        stuffer = DotStuffer()
        assert stuffer.feed(message[:at]) + stuffer.feed(message[at:]) + stuffer.finish() == want, at


@pytest.mark.parametrize(
    ("sizes", "batches"),
    [
        pytest.param((RETRIEVE_BATCH_BYTES - 2, 1, 1), [3], id="as many bytes as may be"),
        pytest.param((RETRIEVE_BATCH_BYTES - 2, 1, 2), [2, 1], id="one byte more"),
        pytest.param((RETRIEVE_BATCH_BYTES + 1, 1), [1, 1], id="a large one comes alone"),
    ],
)
def test_bytes_of_a_batch(sizes: tuple[int, ...], batches: list[int]) -> None:
    driver = connect(signs_in=True, messages=tuple(b"x" * size for size in sizes))
    driver.server.receive_data(b"".join(b"RETR %d\r\n" % (number + 1) for number in range(len(sizes))))
    found = []
    while (event := driver.server.next_event()) is not None:
        assert isinstance(event, events.Retrieve)
        found.append(len(event.indexes))
        for index in event.indexes:
            driver.server.send_message(driver.messages[index])
        driver.server.data_to_send()
    assert found == batches


PASSWORD = "päss word".encode()


@pytest.mark.parametrize(
    ("client", "want"),
    [
        pytest.param(SIGN_IN, [events.Credentials("user", "päss word")], id="USER"),
        pytest.param(b"AUTH plain " + PLAIN + b"\r\n", [events.Auth("PLAIN", b"\0user\0" + PASSWORD)], id="PLAIN"),
        pytest.param(
            b"AUTH LOGIN dXNlcg==\r\n" + b64encode(PASSWORD) + b"\r\n",
            [events.Auth("LOGIN", b"user"), events.AuthResponse(PASSWORD)],
            id="LOGIN",
        ),
    ],
)
def test_secrets_come_and_do_not_show(client: bytes, want: list[events.Event]) -> None:
    driver = connect()
    assert b"messages" in driver.feed(client)
    assert driver.events == want
    assert "word" not in repr([one for one in driver.events if not isinstance(one, events.Credentials)])
    assert "päss" not in repr(driver.events)


@pytest.mark.rfc(6856, "2.1")
def test_utf8_is_remembered_until_tls() -> None:
    driver = connect()
    assert not driver.server.is_utf8
    driver.feed(b"UTF8\r\n")
    assert driver.server.is_utf8
    driver.feed(b"STLS\r\n")
    assert not driver.server.is_utf8


def test_asking_for_what_is_gone_is_no_bad_command() -> None:
    driver = connect(signs_in=True)
    driver.feed(b"DELE 1\r\n")
    sent = driver.feed(b"RETR 1\r\nRETR 99\r\n" * MAX_BAD_COMMANDS)
    assert sent.count(b"-ERR This message is marked as deleted\r\n") == MAX_BAD_COMMANDS
    assert sent.count(b"-ERR No such message\r\n") == MAX_BAD_COMMANDS
    assert not driver.server.is_closed
