"""Dialogues: what the client sends and the bytes it sees, whole and byte by byte."""

from base64 import b64encode

import pytest
from pop3_driver import MESSAGES, SIGN_IN, SIGNED_IN, connect, maildrop, statuses, ways

from pochta.errors import LocalProtocolError
from pochta.proto.pop3 import events
from pochta.proto.pop3.commands import MAX_AUTH_BYTES, MAX_COMMAND_BYTES, MAX_SIGN_IN_BYTES
from pochta.proto.pop3.server import LISTING_SLICE, MAX_BAD_COMMANDS, RETRIEVE_BATCH

rfc = pytest.mark.rfc
TOTAL = sum(map(len, MESSAGES))


def b64(text: str) -> bytes:
    return b64encode(text.encode())


PLAIN = b64("\0user\0päss word")


def case(name: str, client: bytes, want: bytes, *marks: pytest.MarkDecorator) -> object:
    return pytest.param(client, want, id=name, marks=marks)


CAPA = (
    b"+OK Capability list follows\r\nTOP\r\nUIDL\r\nUSER\r\nSASL PLAIN LOGIN\r\n%bRESP-CODES\r\nAUTH-RESP-CODE\r\n"
    b"PIPELINING\r\nUTF8 USER\r\nEXPIRE NEVER\r\nIMPLEMENTATION Pochta\r\n.\r\n"
)
WANTED = b"-ERR A number is wanted\r\n"
NONE = b"-ERR This command takes no argument\r\n"


@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("client", "want"),
    [
        case("CAPA", b"capa\r\n", CAPA % b"STLS\r\n", rfc(2449, "5")),
        case("QUIT", b"quit\r\nNOOP\r\n", b"+OK Bye\r\n", rfc(1939, "4")),
        case("USER and PASS", SIGN_IN, SIGNED_IN, rfc(1939, "7")),
        case("USER twice", b"USER x\r\n" + SIGN_IN, b"+OK Send PASS\r\n" + SIGNED_IN),
        case("bare LF", SIGN_IN.replace(b"\r", b""), SIGNED_IN),
        case(
            "wrong password",
            b"USER user\r\nPASS x\r\n",
            b"+OK Send PASS\r\n-ERR [AUTH] Wrong password\r\n",
            rfc(3206, "5"),
        ),
        case("in use", b"USER locked\r\nPASS x\r\n", b"+OK Send PASS\r\n-ERR [IN-USE] In use\r\n", rfc(2449, "8.1.2")),
        case("PASS alone", b"PASS x\r\n", b"-ERR Send USER first\r\n", rfc(1939, "7")),
        case(
            "PASS not behind USER",
            b"USER user\r\nUTF8\r\nPASS x\r\n",
            b"+OK Send PASS\r\n+OK UTF8 enabled\r\n-ERR Send USER first\r\n",
        ),
        case("no name", b"USER\r\nUSER \r\n", b"-ERR A name is wanted\r\n" * 2),
        case("no password", b"USER a\r\nPASS \r\n", b"+OK Send PASS\r\n-ERR A password is wanted\r\n"),
        case("not UTF-8", b"USER \xff\r\n", b"-ERR Not valid UTF-8\r\n", rfc(6856, "2.2")),
        case("NUL", b"USER a\x00b\r\n", b"-ERR Control characters are not allowed\r\n"),
        case("before sign-in", b"STAT\r\nNOOP\r\nRETR 1\r\n", b"-ERR Sign in first\r\n" * 3, rfc(1939, "3")),
        case("unknown", b"XYZZY\r\nAPOP a b\r\nLANG\r\n\r\n", b"-ERR Unknown command\r\n" * 4, rfc(1939, "3")),
        case("arguments", b"CAPA x\r\nQUIT x\r\nUTF8 x\r\nSTLS x\r\n", NONE * 4),
        case("blanks behind", b"CAPA  \r\n", CAPA % b"STLS\r\n"),
        case("HTTP", b"POST / HTTP/1.1\r\nUSER user\r\n", b"-ERR This is no web server\r\n"),
        case("AUTH PLAIN at once", b"AUTH PLAIN " + PLAIN + b"\r\n", SIGNED_IN[15:], rfc(1734, "2")),
        case("AUTH PLAIN when asked", b"auth plain\r\n" + PLAIN + b"\r\n", b"+ \r\n" + SIGNED_IN[15:]),
        case(
            "AUTH LOGIN",
            b"AUTH LOGIN\r\n" + b64("user") + b"\r\n" + b64("päss word") + b"\r\n",
            b"+ VXNlcm5hbWU6\r\n+ UGFzc3dvcmQ6\r\n" + SIGNED_IN[15:],
        ),
        case(
            "AUTH LOGIN, name at once",
            b"AUTH LOGIN " + b64("user") + b"\r\n" + b64("päss word") + b"\r\n",
            b"+ UGFzc3dvcmQ6\r\n" + SIGNED_IN[15:],
        ),
        case("AUTH cancelled", b"AUTH PLAIN\r\n*\r\n", b"+ \r\n-ERR Authentication cancelled\r\n", rfc(1734, "2")),
        case("AUTH, empty initial", b"AUTH PLAIN =\r\n", b"-ERR Malformed PLAIN response\r\n"),
        case(
            "AUTH, no base64",
            b"AUTH PLAIN !\r\nAUTH LOGIN\r\n?\r\n",
            b"-ERR Invalid base64\r\n+ VXNlcm5hbWU6\r\n-ERR Invalid base64\r\n",
        ),
        case(
            "AUTH of another", b"AUTH CRAM-MD5\r\nAUTH \xff\r\n", b"-ERR Unsupported authentication mechanism\r\n" * 2
        ),
        case("AUTH of none", b"AUTH\r\nAUTH a b c\r\n", b"-ERR A mechanism is wanted\r\n" * 2),
        case("AUTH fails", b"AUTH PLAIN " + b64("\0user\0x") + b"\r\n", b"-ERR [AUTH] Wrong password\r\n"),
        case(
            "AUTH for another",
            b"AUTH PLAIN " + b64("boss\0user\0päss word") + b"\r\n",
            b"-ERR [AUTH] Wrong password\r\n",
        ),
    ],
)
def test_authorization(client: bytes, want: bytes, is_bytewise: bool) -> None:
    driver = connect()
    assert driver.feed_all(ways(client)[is_bytewise]) == want


@pytest.mark.parametrize("chunk", [0, 1, 7], ids=lambda chunk: f"chunks of {chunk}")
@pytest.mark.parametrize("is_bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize(
    ("client", "want"),
    [
        case("STAT", b"STAT\r\n", b"+OK 5 %d\r\n" % TOTAL, rfc(1939, "5")),
        case("NOOP", b"noop\r\n", b"+OK\r\n", rfc(1939, "5")),
        case(
            "LIST",
            b"LIST\r\n",
            b"+OK 5 messages (%d octets)\r\n%b.\r\n"
            % (TOTAL, b"".join(b"%d %d\r\n" % (n, len(text)) for n, text in enumerate(MESSAGES, 1))),
            rfc(1939, "5"),
        ),
        case("LIST of one", b"LIST 2\r\n", b"+OK 2 %d\r\n" % len(MESSAGES[1])),
        case("LIST of none", b"LIST 6\r\nLIST 0\r\n", b"-ERR No such message\r\n" * 2),
        case(
            "UIDL", b"UIDL\r\n", b"+OK\r\n1 77.10\r\n2 77.20\r\n3 77.30\r\n4 77.40\r\n5 77.50\r\n.\r\n", rfc(1939, "7")
        ),
        case("UIDL of one", b"UIDL 03\r\n", b"+OK 3 77.30\r\n"),
        case("numbers", b"LIST x\r\nRETR -1\r\nDELE 99999999999\r\nTOP 1 x\r\n", WANTED * 4),
        case("one number", b"RETR\r\nRETR 1 2\r\nDELE\r\n", b"-ERR One message number is wanted\r\n" * 3),
        case("TOP of what", b"TOP 1\r\n", b"-ERR A message number and a number of lines are wanted\r\n"),
        case("RETR", b"RETR 1\r\n", b"+OK %d octets\r\n%b.\r\n" % (len(MESSAGES[0]), MESSAGES[0]), rfc(1939, "5")),
        case(
            "dots",
            b"RETR 2\r\n",
            b"+OK %d octets\r\nSubject: two\r\n\r\n..dot\r\n...\r\n..\r\nend\r\n.\r\n" % len(MESSAGES[1]),
            rfc(1939, "3"),
        ),
        case("an empty message", b"RETR 3\r\n", b"+OK 0 octets\r\n.\r\n"),
        case("RETR of none", b"RETR 6\r\n", b"-ERR No such message\r\n", rfc(1939, "5")),
        case("one that is damaged", b"RETR 4\r\nTOP 4 0\r\n", b"-ERR [SYS/PERM] Damaged\r\n" * 2, rfc(3206, "4")),
        case(
            "several",
            b"RETR 3\r\nretr  4\r\nRETR 1\nRETR 9\r\nRETR 3\r\n",
            b"+OK 0 octets\r\n.\r\n-ERR [SYS/PERM] Damaged\r\n+OK %d octets\r\n%b.\r\n-ERR No such message\r\n"
            b"+OK 0 octets\r\n.\r\n" % (len(MESSAGES[0]), MESSAGES[0]),
            rfc(2449, "6.6"),
        ),
        case("TOP 0", b"TOP 1 0\r\n", b"+OK\r\nSubject: one\r\n\r\n.\r\n", rfc(1939, "7")),
        case("TOP 2", b"TOP 1 2\r\n", b"+OK\r\nSubject: one\r\n\r\nfirst\r\nsecond\r\n.\r\n"),
        case("TOP of all", b"TOP 1 100\r\n", b"+OK\r\n%b.\r\n" % MESSAGES[0]),
        case("TOP with dots", b"TOP 2 1\r\n", b"+OK\r\nSubject: two\r\n\r\n..dot\r\n.\r\n"),
        case(
            "DELE",
            b"DELE 2\r\nDELE 2\r\nRETR 2\r\nLIST 2\r\nUIDL 2\r\nTOP 2 1\r\nSTAT\r\n",
            b"+OK Marked as deleted\r\n"
            + b"-ERR This message is marked as deleted\r\n" * 5
            + b"+OK 4 %d\r\n" % (TOTAL - len(MESSAGES[1])),
            rfc(1939, "5"),
        ),
        case(
            "RSET",
            b"DELE 1\r\nDELE 2\r\nUIDL\r\nRSET\r\nDELE 2\r\nLIST 1\r\n",
            b"+OK Marked as deleted\r\n" * 2
            + b"+OK\r\n3 77.30\r\n4 77.40\r\n5 77.50\r\n.\r\n+OK 5 messages (%d octets)\r\n" % TOTAL
            + b"+OK Marked as deleted\r\n+OK 1 %d\r\n" % len(MESSAGES[0]),
            rfc(1939, "5"),
        ),
        case(
            "QUIT",
            b"DELE 1\r\nDELE 3\r\nQUIT\r\nNOOP\r\n",
            b"+OK Marked as deleted\r\n" * 2 + b"+OK Bye, 2 removed, 3 left\r\n",
            rfc(1939, "6"),
        ),
        case("CAPA", b"CAPA\r\n", CAPA % b"", rfc(2449, "5")),
        case(
            "again",
            SIGN_IN + b"STLS\r\nUTF8\r\nAUTH PLAIN\r\n",
            b"-ERR You are signed in already\r\n" * 5,
            rfc(1939, "3"),
        ),
        case("arguments", b"STAT 1\r\nNOOP x\r\nRSET x\r\nQUIT x\r\n", NONE * 4),
    ],
)
def test_transaction(client: bytes, want: bytes, is_bytewise: bool, chunk: int) -> None:
    driver = connect(signs_in=True, chunk=chunk)
    assert driver.feed_all(ways(client)[is_bytewise]) == want


def test_what_quit_removes_and_what_was_retrieved() -> None:
    driver = connect(signs_in=True)
    driver.feed(b"RETR 1\r\nRETR 2\r\nRETR 4\r\nTOP 3 1\r\nDELE 2\r\nDELE 5\r\nQUIT\r\n")
    assert driver.updates == [[20, 50]]
    assert driver.server.maildrop is not None
    assert driver.server.maildrop.retrieved_uids() == [10]
    assert driver.server.is_closed


@pytest.mark.rfc(1939, "6")
def test_quit_that_could_not_remove_says_so_and_ends() -> None:
    driver = connect(signs_in=True, can_update=False)
    assert driver.feed(b"DELE 1\r\nQUIT\r\nNOOP\r\n").endswith(b"-ERR [SYS/TEMP] Disk full\r\n")
    assert driver.server.is_closed


@pytest.mark.rfc(2595, "4")
def test_stls() -> None:
    driver = connect(allows_plaintext_auth=False)
    assert b"\r\nSTLS\r\n" in driver.feed(b"CAPA\r\n")
    assert b"USER\r\nSASL" not in driver.sent
    refused = b"-ERR [AUTH] Start TLS first: others could read the password\r\n"
    assert driver.feed(b"USER user\r\nAUTH PLAIN " + PLAIN + b"\r\n") == refused * 2
    # what comes in the clear behind the command is never obeyed
    assert (
        driver.feed(b"UTF8\r\nSTLS\r\nUSER evil\r\nPASS x\r\n") == b"+OK UTF8 enabled\r\n+OK Begin TLS negotiation\r\n"
    )
    assert not driver.server.is_utf8
    assert driver.feed(b"PASS x\r\nSTLS\r\n") == b"-ERR Send USER first\r\n-ERR TLS is active already\r\n"
    assert driver.feed(b"CAPA\r\n" + SIGN_IN) == CAPA % b"" + SIGNED_IN
    assert [type(event) for event in driver.events] == [events.StartTls, events.Credentials]


def test_stls_refused() -> None:
    assert connect(can_start_tls=False).feed(b"STLS\r\n") == b"-ERR No TLS here\r\n"
    driver = connect(grants_tls=False)
    assert driver.feed(b"STLS\r\nUTF8\r\n") == b"-ERR [SYS/TEMP] Not now\r\n+OK UTF8 enabled\r\n"


def test_start_tls_counts_what_it_drops() -> None:
    server = connect().server
    server.receive_data(b"STLS\r\nUSER evil\r\n")
    assert server.next_event() == events.StartTls()
    server.accept_tls()
    server.receive_data(b"PASS x\r\n")
    assert server.start_tls_done() == len(b"USER evil\r\nPASS x\r\n")
    assert server.next_event() is None


@pytest.mark.rfc(2449, "4")
@pytest.mark.parametrize(
    ("line", "is_known"),
    [
        (b"UIDL 1" + b" " * (MAX_COMMAND_BYTES - 8), True),
        (b"UIDL 1" + b" " * (MAX_COMMAND_BYTES - 7), False),
    ],
)
def test_length_of_a_command(line: bytes, is_known: bool) -> None:
    for chunks in ways(line + b"\r\nNOOP\r\n"):
        sent = connect(signs_in=True).feed_all(chunks)
        assert sent == (b"+OK 1 77.10\r\n" if is_known else b"-ERR Line too long\r\n") + b"+OK\r\n"


@pytest.mark.parametrize(
    ("line", "want"),
    [
        (b"USER " + b"a" * (MAX_SIGN_IN_BYTES - 7), "+OK"),
        (b"USER " + b"a" * (MAX_SIGN_IN_BYTES - 6), "-ERR"),
        (b"CAPA" + b" " * MAX_COMMAND_BYTES, "-ERR"),
        (b"AUTH LOGIN " + b64("a" * 1000), "+"),
        (b"AUTH PLAIN " + b"A" * MAX_AUTH_BYTES, "-ERR"),
    ],
    ids=["USER", "USER too long", "CAPA too long", "AUTH", "AUTH too long"],
)
def test_lengths_before_the_sign_in(line: bytes, want: str) -> None:
    for chunks in ways(line + b"\r\n"):
        assert statuses(connect().feed_all(chunks)) == [want]


def test_a_long_line_ends_an_exchange() -> None:
    driver = connect()
    assert statuses(driver.feed(b"AUTH PLAIN\r\n" + b"A" * 20_000 + b"\r\n" + SIGN_IN)) == ["+", "-ERR", "+OK", "+OK"]


def test_bad_commands_are_bounded() -> None:
    driver = connect()
    driver.feed(b"XYZZY\r\n" * (MAX_BAD_COMMANDS + 5))
    assert driver.sent.count(b"-ERR Unknown command\r\n") == MAX_BAD_COMMANDS - 1
    assert driver.sent.endswith(b"-ERR Too many bad commands\r\n")
    assert driver.server.is_closed


def test_good_commands_forgive_bad_ones_and_a_lawful_no_is_not_bad() -> None:
    driver = connect(signs_in=True)
    driver.feed((b"XYZZY\r\n" * (MAX_BAD_COMMANDS - 1) + b"NOOP\r\n") * 3 + b"RETR 99\r\n" * 50 + b"STAT\r\n")
    assert driver.sent.endswith(b"+OK 5 %d\r\n" % TOTAL)


def test_long_listings_come_in_slices() -> None:
    messages = (b"x\r\n",) * (2 * LISTING_SLICE + 1)
    driver = connect(signs_in=True, messages=messages)
    driver.server.receive_data(b"LIST\r\nUIDL\r\n" * 20)
    largest = 0
    turns = 0
    sent = b""
    while (event := driver.server.next_event()) is not None:
        assert event == events.Turn()
        turns += 1
        largest = max(largest, driver.server.pending_bytes)
        sent += driver.server.data_to_send()
    sent += driver.server.data_to_send()
    assert turns > 5
    assert largest < 128 * 1024
    assert sent.count(b"\r\n") == 40 * (len(messages) + 2)
    assert b"\r\n2001 3\r\n.\r\n+OK\r\n1 77.10\r\n" in sent


def test_many_answers_give_others_a_turn() -> None:
    driver = connect(signs_in=True)
    driver.server.receive_data(b"NOOP\r\n" * 1200)
    asked = 0
    while driver.server.next_event() is not None:
        asked += 1
    assert asked == 2
    assert driver.server.data_to_send() == b"+OK\r\n" * 1200


def test_retrieves_that_wait_come_as_one_question() -> None:
    driver = connect(signs_in=True)
    server = driver.server
    server.receive_data(b"RETR 1\r\nRETR 3\r\nretr 2\r\nDELE 1\r\nRETR 1\r\n")
    assert server.next_event() == events.Retrieve((0, 2, 1))
    for text in (b"a\r\n", b"b", b".c\r\n"):
        assert server.has_question
        server.send_message(text)
    assert server.data_to_send() == b"+OK 3 octets\r\na\r\n.\r\n+OK 1 octets\r\nb\r\n.\r\n+OK 4 octets\r\n..c\r\n.\r\n"
    assert server.next_event() is None
    assert server.data_to_send().startswith(b"+OK Marked as deleted\r\n-ERR This message")


def test_a_batch_is_bounded_in_messages_and_bytes() -> None:
    driver = connect(signs_in=True, messages=(b"x\r\n", b"x" * 200_000))
    server = driver.server
    server.receive_data(b"RETR 1\r\n" * (RETRIEVE_BATCH + 1) + b"RETR 2\r\n" * 2)
    sizes = []
    while (event := server.next_event()) is not None:
        assert isinstance(event, events.Retrieve)
        sizes.append(len(event.indexes))
        for index in event.indexes:
            server.send_message(driver.messages[index])
        server.data_to_send()
    assert sizes == [RETRIEVE_BATCH, 1, 1, 1]


def test_shut_down() -> None:
    driver = connect()
    driver.server.shut_down("Going down", b"SYS/TEMP")
    driver.server.shut_down("again")
    assert driver.server.data_to_send() == b"-ERR [SYS/TEMP] Going down\r\n"
    assert driver.feed(SIGN_IN) == b""
    driver = connect(signs_in=True)
    driver.server.receive_data(b"RETR 1\r\n")
    driver.server.next_event()
    driver.server.begin_message(5)
    driver.server.shut_down("not in the middle of a message")
    assert driver.server.data_to_send() == b"+OK 5 octets\r\n"
    assert driver.server.buffered_bytes == 0


def test_a_password_does_not_print() -> None:
    driver = connect()
    driver.feed(SIGN_IN)
    assert "päss" not in repr(driver.events)


def test_misuse_is_told() -> None:
    server = connect(signs_in=True).server
    wrong = [
        lambda: server.refuse("x"),
        lambda: server.accept_sign_in(maildrop()),
        server.accept_tls,
        server.accept_update,
        server.start_tls_done,
        server.end_message,
        lambda: server.begin_message(1),
        lambda: server.send_message(b""),
        lambda: server.continue_message(b""),
    ]
    for call in wrong:
        with pytest.raises(LocalProtocolError):
            call()
    server.receive_data(b"RETR 1\r\n")
    server.next_event()
    server.begin_message(1)
    for call in (*wrong[:5], *wrong[6:8]):
        with pytest.raises(LocalProtocolError):
            call()
