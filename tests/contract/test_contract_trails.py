"""Trails: found by Message-ID and by address, kept as long as the message is on its way, then forgotten whole."""

import outbox_rig as rig
from outbox_rig import accept, outgoing, to
from store_harness import NOW, Backend, counted

from pochta.store import outbox, trails
from pochta.store.trails import NewTrail, Step

LATER = NOW + trails.KEPT_S


def add(backend: Backend, name: str, *addresses: str, message_id: str = "<1@x>", now: int = NOW) -> int:
    return backend.write(0, trails.add, NewTrail(name, message_id, "a@x.test", addresses, '{"n":1}'), now)


def test_a_trail_is_found_by_its_message_and_its_addresses(backend: Backend) -> None:
    first = add(backend, "t1", "a@x.test", "b@x.test", "a@x.test")
    second = add(backend, "t2", "a@x.test")
    assert [one.id for one in backend.read(0, trails.by_message_id, "<1@x>")] == [first, second]
    assert [one.id for one in backend.read(0, trails.by_address, "a@x.test")] == [second, first]
    assert [one.name for one in backend.read(0, trails.by_address, "b@x.test")] == ["t1"]
    assert backend.read(0, trails.by_address, "c@x.test") == backend.read(0, trails.by_message_id, "<2@x>") == []
    found = backend.read(0, trails.by_id, first)
    assert found == trails.Trail(first, "t1", "<1@x>", "a@x.test", NOW, '{"n":1}')
    assert backend.read(0, trails.by_id, 99) is None


def test_steps_come_in_their_order(backend: Backend) -> None:
    id = add(backend, "t1")
    steps = [Step(NOW + n % 2, f"kind{n}", "b@x.test", "{}") for n in range(5)]
    for one in steps:
        backend.write(0, trails.add_step, id, one)
    assert backend.read(0, trails.steps, id) == steps


def test_old_trails_are_forgotten_whole_and_a_few_at_a_time(backend: Backend) -> None:
    for n in range(5):
        id = add(backend, f"t{n}", "a@x.test", "b@x.test", now=NOW + n)
        backend.write(0, trails.add_step, id, Step(NOW, "sent", "", "{}"))
    assert not backend.read(0, trails.is_due, NOW - 1)
    assert backend.read(0, trails.is_due, NOW)
    assert backend.write(0, trails.expire, NOW + 3, 3) == 3
    assert backend.write(0, trails.expire, NOW + 3, 3) == 1
    assert [one.name for one in backend.read(0, trails.by_address, "a@x.test")] == ["t4"]
    assert backend.query("SELECT count(*) FROM trail_step") == [(1,)]
    assert backend.query("SELECT count(*) FROM trail_address") == [(2,)]


def test_the_trail_of_mail_on_its_way_stays(backend: Backend) -> None:
    fence = rig.lease(backend)
    accept(backend, outgoing(*to("b@x.test")))
    assert not backend.read(0, trails.is_due, LATER)
    assert backend.write(0, trails.expire, LATER, 10) == 0
    one = rig.claim(backend, fence, "x.test").recipients[0]
    backend.write(0, outbox.settle, fence, "x.test", (rig.settled(one, None),), None)
    assert backend.read(0, trails.is_due, LATER)
    assert backend.write(0, trails.expire, LATER, 10) == 1


def test_statements_of_a_trail(backend: Backend) -> None:
    new = NewTrail("t", "<1@x>", "", ("a@x.test", "b@x.test"), "{}")
    assert backend.write(0, counted, trails.add, (new, NOW)) == 3
    assert backend.write(0, counted, trails.expire, (LATER, 10)) == 5
