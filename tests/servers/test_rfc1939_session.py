"""What RFC 1939 requires of a session, over a socket. The list: tests/requirements/rfc1939.toml."""

import msgspec
import pytest
from imap_raw import fill
from pop3_raw import Pop3

from pochta.config import Limits
from pochta.testing import Server

rfc = pytest.mark.rfc

SINGLE = ("STAT", "LIST 1", "UIDL 1", "NOOP", "DELE 1", "RSET")
MULTI = ("LIST", "UIDL", "RETR 1", "TOP 1 0")


@rfc(1939, "3")
@pytest.mark.parametrize("is_lower", [False, True], ids=["upper", "lower"])
def test_status_indicators_are_in_upper_case(pochta: Server, is_lower: bool) -> None:
    fill(pochta, 1)
    with Pop3(pochta, login=False) as pop3:
        assert pop3.greeting.startswith(b"+OK ")
        for command, status in (
            ("NOOP", b"-ERR "),
            ("USER anna@example.org", b"+OK"),
            ("PASS wrong", b"-ERR "),
            ("USER anna@example.org", b"+OK"),
            ("PASS secret", b"+OK"),
            ("STAT", b"+OK"),
            ("LIST 2", b"-ERR "),
            ("DELE 1", b"+OK"),
            ("DELE 1", b"-ERR "),
            ("RSET", b"+OK"),
            ("XYZZY", b"-ERR "),
            ("QUIT", b"+OK"),
        ):
            word, space, arguments = command.partition(" ")
            assert pop3.do((word.lower() if is_lower else word) + space + arguments).startswith(status), command


@rfc(1939, "5")
@rfc(1939, "7")
def test_every_command_of_a_minimal_server_is_there(pochta: Server) -> None:
    fill(pochta, 1)
    with Pop3(pochta) as pop3:
        for command in MULTI:
            assert pop3.multi(command)
        for command in SINGLE:
            pop3.ok(command)
        assert pop3.quit().startswith(b"+OK")


@rfc(1939, "3")
@pytest.mark.parametrize(
    "command",
    [
        "XYZZY",
        "",
        " NOOP",
        "NO",
        "NOOPS",
        "APOP anna@example.org c4c9334bac560ecc979e58001b3e22fb",
        "RETR",
        "RETR x",
        "RETR -1",
        "RETR 0",
        "RETR 2",
        "RETR 99999999999999999999",
        "RETR 1 2",
        "LIST x",
        "LIST 2",
        "DELE",
        "DELE 2",
        "TOP 1",
        "TOP 1 -1",
        "TOP 1 x",
        "TOP 2 1",
        "UIDL x",
        "STAT 1",
        "NOOP x",
        "RSET x",
        "QUIT x",
    ],
)
def test_what_is_no_command_gets_err(pochta: Server, command: str) -> None:
    fill(pochta, 1)
    with Pop3(pochta) as pop3:
        pop3.err(command)
        pop3.ok("NOOP")


@rfc(1939, "3")
@rfc(1939, "4")
def test_commands_of_another_state_get_err(pochta: Server) -> None:
    fill(pochta, 1)
    with Pop3(pochta, login=False) as pop3:
        for command in (*SINGLE, *MULTI, "PASS secret"):
            pop3.err(command)
        pop3.ok("USER anna@example.org")
        pop3.ok("PASS secret")
        for command in ("USER anna@example.org", "PASS secret", "AUTH PLAIN", "STLS"):
            pop3.err(command)
        assert pop3.ok("STAT").startswith(b"1 ")


@rfc(1939, "7")
def test_a_greeting_offers_no_apop(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        assert b"<" not in pop3.greeting
        pop3.err("APOP anna@example.org c4c9334bac560ecc979e58001b3e22fb")


@rfc(1939, "3")
def test_a_signed_in_client_has_10_minutes_at_least() -> None:
    assert Limits().idle_timeout_s >= 10 * 60
    with pytest.raises(msgspec.ValidationError, match="idle_timeout_s"):
        msgspec.convert({"idle_timeout_s": 599}, Limits)
