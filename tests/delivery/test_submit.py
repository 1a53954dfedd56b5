"""What `submit` makes of an envelope and its targets, before the store takes it."""

import asyncio
from dataclasses import dataclass
from typing import Any, cast

import pytest

from pochta import clock
from pochta.delivery import record
from pochta.delivery.submit import Envelope, Origin, Submitter, Target
from pochta.errors import Refusal, RefusalCode
from pochta.proto.smtp.events import Notify
from pochta.store.arrivals import Arrival
from pochta.store.outbox import LOCAL
from pochta.store.store import Store

ENVELOPE = Envelope(origin=Origin.TRANSFER, reverse_path="s@else.test")
SRS = "SRS0=x@us.test"


@dataclass
class OneDomain:
    """A store that keeps `us.test`."""

    async def read(self, account_id: int, fn: Any, name: str) -> bool:
        return name == "us.test"


def arrival(envelope: Envelope, *targets: Target) -> Arrival:
    submitter = Submitter(
        store=cast(Store, OneDomain()), destination_of=lambda domain, sender: f"to:{domain}", srs_secret=b"x" * 32
    )
    return asyncio.run(submitter.arrival(envelope, targets, record.NO_TRAIL))


def test_a_recipient_elsewhere_keeps_the_senders_path() -> None:
    came = arrival(
        ENVELOPE, Target("b@x.test", remotes=("b@X.test",), notify=Notify.SUCCESS, original="rfc822;o@x.test")
    )
    (sent,) = came.outgoing
    assert (sent.reverse_path, sent.report_to, sent.origin) == ("s@else.test", "s@else.test", "smtp")
    (one,) = sent.recipients
    assert (one.destination, one.address, one.original, one.notify) == (
        "to:x.test", "b@X.test", "rfc822;o@x.test", int(Notify.SUCCESS),
    )  # fmt: skip
    assert came.locals == ()


def test_a_forward_travels_with_a_path_of_ours_and_failures_go_to_the_sender() -> None:
    forward = Target("all@us.test", accounts=(1,), remotes=("b@x.test", "c@y.test"), is_forward=True)
    came = arrival(ENVELOPE, forward, Target("d@x.test", remotes=("d@x.test",)))
    assert [one.account_ids for one in came.locals] == [(1,)]
    rewritten, plain = came.outgoing
    assert rewritten.reverse_path.endswith("@us.test")
    assert rewritten.reverse_path.upper().startswith("SRS0=")
    assert rewritten.report_to == "s@else.test"
    assert [one.original for one in rewritten.recipients] == [None] * 2
    assert (plain.reverse_path, [one.address for one in plain.recipients]) == ("s@else.test", ["d@x.test"])


@pytest.mark.parametrize("sender", ["", "a@us.test"])
def test_a_forward_of_a_bounce_or_of_our_own_mail_keeps_its_path(sender: str) -> None:
    envelope = Envelope(origin=Origin.TRANSFER, reverse_path=sender)
    (sent,) = arrival(envelope, Target("all@us.test", remotes=("b@x.test",), is_forward=True)).outgoing
    assert sent.reverse_path == sender


@pytest.mark.rfc(4865, "4")
def test_what_is_to_wait_waits_where_its_address_is_asked_again() -> None:
    at = int(clock.now_s()) + 600
    envelope = Envelope(origin=Origin.SUBMISSION, reverse_path="a@us.test", account_id=1, not_before=at)
    came = arrival(
        envelope,
        Target("b@us.test", accounts=(2,)),
        Target("all@us.test", remotes=("b@x.test",), is_forward=True),
        Target(SRS, remotes=("s@else.test",)),
        Target("c@x.test", remotes=("c@x.test",)),
    )
    (sent,) = came.outgoing
    assert came.locals == ()
    assert sent.not_before == at
    assert [(one.destination, one.address) for one in sent.recipients] == [
        (LOCAL, "b@us.test"), (LOCAL, "all@us.test"), (LOCAL, SRS), ("to:x.test", "c@x.test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "domain"), [("b@[192.0.2.1]", "[192.0.2.1]"), ("b@bücher.test", "xn--bcher-kva.test")]
)
def test_destinations_are_in_a_labels(address: str, domain: str) -> None:
    (sent,) = arrival(ENVELOPE, Target(address, remotes=(address,))).outgoing
    assert [one.destination for one in sent.recipients] == [f"to:{domain}"]


def test_the_same_people_get_it_once() -> None:
    spellings = [
        Target(f"all+{n}@us.test", remotes=("b@x.test", "c@y.test"), original=f"rfc822;v{n}@x", is_forward=True)
        for n in range(100)
    ]
    other = Target("two@us.test", remotes=("B@X.test",), is_forward=True)
    mine = [Target(f"anna+{n}@us.test", accounts=(1,), notify=Notify.SUCCESS) for n in range(100)]
    came = arrival(ENVELOPE, *spellings, other, *mine)
    (sent,) = came.outgoing
    assert [(one.address, one.original) for one in sent.recipients] == [
        ("b@x.test", "rfc822;v0@x"), ("c@y.test", "rfc822;v0@x"),
    ]  # fmt: skip
    assert [(one.address, one.account_ids) for one in came.locals] == [("anna+0@us.test", (1,))]


@pytest.mark.rfc(3461, "5.2.7.3")
@pytest.mark.parametrize(
    ("notify", "passed_on"),
    [(Notify.SUCCESS, Notify.NEVER), (Notify.SUCCESS | Notify.FAILURE, Notify.FAILURE)],
)
def test_an_alias_of_several_is_reported_as_expanded(notify: Notify, passed_on: Notify) -> None:
    alias = Target("all@us.test", accounts=(1,), remotes=("b@x.test", "c@y.test"), notify=notify, is_forward=True)
    came = arrival(ENVELOPE, alias)
    assert [(one.account_ids, one.wants_success, one.is_expanded) for one in came.locals] == [
        ((1,), False, False), ((), False, True),
    ]  # fmt: skip
    assert [one.notify for one in came.outgoing[0].recipients] == [int(passed_on)] * 2


@pytest.mark.parametrize(
    "sender", ["a" * 64 + "@" + "b" * 60 + "." + "c" * 60 + "." + "d" * 50 + ".test", "a@[1.2.3.4"]
)
def test_a_sender_that_nobody_could_answer_through_us(sender: str) -> None:
    with pytest.raises(Refusal) as found:
        arrival(
            Envelope(origin=Origin.TRANSFER, reverse_path=sender),
            Target("f@us.test", (), ("b@x.test",), is_forward=True),
        )
    assert found.value.code is RefusalCode.CANNOT
