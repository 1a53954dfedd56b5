"""Reports: what became of a message, told to whoever sent it (RFC 3461, RFC 3464).

INV-10: a report goes to a sender that proved who they are; a null reverse-path gets none. What nobody else may hear of
(INV-9) is told to the postmaster, with the message's header; that such a report fails is told to nobody.
The report and the rows that owed it change in one transaction: neither is lost, neither happens twice.
"""

import asyncio
from collections import deque
from dataclasses import replace
from typing import Final

from pochta import clock, log
from pochta.delivery import local, record, submit
from pochta.delivery.intake import Intake
from pochta.delivery.submit import ROWS_INLINE_MAX, Envelope, Origin, Submitter, Target
from pochta.errors import Corrupt, PochtaError, Refusal, TryLater
from pochta.net.connection import report_bug
from pochta.proto.address import POSTMASTER, AddressError, parse_mailbox
from pochta.proto.smtp.events import Notify
from pochta.queue import dsn, schedule, settling
from pochta.queue.dsn import Action, Report, ReportedRecipient
from pochta.queue.schedule import Schedule
from pochta.store import arrivals, blobs, owed
from pochta.store.directory import has_domain
from pochta.store.leases import Fence, LeaseLost
from pochta.store.messages import NewMessage
from pochta.store.outbox import Outgoing, Owed, Recipient
from pochta.store.owed import Reports
from pochta.store.shares import WHOLE, Share
from pochta.store.store import Store

REPORTS_A_LOOK: Final = 50
COMPOSED_INLINE_MAX: Final = 20  # recipients; 60 us each where their servers sent long replies (INV-12)
# What cannot be reported now (a server without accounts has no postmaster yet) is left so long; and given up at last,
# or a queue would hold it for ever.
AGAIN_S: Final = 900
GIVE_UP_S: Final = 5 * 86_400
# Nobody reads more; the trails tell of the rest. Strangers can cause them as fast as they send to a dead alias.
POSTMASTER_REPORTS_AN_HOUR: Final = 50

_ACTIONS: Final = {
    Owed.DELAYED: Action.DELAYED,
    Owed.FAILED: Action.FAILED,
    Owed.RELAYED: Action.RELAYED,
    Owed.DELIVERED: Action.DELIVERED,
    Owed.EXPANDED: Action.EXPANDED,
}


class _LaterError(PochtaError):
    """Nobody can be told now."""


class Reporter:
    """Makes the reports that the queue owes. `hostname`, `postmaster`: the settings."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        submitter: Submitter,
        schedule: Schedule,
        *,
        hostname: str,
        postmaster: str | None,
        share: Share = WHOLE,
    ) -> None:
        self._share = share
        self._store = store
        self._intake = intake
        self._submitter = submitter
        self._schedule = schedule
        self._hostname = hostname
        self._postmaster = postmaster
        self._postmaster_told: deque[float] = deque()  # when, in the last hour
        self._not_before: dict[int, float] = {}  # of messages whose report could not be made, by their ids

    async def make_due(self, fence: Fence) -> None:
        """Make every report that is owed now, each tried once; one that cannot be made does not keep others waiting.

        Raises:
            LeaseLost; TryLater: the disk is full.
        """
        now = clock.now_s()
        self._not_before = {one: at for one, at in self._not_before.items() if at > now}
        after = 0
        while due := await self._store.read(0, owed.reports_due, int(now), after, REPORTS_A_LOOK, self._share):
            after = due[-1]
            for outgoing_id in due:
                if outgoing_id not in self._not_before:
                    await self._make(fence, outgoing_id)

    async def _make(self, fence: Fence, outgoing_id: int) -> None:
        local.check_room(self._store)
        told = await self._store.read(0, owed.report_of, outgoing_id)
        if told is None:
            return
        try:
            await self._report(fence, told)
        except _LaterError as error:
            log.event("queue.report.refused", outgoing=outgoing_id, to="postmaster", reason=error)
            if clock.now_s() >= _since(told) + GIVE_UP_S:
                await self._drop(fence, told)
            else:
                self._not_before[outgoing_id] = clock.now_s() + AGAIN_S
        except (LeaseLost, TryLater):
            raise
        except OSError as error:
            raise TryLater("the report cannot be written") from error
        except Exception as error:  # noqa: BLE001 - the top of what is done for one report: others are made all the same
            report_bug(error)
            self._not_before[outgoing_id] = clock.now_s() + AGAIN_S

    async def _drop(self, fence: Fence, told: Reports) -> None:
        await self._store.write(0, owed.report_done, fence, told)
        message = told.message
        if any(one.report is Owed.FAILED for one in told.recipients):
            log.event("queue.report.dropped", outgoing=message.id, sender=f"<{message.reverse_path}>")

    async def _report(self, fence: Fence, told: Reports) -> None:
        message = told.message
        is_bounce = message.may_bounce and bool(message.report_to)
        has_failed = any(one.report is Owed.FAILED for one in told.recipients)
        if not is_bounce and (not has_failed or message.origin == Origin.DOUBLE_BOUNCE):
            await self._drop(fence, told)
            return
        if is_bounce and await self._tell(fence, told, message.report_to, Origin.REPORT):
            return
        # DEVIATES RFC 5321 §3.6.3, §4.4, §6.1: a sender that did not prove who it is hears nothing (INV-10), else the
        # owners of forged addresses would; an honest one without SPF and DKIM misses a report. The postmaster sees it.
        now = clock.now_s()
        while self._postmaster_told and self._postmaster_told[0] <= now - 3600:
            self._postmaster_told.popleft()
        has_room = len(self._postmaster_told) < POSTMASTER_REPORTS_AN_HOUR
        if has_failed and has_room and await self._tell(fence, told, "", Origin.DOUBLE_BOUNCE):
            self._postmaster_told.append(now)
        else:
            await self._drop(fence, told)

    async def _tell(self, fence: Fence, told: Reports, address: str, origin: Origin) -> bool:
        """Report to the address (`""`: the postmaster); False when it takes nothing.

        Raises:
            _LaterError: nobody is there to take it yet.
        """
        try:
            target = await self._target(address)
        except TryLater as error:  # of the directory: there is no account that could be postmaster
            raise _LaterError(error.reason) from None
        except (Refusal, AddressError) as error:
            log.event("queue.report.refused", outgoing=told.message.id, to=address or "postmaster", reason=error)
            return False
        now = int(clock.now_s())
        message_id = f"<{now:x}.{clock.token_hex(10)}@{self._hostname}>"
        is_returned = origin is Origin.REPORT
        if all(one.report is not Owed.FAILED for one in told.recipients):
            # RFC 3461 §6.1: NEVER is what a report may say. That news of a success cannot be delivered is no news:
            # else a stranger whose server refuses reports could fill the postmaster's mailbox with them
            target = replace(target, notify=Notify.NEVER)
        new = await self._spooled(await self._report_of(told, target, message_id, now, is_returned=is_returned), now)
        name = f"report-{told.message.id}-{clock.token_hex(4)}"
        trail = record.trail_of(
            name,
            message_id=message_id,
            sender="",
            recipients=(target.address,),
            facts={
                "role": origin.value,
                "about": told.message.trail_id,
                "size": new.blob.size,
                "message_id": message_id,
                "to": [record.target_facts(target.address, target.accounts, target.remotes, target.role)],
            },
        )
        # RFC 8689 §5: a bounce is protected as its message was
        envelope = Envelope(origin=origin, reverse_path="", requires_tls=told.message.requires_tls)
        arrival = await self._submitter.arrival(envelope, (target,), trail)
        is_long = len(told.recipients) > ROWS_INLINE_MAX
        try:
            await self._store.write(0, arrivals.accept_report, fence, told, arrival, new, now, in_thread=is_long)
        except Refusal as error:
            await local.drop(self._store, (new,))
            log.event("queue.report.refused", outgoing=told.message.id, to=target.address, reason=error)
            return False
        log.event("queue.reported", outgoing=told.message.id, id=name, to=f"<{target.address}>", message_id=message_id)
        return True

    async def _spooled(self, report: Report, now: int) -> NewMessage:
        """The report, written and scanned."""
        token = clock.token_hex()
        if len(report.recipients) > COMPOSED_INLINE_MAX:
            text = await asyncio.to_thread(dsn.compose, report, boundary_token=token)
        else:
            text = dsn.compose(report, boundary_token=token)
        incoming = self._intake.open()
        try:
            incoming.write(b"Return-Path: <>\r\n" + text)
            return await incoming.finish(now)
        finally:
            incoming.discard()

    async def _domain(self) -> str:
        """The domain that reports come from: the one kept here that the host's name is in, whose keys sign for it."""
        for name in (self._hostname, self._hostname.partition(".")[2]):
            is_ours: bool = await self._store.read(0, has_domain, name.lower())
            if is_ours:
                return name
        return self._hostname

    async def _target(self, address: str) -> Target:
        found = POSTMASTER if not address else parse_mailbox(address)
        target = await self._store.read(
            0, submit.resolve, found, self._postmaster, self._submitter.srs_secret, clock.now_s(), True
        )
        return target

    async def _report_of(
        self, told: Reports, target: Target, message_id: str, now: int, *, is_returned: bool
    ) -> Report:
        message, to = told.message, target.address
        # RFC 6522 §3: the whole message goes back unless RET says otherwise. RFC 8689 §5: never of REQUIRETLS mail.
        # The postmaster, whose it is not, sees its header.
        is_full = is_returned and message.returns != "HDRS" and not message.requires_tls
        header, body = await self._original(message, is_full=is_full)
        return Report(
            reporting_host=self._hostname,
            postmaster=f"postmaster@{await self._domain()}",
            sender=to if "@" in to else f"{to}@{self._hostname}",
            message_id=message_id,
            queue_id=message.name or str(message.id),
            now_s=now,
            arrived_at=message.created_at,
            recipients=tuple(self._reported(message, one) for one in told.recipients),
            original_header=header,
            original_body=body,
            returns_full=is_full,
            envelope_id=message.envelope_id,
            is_smtputf8=message.is_smtputf8,
            takes_utf8=bool(target.accounts),
        )

    async def _original(self, message: Outgoing, *, is_full: bool) -> tuple[bytes, bytes | None]:
        """Header and body of the message; no body where it is not wanted, is large, or cannot be read."""
        try:
            blob = await self._store.read(message.account_id, blobs.load, message.blob_id)
            header_stop = min(message.header_size, dsn.MAX_RETURNED_BYTES)
            stop = blob.size if is_full and blob.size <= dsn.MAX_RETURNED_BYTES else header_stop
            data = b"".join([chunk async for chunk in self._store.blobs.open(blob, 0, stop)])
        except Corrupt as error:
            log.event("queue.message.damaged", outgoing=message.id, detail=error)
            return b"", None
        header = data[: message.header_size]
        return header, data[message.header_size :] if stop > message.header_size else None

    def _reported(self, message: Outgoing, one: Recipient) -> ReportedRecipient:
        action = _ACTIONS[one.report]
        return ReportedRecipient(
            address=one.address,
            action=action,
            status=settling.status(one),
            original=one.original,
            remote_host=one.last_host or None,
            remote_reply=one.last_reply,
            last_attempt_at=one.last_at,
            will_retry_until=schedule.expires_at(self._schedule, first_at=message.created_at)
            if action is Action.DELAYED
            else None,
        )


def _since(told: Reports) -> int:
    """When the latest of the recipients came to its end."""
    return max(one.next_at if one.last_at is None else one.last_at for one in told.recipients)
