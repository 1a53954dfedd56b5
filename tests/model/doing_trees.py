"""Steps that change the trees, the rights to them, and quotas."""

from typing import TYPE_CHECKING

from model import steps as s
from model.client import Answer
from model.model import ANYONE
from model.session import Session, Told
from model.world import INBOX

if TYPE_CHECKING:
    from model.walk import Walk


async def create(walk: "Walk", session: Session, step: s.Create) -> None:
    """CREATE"""
    name = walk.place(session, step.name)
    answer = await session.command(f'CREATE "{name}"'.encode())
    _settle_tree(walk, session, answer, walk.world.create(session.reader, name))


async def delete(walk: "Walk", session: Session, step: s.Delete) -> None:
    """DELETE"""
    name = walk.place(session, step.mailbox)
    account, path = walk.world.locate(session.reader, name)
    mailbox = account.mailboxes.get(path)
    answer = await session.command(f'DELETE "{name}"'.encode())
    refusal = walk.world.delete(session.reader, name)
    if session.view is not None and session.view.mailbox is mailbox and not refusal:
        session.leave()  # the server answers OK and leaves the session without a mailbox
    _settle_tree(walk, session, answer, refusal)


async def rename(walk: "Walk", session: Session, step: s.Rename) -> None:
    """RENAME; of INBOX, the messages move to a new mailbox (RFC 3501 §6.3.5)."""
    reader = session.reader
    old, new = walk.place(session, step.mailbox), walk.place(session, step.name)
    answer = await session.command(f'RENAME "{old}" "{new}"'.encode())
    if old != INBOX:
        account, path = walk.world.locate(reader, old)
        mailbox = account.mailboxes.get(path)
        refusal = walk.world.rename(reader, old, new)
        is_selected = any(one.view is not None and one.view.mailbox is mailbox for one in walk.sessions)
        walk.world.met["a selected mailbox is renamed"] += is_selected and not refusal
        _settle_tree(walk, session, answer, refusal)
        return
    account, path = walk.world.locate(reader, new)
    refusal = walk.world.refuse_making(reader, account, path)
    refusal = refusal or ("CANNOT" if account.number != reader else walk.world.create(reader, new))
    if not refusal:
        inbox, target = account.mailboxes[INBOX], account.mailboxes[path]
        for uid, one in inbox.messages.items():
            target.add_moved(one, inbox.flags(uid, reader), reader)
        inbox.remove(list(inbox.messages))
    _settle_tree(walk, session, answer, refusal)


async def set_acl(walk: "Walk", session: Session, step: s.SetAcl) -> None:
    """SETACL and DELETEACL"""
    name = walk.place(session, step.mailbox)
    whom, identifier = ANYONE, "anyone"
    if step.whom != s.ACCOUNTS:
        account = walk.account_after(session.reader, step.whom)
        whom, identifier = account.number, account.address
    identifier = f"-{identifier}" if step.is_denied else identifier
    letters = frozenset(step.letters)
    if step.mode == "0":
        mode, letters = "", frozenset()
        command = f'DELETEACL "{name}" "{identifier}"'
    else:
        mode = step.mode
        command = f'SETACL "{name}" "{identifier}" "{mode}{step.letters}"'
    answer = await session.command(command.encode())
    refusal = walk.world.change_rights(session.reader, name, whom, mode, letters, is_denied=step.is_denied)
    _settle_tree(walk, session, answer, refusal)


async def set_quota(walk: "Walk", session: Session, step: s.SetQuota) -> None:
    """The quota is set, by who runs the server."""
    account = walk.world.accounts[session.reader]
    account.messages_max = 0 if step.room < 0 else max(1, len(account.held()) + step.room)
    await walk.workers.set_quota(step.session % s.WORKERS, account.address, account.messages_max)
    walk.touch(account.mailboxes[INBOX])


def _settle_tree(walk: "Walk", session: Session, answer: Answer, refusal: str) -> None:
    walk.is_void = bool(refusal)
    walk.touch_all()
    session.settle(answer, refusal, Told.SOME if refusal else Told.ALL)
