"""GETQUOTA, GETQUOTAROOT, SETQUOTA, and what STATUS and COPY say of quotas. Source: RFC 9208 §4."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pochta.accounts.quota import MAX_QUOTA_BYTES
from pochta.errors import Refusal, RefusalCode
from pochta.proto.imap import encode, quota
from pochta.proto.imap.commands import StatusItem
from pochta.servers.pace import Pace
from pochta.store import quotas
from pochta.store.access import Opened
from pochta.store.quotas import Root
from pochta.store.rights import Right

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

STORAGE_UNIT: Final = 1024  # RFC 9208 §5.1
_RESOURCES: Final = ("STORAGE", "MESSAGE", "MAILBOX")
_COUNTED_A_TURN: Final = 20_000  # messages looked at for DELETED-STORAGE at once: 2 ms (INV-12)


def _units(size_bytes: int) -> int:
    return -(-size_bytes // STORAGE_UNIT)


def _root_name(root: Root) -> bytes:
    return encode.astring(root.name.encode("utf-8"))


def _quota_response(root: Root) -> bytes:
    """QUOTA with what is limited (RFC 9208 §4.2.1); the number of mailboxes always is (§3.2: inherent limits)."""
    shown: list[tuple[bytes, int, int]] = []
    if root.quota_bytes:
        shown.append((b"STORAGE", _units(root.used_bytes), _units(root.quota_bytes)))
    if root.quota_messages:
        shown.append((b"MESSAGE", root.messages, root.quota_messages))
    shown.append((b"MAILBOX", root.mailboxes, root.quota_mailboxes))
    return b"* QUOTA %b (%b)\r\n" % (_root_name(root), b" ".join([b"%b %d %d" % one for one in shown]))


async def get_quota(connection: "ImapConnection", tag: bytes, command: quota.GetQuota) -> None:
    """GETQUOTA"""
    reader_id = connection.account_id
    root = await connection.context.store.read(
        reader_id, quotas.named, reader_id, command.root, connection.is_administrator
    )
    connection.send(_quota_response(root))
    connection.send(encode.tagged(tag, b"OK", "GETQUOTA completed"))


async def get_quota_root(connection: "ImapConnection", tag: bytes, command: quota.GetQuotaRoot) -> None:
    """GETQUOTAROOT: each mailbox has one root, that of its owner."""
    reader_id = connection.account_id
    root = await connection.context.store.read(reader_id, quotas.of_mailbox, reader_id, command.mailbox)
    name = encode.mailbox_name(command.mailbox, utf8_accept=connection.modes.utf8)
    connection.send(b"* QUOTAROOT %b %b\r\n" % (name, _root_name(root)))
    connection.send(_quota_response(root))
    connection.send(encode.tagged(tag, b"OK", "GETQUOTAROOT completed"))


async def set_quota(connection: "ImapConnection", tag: bytes, command: quota.SetQuota) -> None:
    """SETQUOTA, for the accounts that the setting `administrators` lists."""
    if not connection.is_administrator:
        raise Refusal(RefusalCode.NO_PERMISSION, "Only an administrator sets quotas")
    limits = dict(command.limits)
    for resource, limit in limits.items():
        if resource not in _RESOURCES:
            raise Refusal(RefusalCode.CANNOT, f"Quotas are of {', '.join(_RESOURCES)}")
        # RFC 9208 §3.1.2: 0 prohibits any usage, which a limit here cannot say
        if limit == 0:
            raise Refusal(RefusalCode.CANNOT, "A limit is 1 at least; disable the account instead")
    # RFC 9208 §3.2: what is more than a store can hold is rounded
    size_bytes = min(limits.get("STORAGE", 0), MAX_QUOTA_BYTES // STORAGE_UNIT) * STORAGE_UNIT
    root = await connection.context.store.write(
        connection.account_id,
        quotas.set_limits,
        command.root,
        size_bytes,
        limits.get("MESSAGE", 0),
        limits.get("MAILBOX", 0),
    )
    connection.send(_quota_response(root))
    connection.send(encode.tagged(tag, b"OK", "SETQUOTA completed"))


async def warn_if_exceeded(connection: "ImapConnection", name: str) -> None:
    """After a copy that costs nothing: say that the account it went into is over its quota (RFC 9208 §4.3.1)."""
    reader_id = connection.account_id
    if await connection.context.store.read(reader_id, quotas.is_exceeded_at, reader_id, name):
        connection.send(encode.untagged(b"NO", "The account holds more than its quota allows", code=b"OVERQUOTA"))


async def deleted_storage(
    connection: "ImapConnection", items: Sequence[StatusItem], found: Sequence[Opened]
) -> dict[tuple[int, int], int]:
    """By (account, mailbox), where STATUS asks for it: the bytes that EXPUNGE would free (RFC 9208 §4.1.4)."""
    if StatusItem.DELETED_STORAGE not in items:
        return {}
    return {
        (one.account_id, one.mailbox.id): await _deleted_bytes(connection, one.account_id, one.mailbox.id)
        for one in found
        if one.mailbox.deleted_count and Right.READ in one.standing.rights
    }


async def _deleted_bytes(connection: "ImapConnection", account_id: int, mailbox_id: int) -> int:
    """The bytes of messages marked \\Deleted. 0.1 us for each message of the mailbox."""
    total, uid, pace = 0, 0, Pace()
    while True:
        size, uid = await connection.context.store.read(
            account_id, quotas.deleted_bytes, account_id, mailbox_id, uid, _COUNTED_A_TURN
        )
        total += size
        if not uid:
            return total
        await pace.turn()
