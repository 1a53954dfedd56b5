"""Deliveries here that were put off (FUTURERELEASE): when their time has come they go the way of new mail.

Each recipient is a transaction of its own: what goes wrong at one is put off or reported, and the next is delivered.
"""

from dataclasses import replace

from pochta import clock, log
from pochta.delivery import local, record, submit
from pochta.delivery.intake import Intake
from pochta.delivery.submit import Envelope, Origin, Submitter
from pochta.errors import Corrupt, Refusal, RefusalCode, TryLater
from pochta.net.connection import report_bug
from pochta.proto.address import AddressError, parse_mailbox
from pochta.proto.smtp.events import Notify
from pochta.proto.smtp.replies import Reply
from pochta.queue.schedule import Schedule
from pochta.queue.settling import End, Fate, settle
from pochta.store import arrivals, blobs, outbox
from pochta.store.leases import Fence, LeaseLost
from pochta.store.messages import NewMessage
from pochta.store.outbox import Claim, Outgoing, Owed, Recipient
from pochta.store.store import Store

_DELIVERED = Reply(250, "2.1.5", "Delivered")
_NO_USER = Reply(550, "5.1.1", "There is no such user here any more")
_DAMAGED = Reply(554, "5.3.0", "The message cannot be read any more")
_BUG = Reply(451, "4.3.0", "This server met an error of its own while it delivered the message")
_REPLIES = {RefusalCode.OVER_QUOTA: (552, "5.2.2"), RefusalCode.LIMIT: (550, "5.4.6")}


class LateDeliveries:
    """Delivers what was claimed of the destination LOCAL."""

    def __init__(
        self, store: Store, intake: Intake, submitter: Submitter, schedule: Schedule, *, postmaster: str | None
    ) -> None:
        self._store = store
        self._intake = intake
        self._submitter = submitter
        self._schedule = schedule
        self._postmaster = postmaster

    async def deliver(self, fence: Fence, claim: Claim) -> None:
        """Deliver each, and settle it in the same transaction.

        Raises:
            LeaseLost; TryLater: the disk is full, and nothing can be written down; the rest is claimed still.
        """
        messages = {one.id: one for one in claim.messages}
        for one in claim.recipients:
            message = messages[one.outgoing_id]
            local.check_room(self._store)
            try:
                await self._deliver(fence, message, one)
            except LeaseLost:
                raise
            except (TryLater, OSError) as error:
                reply = Reply(451, "4.3.1", error.reason if isinstance(error, TryLater) else "the disk is full")
                await self._settle(fence, message, one, Fate(End.DEFERRED, reply))
            except Exception as error:  # noqa: BLE001 - the top of what is done for one recipient: the next is delivered
                report_bug(error)
                await self._settle(fence, message, one, Fate(End.DEFERRED, _BUG))

    async def _deliver(self, fence: Fence, message: Outgoing, one: Recipient) -> None:
        now = int(clock.now_s())
        settled = settle(self._schedule, message, one, Fate(End.DELIVERED, _DELIVERED), now=now, random=0.5)
        settled = settled._replace(state=None, owed=Owed.NOTHING)  # that it succeeded is told by what it becomes
        try:
            target = await self._store.read(
                0, submit.resolve, parse_mailbox(one.address), self._postmaster, self._submitter.srs_secret, now, True
            )
            target = replace(target, original=one.original, notify=Notify(one.notify))
            new = await self._copy(message, now)
            try:
                arrival = await self._submitter.arrival(_envelope(message), (target,), record.NO_TRAIL)
                await self._store.write(message.account_id, arrivals.accept_late, fence, settled, arrival, new, now)
            except Refusal:
                await local.drop(self._store, (new,))
                raise
        except Refusal as error:
            code, enhanced = _REPLIES.get(error.code, (550, "5.1.1"))
            await self._settle(fence, message, one, Fate(End.FAILED, Reply(code, enhanced, error.text)))
        except AddressError:
            await self._settle(fence, message, one, Fate(End.FAILED, _NO_USER))
        except Corrupt as error:
            log.event("queue.message.damaged", outgoing=message.id, detail=error)
            await self._settle(fence, message, one, Fate(End.FAILED, _DAMAGED))

    async def _settle(self, fence: Fence, message: Outgoing, one: Recipient, fate: Fate) -> None:
        now = int(clock.now_s())
        settled = settle(self._schedule, message, one, fate, now=now, random=0.5)
        await self._store.write(0, outbox.settle, fence, outbox.LOCAL, (settled,), None)

    async def _copy(self, message: Outgoing, now: int) -> NewMessage:
        blob = await self._store.read(message.account_id, blobs.load, message.blob_id)
        incoming = self._intake.open()
        try:
            async for chunk in self._store.blobs.open(blob, 0, blob.size):
                incoming.write(chunk)
            return await incoming.finish(now)
        finally:
            incoming.discard()


def _envelope(message: Outgoing) -> Envelope:
    return Envelope(
        origin=Origin(message.origin),
        reverse_path=message.reverse_path,
        account_id=message.account_id,
        may_bounce=message.may_bounce,
        envelope_id=message.envelope_id,
        returns=message.returns,
        body=message.body,
        is_smtputf8=message.is_smtputf8,
        requires_tls=message.requires_tls,
        priority=message.priority,
        deliver_by_at=message.deliver_by_at,
        deliver_by_mode=message.deliver_by_mode,
    )
