"""Reports: what became of a message, told to whoever sent it (RFC 3461, RFC 3464).

INV-10: a report goes to a sender that proved who they are; a null reverse-path gets none. What nobody else may hear of
(INV-9) is told to the postmaster, with the message's header; that such a report fails is told to nobody.
The report and the rows that owed it change in one transaction: neither is lost, neither happens twice.
"""

from typing import Final

from pochta import clock, log
from pochta.delivery import record, submit
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Envelope, Origin, Submitter, Target
from pochta.errors import Corrupt, Refusal, TryLater
from pochta.proto.address import POSTMASTER, AddressError, parse_mailbox
from pochta.queue import dsn, schedule, settling
from pochta.queue.dsn import Action, Report, ReportedRecipient
from pochta.queue.schedule import Schedule
from pochta.store import arrivals, blobs, outbox
from pochta.store.leases import Fence
from pochta.store.messages import NewMessage
from pochta.store.outbox import Outgoing, Owed, Recipient, Reports
from pochta.store.store import Store

REPORTS_A_LOOK: Final = 50

_ACTIONS: Final = {
    Owed.DELAYED: Action.DELAYED,
    Owed.FAILED: Action.FAILED,
    Owed.RELAYED: Action.RELAYED,
    Owed.DELIVERED: Action.DELIVERED,
}


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
    ) -> None:
        self._store = store
        self._intake = intake
        self._submitter = submitter
        self._schedule = schedule
        self._hostname = hostname
        self._postmaster = postmaster

    async def make_due(self, fence: Fence) -> None:
        """Make every report that is owed now.

        Raises:
            LeaseLost; TryLater: the disk is full.
        """
        while due := await self._store.read(0, outbox.reports_due, REPORTS_A_LOOK):
            for told in due:
                await self._report(fence, told)
            if len(due) < REPORTS_A_LOOK:
                return

    async def _report(self, fence: Fence, told: Reports) -> None:
        message = told.message
        is_bounce = message.may_bounce and bool(message.report_to)
        has_failed = any(one.report is Owed.FAILED for one in told.recipients)
        if not is_bounce and (not has_failed or message.origin == Origin.DOUBLE_BOUNCE):
            await self._store.write(0, outbox.report_done, fence, told)
            if has_failed:
                log.event("queue.report.dropped", outgoing=message.id, sender=f"<{message.reverse_path}>")
            return
        if is_bounce and await self._tell(fence, told, message.report_to, Origin.REPORT):
            return
        # RFC 5321 §6.1: what cannot be returned is for the postmaster to see
        if not await self._tell(fence, told, "", Origin.DOUBLE_BOUNCE):
            await self._store.write(0, outbox.report_done, fence, told)
            log.event("queue.report.dropped", outgoing=message.id, sender=f"<{message.reverse_path}>")

    async def _tell(self, fence: Fence, told: Reports, address: str, origin: Origin) -> bool:
        """Report to the address (`""`: the postmaster); False when it takes nothing."""
        try:
            target = await self._target(address)
        except (Refusal, TryLater, AddressError) as error:
            log.event("queue.report.refused", outgoing=told.message.id, to=address or "postmaster", reason=error)
            return False
        now = int(clock.now_s())
        message_id = f"<{now:x}.{clock.token_hex(10)}@{self._hostname}>"
        text = await self._compose(told, target.address, message_id, now, takes_utf8=bool(target.accounts))
        incoming = self._intake.open()
        new: NewMessage | None = None
        try:
            incoming.write(b"Return-Path: <>\r\n" + text)
            new = await incoming.finish(now)
        finally:
            incoming.discard()
        name = f"report-{told.message.id}-{clock.token_hex(4)}"
        trail = record.trail_of(
            name,
            message_id=message_id,
            sender="",
            recipients=(target.address,),
            facts={"role": origin.value, "about": told.message.trail_id, "size": new.blob.size},
        )
        arrival = await self._submitter.arrival(Envelope(origin=origin, reverse_path=""), (target,), trail)
        try:
            await self._store.write(0, arrivals.accept_report, fence, told, arrival, new, now)
        except Refusal as error:
            log.event("queue.report.refused", outgoing=told.message.id, to=target.address, reason=error)
            return False
        log.event("queue.reported", outgoing=told.message.id, id=name, to=f"<{target.address}>", message_id=message_id)
        return True

    async def _target(self, address: str) -> Target:
        found = POSTMASTER if not address else parse_mailbox(address)
        target = await self._store.read(
            0, submit.resolve, found, self._postmaster, self._submitter.srs_secret, clock.now_s(), True
        )
        return target

    async def _compose(self, told: Reports, to: str, message_id: str, now: int, *, takes_utf8: bool) -> bytes:
        message = told.message
        header, body = await self._original(message)
        report = Report(
            reporting_host=self._hostname,
            postmaster=f"postmaster@{self._hostname}",
            sender=to if "@" in to else f"{to}@{self._hostname}",
            message_id=message_id,
            queue_id=str(message.id),
            now_s=now,
            arrived_at=message.created_at,
            recipients=tuple(self._reported(message, one) for one in told.recipients[: dsn.MAX_REPORTED_RECIPIENTS]),
            original_header=header,
            original_body=body,
            returns_full=message.returns == "FULL",
            envelope_id=message.envelope_id,
            is_smtputf8=message.is_smtputf8,
            takes_utf8=takes_utf8,
        )
        return dsn.compose(report, boundary_token=clock.token_hex())

    async def _original(self, message: Outgoing) -> tuple[bytes, bytes | None]:
        """Header and body of the message; no body where it is large, or cannot be read."""
        try:
            blob = await self._store.read(message.account_id, blobs.load, message.blob_id)
            stop = blob.size if blob.size <= dsn.MAX_RETURNED_BYTES else message.header_size
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
