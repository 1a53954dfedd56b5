"""Thunderbird without a screen: an account as a person adds one, and what they do with it."""

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from interop_messages import MESSAGES
from interop_sides import Account
from mta_rig import wait_until
from thunderbird_rig import Thunderbird, thunderbird

from pochta.testing import Server

pytestmark = pytest.mark.long  # a large package, and a second or two for each start

_USES: Final = {"SentMail": "Sent", "Drafts": "Drafts", "Trash": "Trash", "Archive": "Archive", "Junk": "Junk"}
_OWN_LINES: Final = re.compile(rb"^X-Mozilla-[A-Za-z0-9-]+:.*\n", re.MULTILINE)  # of its own copy
_PARTS: Final = {"mail.server.default.autosync_offline_stores": False, "mail.server.default.offline_download": False}


@contextmanager
def running(
    folder: Path, server: Server, user: str, *names: str, **preferences: object
) -> Iterator[tuple[Thunderbird, Account]]:
    """Thunderbird with an account that shows these messages in its INBOX."""
    account = Account(server, f"thunderbird-{user}@example.org")
    for name in names:
        account.deliver(name)
    with thunderbird(folder, server, account, **preferences) as program:
        for name in names:
            program.ask("awaitMessage", mailbox="INBOX", name=name)
        yield program, account


def arrive(program: Thunderbird, account: Account, name: str) -> None:
    """Deliver while it idles: it pays no heed to an EXISTS among the answers to its FETCH."""
    program.await_idle("INBOX")
    account.deliver(name)
    program.ask("awaitMessage", mailbox="INBOX", name=name)


def flags(account: Account, mailbox: str, name: str) -> frozenset[str]:
    return account.mailboxes()[mailbox][name].flags


@pytest.mark.rfc(6154, "2")
def test_mailboxes_are_recognised_by_their_use(tls_server: Server, tmp_path: Path) -> None:
    account = Account(tls_server, "thunderbird-uses@example.org")
    names = {"Sent": "Отправленные", "Drafts": "Черновики", "Archive": "Архив", "Junk": "Спам", "Trash": "Корзина"}
    for use, name in names.items():
        with account.imap() as imap:
            imap.delete(use)
            imap.unsubscribe(use)
        account.create(name, use=use)
    with thunderbird(tmp_path, tls_server, account) as program:
        shown = dict(program.ask("folders"))
    assert shown == {"INBOX": ["Inbox"], **{names[mailbox]: [use] for use, mailbox in _USES.items()}}


def test_the_extensions_it_takes_up(tls_server: Server, tmp_path: Path) -> None:
    with running(tmp_path, tls_server, "extensions") as (program, account):
        arrive(program, account, "plain")
        sent = "\n".join(program.sent())
    for command in (
        "authenticate PLAIN",
        "COMPRESS DEFLATE",
        "ID (",
        "ENABLE UTF8=ACCEPT",
        "namespace",
        'list (subscribed) "" "*" return (special-use)',
        'myrights "INBOX"',
        'getacl "INBOX"',
        'getquotaroot "INBOX"',
        "IDLE",
    ):
        assert command in sent, f"no {command} in\n{sent}"
    assert " BAD " not in program.said()
    assert " NO " not in program.said()


def test_idle_tells_of_mail_and_flags(tls_server: Server, tmp_path: Path) -> None:
    with running(tmp_path, tls_server, "idle") as (program, account):
        arrive(program, account, "plain")
        arrive(program, account, "dots")
        program.await_idle("INBOX")
        account.flag("INBOX", "dots", "+FLAGS", r"\Seen", r"\Flagged", "$label2")
        program.ask("awaitState", mailbox="INBOX", name="dots", isRead=True, isFlagged=True, tags=["$label2"])
        program.await_idle("INBOX")
        account.delete("INBOX", "plain")
        program.ask("awaitGone", mailbox="INBOX", name="plain")


@pytest.mark.parametrize("name", ["multipart", "eight_bit", "binary", "empty", "big"])
@pytest.mark.parametrize("keeps_copies", [True, False], ids=["copies", "online"])
def test_it_reads_a_message_whole(keeps_copies: bool, name: str, tls_server: Server, tmp_path: Path) -> None:
    preferences = {} if keeps_copies else _PARTS
    with running(tmp_path, tls_server, f"read-{name}-{keeps_copies:d}", name, **preferences) as (program, account):
        content = base64.b64decode(program.ask("read", mailbox="INBOX", name=name))
        assert flags(account, "INBOX", name) == set()
    content = _OWN_LINES.sub(b"", content)
    assert content.endswith(MESSAGES[name]), content[:2000]


def test_flags_and_tags_reach_the_server_and_come_back(tls_server: Server, tmp_path: Path) -> None:
    with running(tmp_path, tls_server, "flags", "plain") as (program, account):
        plain = {"mailbox": "INBOX", "name": "plain"}
        program.ask("markRead", **plain, isRead=True)
        program.ask("markFlagged", **plain, isFlagged=True)
        program.ask("tag", **plain, keyword="$label1")
        program.ask("tag", **plain, keyword="работа".encode("utf-7").decode("ascii").replace("+", "&"))
        expected = {r"\Seen", r"\Flagged", "$label1", "&BEAEMAQxBD4EQgQw-"}
        wait_until(lambda: flags(account, "INBOX", "plain") == expected, lambda: flags(account, "INBOX", "plain"))
        program.ask("markRead", **plain, isRead=False)
        program.ask("untag", **plain, keyword="$label1")
        expected -= {r"\Seen", "$label1"}
        wait_until(lambda: flags(account, "INBOX", "plain") == expected, lambda: flags(account, "INBOX", "plain"))
        program.await_idle("INBOX")
        account.flag("INBOX", "plain", "FLAGS", r"\Seen")
        program.ask("awaitState", **plain, isRead=True, isFlagged=False, tags=[])


def test_it_moves_copies_and_deletes(tls_server: Server, tmp_path: Path) -> None:
    target = "Отчёты/Март & апрель"
    with running(tmp_path, tls_server, "move", "utf8", "dots", "multipart") as (program, account):
        program.ask("create", mailbox="Отчёты")
        program.ask("create", mailbox=target)
        program.ask("move", mailbox="INBOX", name="utf8", target=target, isMove=True)
        program.ask("move", mailbox="INBOX", name="dots", target="Archive", isMove=False)
        program.ask("remove", mailbox="INBOX", name="multipart")
        program.ask("awaitGone", mailbox="INBOX", name="utf8")
        program.ask("awaitGone", mailbox="INBOX", name="multipart")
        program.ask("open", mailbox=target)
        program.ask("awaitMessage", mailbox=target, name="utf8")
        held = {mailbox: set(content) for mailbox, content in account.mailboxes().items() if content}
        assert held == {"INBOX": {"dots"}, target: {"utf8"}, "Archive": {"dots"}, "Trash": {"multipart"}}
        program.ask("open", mailbox="Trash")
        program.ask("awaitMessage", mailbox="Trash", name="multipart")
        program.ask("remove", mailbox="Trash", name="multipart")
        program.ask("compact", mailbox="Trash")
        wait_until(lambda: not account.mailboxes()["Trash"], lambda: account.mailboxes()["Trash"])


def test_mailboxes_it_makes_and_renames(tls_server: Server, tmp_path: Path) -> None:
    with running(tmp_path, tls_server, "mailboxes") as (program, account):
        before = set(account.mailboxes())
        program.ask("create", mailbox="Отчёты")
        program.ask("create", mailbox="Отчёты/Март")
        program.ask("rename", mailbox="Отчёты", to="Планы & цели")
        wait_until(
            lambda: set(account.mailboxes()) - before == {"Планы & цели", "Планы & цели/Март"}, account.mailboxes
        )


def test_the_server_searches(tls_server: Server, tmp_path: Path) -> None:
    names = sorted(["plain", "eight_bit", "utf8", "multipart"])
    with running(tmp_path, tls_server, "search", *names) as (program, _):
        assert program.ask("search", mailbox="INBOX", field="Subject", text="LTIPA") == ["multipart"]
        assert program.ask("search", mailbox="INBOX", field="Sender", text="boris") == names
        found = program.ask("search", mailbox="INBOX", field="Body", text="ПРИЛОЖЕН")
        assert found == ["eight_bit", "multipart", "utf8"]
        assert program.ask("search", mailbox="INBOX", field="Body", text="nowhere") == []
        assert any("uid SEARCH UNDELETED BODY {16}" in one for one in program.sent())


def test_it_sends_and_keeps_a_copy(tls_server: Server, tmp_path: Path) -> None:
    with running(tmp_path, tls_server, "send") as (program, account):
        program.ask("send", to=account.address, subject="Отчёт", text="Привет\r\n")
        [copy] = account.contents("Sent")
        wait_until(lambda: account.contents("INBOX"), lambda: "nothing came")
        [came] = account.contents("INBOX")
        assert came.endswith(copy)
        assert copy.endswith("\r\n\r\nПривет\r\n".encode())
