"""What CAPA says is true: one test for each line of it, over real sockets."""

import poplib
import re
import ssl
from base64 import b64encode

import pytest
from imap_raw import Imap, fill, message
from pop3_raw import USER, Pop3

from pochta.testing import Server

rfc = pytest.mark.rfc


def signed_in(server: Server) -> poplib.POP3:
    pop3 = poplib.POP3(server.host, server.pop3_port, timeout=20)
    pop3.user(USER)
    pop3.pass_("secret")
    return pop3


@rfc(1939, "7")
def test_top_gives_header_and_lines(pochta: Server) -> None:
    large = b"Subject: large\r\n\r\n" + b".line\r\n" * 50_000
    with Imap(pochta) as imap:
        imap.append(message(1, b"one\r\ntwo\r\nthree\r\n"))
        imap.append(large)
        imap.append(b"Subject: only a header\r\n")
        imap.append(b"Subject: bare\n\none\ntwo\nthree\n")
    pop3 = signed_in(pochta)
    assert pop3.top(1, 2)[1] == [b"From: <a1@example.net>", b"Subject: test 1", b"", b"one", b"two"]
    assert pop3.top(1, 0)[1] == [b"From: <a1@example.net>", b"Subject: test 1", b""]
    assert pop3.top(2, 3)[1] == [b"Subject: large", b"", *[b".line"] * 3]
    assert len(pop3.top(2, 10**9)[1]) == 50_002
    assert pop3.top(3, 5)[1] == [b"Subject: only a header"]
    assert pop3.top(4, 1)[1] == [b"Subject: bare", b"", b"one", b""]
    assert pop3.stat() == (4, len(message(1, b"one\r\ntwo\r\nthree\r\n")) + len(large) + 24 + 29)
    pop3.quit()


@rfc(1939, "7")
def test_uidl_is_stable_over_sessions_and_never_used_again(pochta: Server) -> None:
    fill(pochta, 3)
    pop3 = signed_in(pochta)
    first = [line.split()[1] for line in pop3.uidl()[1]]
    assert all(re.fullmatch(rb"[\x21-\x7e]{1,70}", one) for one in first)
    assert len(set(first)) == 3
    pop3.dele(2)
    pop3.dele(3)
    pop3.quit()
    fill(pochta, 1)
    pop3 = signed_in(pochta)
    again = [line.split()[1] for line in pop3.uidl()[1]]
    assert again[0] == first[0]
    assert again[1] not in first
    assert pop3.uidl(2) == b"+OK 2 " + again[1]
    pop3.quit()


@rfc(2449, "6.2")
def test_user_signs_in_with_pass(pochta: Server) -> None:
    pochta.add_account("борис@example.org", "пароль и пробел")
    with Pop3(pochta, user="борис@example.org", password="пароль и пробел") as pop3:
        assert pop3.drop == b"0 messages (0 octets)"
    with Pop3(pochta, login=False) as pop3:
        # RFC 1939 §13: the same answer for every name
        assert pop3.ok("USER nobody@example.org") == b"Send PASS"
        assert pop3.err("PASS secret").startswith(b"[AUTH] ")


@rfc(1734, "2")
def test_sasl_plain_signs_in(pochta: Server) -> None:
    credentials = b64encode(f"\0{USER}\0secret".encode())
    with Pop3(pochta, login=False) as pop3:
        assert pop3.do("AUTH PLAIN") == b"+ "
        assert pop3.do("*").startswith(b"-ERR ")
        assert pop3.do("AUTH PLAIN") == b"+ "
        assert pop3.ok(credentials).startswith(b"0 messages")
    with Pop3(pochta, login=False) as pop3:
        other = b64encode(f"boss@example.org\0{USER}\0secret".encode())
        assert pop3.err(b"AUTH PLAIN " + other).startswith(b"[AUTH] ")
        assert pop3.ok(b"AUTH PLAIN " + credentials).startswith(b"0 messages")


def test_sasl_login_signs_in(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        assert pop3.do("AUTH LOGIN") == b"+ VXNlcm5hbWU6"
        assert pop3.do(b64encode(USER.encode())) == b"+ UGFzc3dvcmQ6"
        assert pop3.ok(b64encode(b"secret")).startswith(b"0 messages")


@rfc(2595, "4")
def test_stls_protects_what_follows() -> None:
    with Server(with_tls=True) as server:
        server.add_account(USER, "secret")
        fill(server, 1)
        context = ssl.create_default_context(cafile=server.certificate)
        pop3 = poplib.POP3("localhost", server.pop3_port, timeout=20)
        assert "STLS" in pop3.capa()
        pop3.stls(context)
        assert "STLS" not in pop3.capa()
        pop3.user(USER)
        pop3.pass_("secret")
        assert pop3.retr(1)[2] == len(message(1))
        pop3.quit()
        secure = poplib.POP3_SSL("localhost", server.pop3s_port, context=context, timeout=20)
        assert "STLS" not in secure.capa()
        secure.user(USER)
        secure.pass_("secret")
        assert secure.stat() == (1, len(message(1)))
        secure.quit()


@rfc(2449, "8")
def test_resp_codes_are_the_only_brackets(pochta: Server) -> None:
    with Pop3(pochta) as pop3:
        for command in ("LIST 9", "XYZZY", "TOP [x] 1", "USER [x]", "UTF8"):
            assert not pop3.err(command).startswith(b"[")


@rfc(3206, "5")
def test_auth_resp_code_tells_wrong_credentials_from_trouble(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        pop3.ok(f"USER {USER}")
        assert pop3.err("PASS wrong").startswith(b"[AUTH] ")
        assert not pop3.err("PASS secret").startswith(b"[")


@rfc(2449, "6.6")
def test_pipelining_answers_in_order_and_in_few_writes(pochta: Server) -> None:
    fill(pochta, 200)
    with Pop3(pochta, login=False) as pop3:
        retrieves = b"".join(b"RETR %d\r\n" % number for number in range(1, 201))
        pop3.send(
            f"USER {USER}\r\nPASS secret\r\nSTAT\r\n".encode() + retrieves + b"DELE 1\r\nLIST 1\r\nNOOP\r\nQUIT\r\n"
        )
        assert pop3.line() == b"+OK Send PASS"
        assert pop3.line().startswith(b"+OK 200 messages")
        assert pop3.line().startswith(b"+OK 200 ")
        for number in range(1, 201):
            assert pop3.line() == b"+OK %d octets" % len(message(number))
            assert pop3.body() == message(number)
        assert [pop3.line()[:4].rstrip() for _ in range(4)] == [b"+OK", b"-ERR", b"+OK", b"+OK"]
        assert pop3.is_closed()


@rfc(6856, "2.1")
def test_utf8_user_is_taken_before_the_sign_in(pochta: Server) -> None:
    text = "Subject: Привет\r\n\r\nтекст\r\n".encode()
    with Imap(pochta) as imap:
        imap.append(text)
    pochta.add_account("вера@example.org", "ß")
    with Pop3(pochta, login=False) as pop3:
        pop3.ok("UTF8")
        pop3.ok(f"USER {USER}")
        pop3.ok("PASS secret")
        assert pop3.multi("RETR 1") == text
    with Pop3(pochta) as pop3:  # the message is not kept from those who never said UTF8
        assert pop3.multi("RETR 1") == text
        assert pop3.err("UTF8") == b"You are signed in already"
    with Pop3(pochta, user="вера@example.org", password="ß"):
        pass
    with Pop3(pochta, login=False) as pop3:
        assert pop3.err(b"USER \xff") == b"Not valid UTF-8"


@rfc(2449, "6.7")
def test_expire_never_deletes_what_was_retrieved(pochta: Server) -> None:
    fill(pochta, 2)
    for _ in range(2):
        pop3 = signed_in(pochta)
        assert pop3.stat()[0] == 2
        pop3.retr(1)
        pop3.quit()


@rfc(2449, "6.9")
def test_implementation_pochta_is_one_token(pochta: Server) -> None:
    with Pop3(pochta, login=False) as pop3:
        before = pop3.multi("CAPA")
        assert b"\r\nIMPLEMENTATION Pochta\r\n" in before
        pop3.ok(f"USER {USER}")
        pop3.ok("PASS secret")
        # RFC 2449 §5: what is announced before the sign-in is announced behind it
        assert pop3.multi("CAPA") == before
