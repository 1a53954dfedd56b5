"""User oracle: nobody learns from an answer, nor from the work behind it, which accounts exist."""

import pytest
from attack_peer import Peer
from test_brute_force import WAYS

from pochta.accounts import passwords
from pochta.log import Secret
from pochta.store import directory
from pochta.store.store import Store
from pochta.testing import Server


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "user", ["nobody@example.org", "nobody@example.net", "x" * 200 + "@example.org", "catch@example.org"]
)
def test_answers_are_alike(pochta: Server, way: str, user: str) -> None:
    pochta.add_alias("catch@example.org", ["anna@example.org"])
    attempt = WAYS[way]
    assert attempt(pochta, user, "wrong") == attempt(pochta, "anna@example.org", "wrong")


@pytest.mark.parametrize(
    "user", ["anna@example.org", "nobody@example.org", "nobody@example.net", "disabled@example.org"]
)
def test_work_is_alike(pochta: Server, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pochta.add_account("disabled@example.org", "secret")

    async def disable(store: Store) -> None:
        await store.write(0, directory.set_enabled, "example.org", "disabled", False)

    pochta.run(disable)
    checked: list[str] = []
    verify = passwords.verify_password

    def counted(credential: str, password: Secret) -> bool:
        checked.append(credential.split("$")[3])  # the costs of the hash
        return verify(credential, password)

    monkeypatch.setattr(passwords, "verify_password", counted)
    assert WAYS["IMAP"](pochta, user, "wrong").startswith(b"a NO")
    assert checked == ["m=8,t=1,p=1"]


def test_pop3_user_tells_nothing(pochta: Server) -> None:
    answers = set()
    for user in ("anna@example.org", "nobody@example.org", "nobody"):
        with Peer(pochta, pochta.pop3_port) as peer:
            peer.until(rb"\+OK .*")
            peer.send(b"USER %b\r\n" % user.encode())
            answers.add(peer.until(rb".*"))
    assert len(answers) == 1


@pytest.mark.rfc(5321, "7.3")
@pytest.mark.parametrize("command", ["VRFY", "EXPN"])
def test_smtp_verifies_nobody(pochta: Server, command: str) -> None:
    answers = set()
    for user in ("anna@example.org", "nobody@example.org", "anna", "postmaster"):
        with Peer(pochta, pochta.smtp_port) as peer:
            peer.until(rb"220 .*")
            peer.send(f"{command} {user}\r\n".encode())
            answers.add(peer.until(rb"\d{3} .*"))
    assert len(answers) == 1


def test_guessing_recipients_ends_the_connection(pochta: Server) -> None:
    with Peer(pochta, pochta.smtp_port) as peer:
        peer.send(b"EHLO x\r\nMAIL FROM:<>\r\n" + b"".join(b"RCPT TO:<u%d@example.org>\r\n" % n for n in range(500)))
        said = peer.rest()
    assert said.count(b"\r\n550 ") < 100
    assert b"\r\n421 " in said
