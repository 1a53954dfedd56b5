"""Messages come in, on every backend: deliver, append, threads, quota, numbers."""

import pytest
from store_harness import NOW, Backend, execute, item, new_message

from pochta.errors import Refusal, RefusalCode
from pochta.store import blobs, changes, directory, flags, mailboxes, messages

Kind = changes.Kind


def deliver(backend: Backend, accounts: list[int], new: messages.NewMessage | None = None) -> None:
    backend.write(accounts[0], messages.deliver, accounts, new or new_message())


def refused(backend: Backend, account: int, fn, *args: object) -> RefusalCode:
    with pytest.raises(Refusal) as caught:
        backend.write(account, fn, *args)
    return caught.value.code


def test_delivered_message_stands_unseen_in_inbox(backend: Backend) -> None:
    account = backend.new_account("a")
    before = backend.mod_seq(account)
    deliver(backend, [account])
    inbox = backend.mailbox(account, "INBOX")
    assert (inbox.message_count, inbox.unseen_count, inbox.total_bytes, inbox.uid_next) == (1, 1, 100, 2)
    assert inbox.mod_seq == backend.mod_seq(account) > before
    assert backend.changes(account, "INBOX", before) == [(Kind.ADDED, "1")]
    assert backend.quota(account) == (1, 100)
    assert backend.hints[-1] == (account, inbox.mod_seq)


def test_recipients_share_the_bytes(backend: Backend) -> None:
    accounts = [backend.new_account(name) for name in "abc"]
    deliver(backend, accounts)
    assert backend.query("SELECT count(*) FROM blob") == [(1,)]
    assert [backend.mailbox(account, "INBOX").message_count for account in accounts] == [1, 1, 1]
    assert {hint[0] for hint in backend.hints[-3:]} == set(accounts)


def test_stored_bytes_come_back(backend: Backend) -> None:
    account = backend.new_account("a")
    content = bytes(range(256))
    deliver(backend, [account], new_message()._replace(blob=blobs.NewBlob(256, content, None), header_size=9))
    [(blob_id,)] = backend.query("SELECT blob_id FROM message")
    assert backend.read(account, blobs.load, blob_id) == (blob_id, 256, content, None)


def test_delivery_reaches_all_or_nobody(backend: Backend) -> None:
    roomy, full = backend.new_account("a"), backend.new_account("b", quota_bytes=50)
    hints = len(backend.hints)
    assert refused(backend, roomy, messages.deliver, [roomy, full], new_message()) is RefusalCode.OVER_QUOTA
    assert backend.mailbox(roomy, "INBOX").message_count == 0
    assert backend.quota(roomy) == (0, 0)
    assert backend.query("SELECT count(*) FROM blob") == [(0,)]
    assert len(backend.hints) == hints


def test_quota_may_be_filled_to_the_last_byte(backend: Backend) -> None:
    account = backend.new_account("a", quota_bytes=200)
    deliver(backend, [account])
    deliver(backend, [account])
    assert refused(backend, account, messages.deliver, [account], new_message(1)) is RefusalCode.OVER_QUOTA
    args = (account, "Sent", [item(1)], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.OVER_QUOTA
    assert backend.quota(account) == (2, 200)


def test_removed_account_takes_nothing(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.write(account, directory.remove_account, "example.org", "a", NOW)
    assert refused(backend, account, messages.deliver, [account], new_message()) is RefusalCode.NOT_FOUND
    args = (account, "Sent", [item()], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.NOT_FOUND
    assert refused(backend, account, mailboxes.create, account, "x", NOW) is RefusalCode.NOT_FOUND


@pytest.mark.rfc(3502, "6.3.11")
def test_append_puts_all_messages_at_once(backend: Backend) -> None:
    account = backend.new_account("a")
    before = backend.mod_seq(account)
    done = backend.append(
        account, "Sent", item(10, flags.SEEN), item(20, flags.DELETED, ("$Forwarded", "work")), item(30)
    )
    sent = backend.mailbox(account, "Sent")
    assert done == (sent.uid_validity, (1, 2, 3))
    assert (sent.message_count, sent.unseen_count, sent.deleted_count, sent.total_bytes) == (3, 2, 1, 60)
    assert backend.flags(account, "Sent") == {1: flags.SEEN, 2: flags.DELETED | 32 | 64, 3: 0}
    assert backend.changes(account, "Sent", before) == [(Kind.ADDED, "1:3")]
    assert backend.mod_seq(account) == before + 1
    assert backend.append(account, "Sent", item()).uids == (4,)


def test_append_keeps_dates_and_zone(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.append(account, "Sent", item(internal_date=-5))
    assert backend.query("SELECT internal_date, zone_minutes, saved_at FROM placement") == [(-5, 120, NOW)]


def test_append_to_nowhere(backend: Backend) -> None:
    account = backend.new_account("a")
    args = (account, "gone", [item()], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.NOT_FOUND
    assert backend.quota(account) == (0, 0)


@pytest.mark.rfc(9051, "2.3.2")
def test_keywords_are_matched_without_case(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.append(account, "Sent", item(keywords=("Work",)), item(keywords=("wORK", "other")))
    assert backend.read(account, flags.keywords, account) == {32: "Work", 64: "other"}
    assert backend.flags(account, "Sent") == {1: 32, 2: 96}


def test_dictionary_of_keywords_has_an_end(backend: Backend) -> None:
    account = backend.new_account("a")
    names = tuple(f"k{n}" for n in range(flags.KEYWORD_BITS))
    backend.append(account, "Sent", item(keywords=names))
    assert backend.flags(account, "Sent") == {1: (1 << 63) - 32}
    args = (account, "Sent", [item(keywords=("one-more",))], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.LIMIT
    assert backend.append(account, "Sent", item(keywords=("K57",))).uids == (2,)
    assert backend.flags(account, "Sent")[2] == 1 << 62


def test_keyword_of_absurd_length(backend: Backend) -> None:
    account = backend.new_account("a")
    args = (account, "Sent", [item(keywords=("k" * 101,))], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.LIMIT
    assert backend.read(account, flags.keywords, account) == {}


@pytest.mark.rfc(9051, "2.3.1.1")
def test_uids_end_at_32_bits(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.execute("UPDATE mailbox SET uid_next = ? WHERE role = 'sent'", messages.UID_LIMIT - 1)
    assert backend.append(account, "Sent", item()).uids == (messages.UID_LIMIT - 1,)
    args = (account, "Sent", [item()], NOW)
    assert refused(backend, account, messages.append, *args) is RefusalCode.LIMIT


def thread_of(backend: Backend, account: int, refs: tuple[int, ...], subject_hash: int = 1) -> int:
    deliver(backend, [account], new_message(refs=refs, subject_hash=subject_hash))
    return int(backend.query("SELECT thread_id FROM message WHERE account_id = ? ORDER BY id DESC", account)[0][0])


@pytest.mark.rfc(8621, "3")
def test_answers_join_the_thread(backend: Backend) -> None:
    account = backend.new_account("a")
    first = thread_of(backend, account, (11,))
    assert thread_of(backend, account, (12, 11)) == first
    assert thread_of(backend, account, (13, 12, 99)) == first
    assert thread_of(backend, account, (99,)) == first


@pytest.mark.rfc(8621, "3")
def test_another_subject_is_another_thread(backend: Backend) -> None:
    account = backend.new_account("a")
    first = thread_of(backend, account, (11,), subject_hash=1)
    assert thread_of(backend, account, (12, 11), subject_hash=2) != first


@pytest.mark.rfc(8621, "3")
def test_message_of_two_threads_takes_the_older(backend: Backend) -> None:
    account = backend.new_account("a")
    older, newer = thread_of(backend, account, (11,)), thread_of(backend, account, (22,))
    assert older < newer
    assert thread_of(backend, account, (33, 22, 11)) == older
    assert thread_of(backend, account, (44, 22)) == newer  # threads never merge


def test_messages_without_an_id_stand_alone(backend: Backend) -> None:
    account = backend.new_account("a")
    assert thread_of(backend, account, ()) != thread_of(backend, account, ())


def test_hashes_use_the_whole_range_of_an_integer(backend: Backend) -> None:
    account = backend.new_account("a")
    first = thread_of(backend, account, (-(1 << 63), (1 << 63) - 1), subject_hash=-(1 << 63))
    assert thread_of(backend, account, ((1 << 63) - 1,), subject_hash=-(1 << 63)) == first


def test_other_accounts_have_their_own_threads(backend: Backend) -> None:
    one, two = backend.new_account("a"), backend.new_account("b")
    thread_of(backend, one, (5,))
    first = thread_of(backend, one, (11,))
    assert thread_of(backend, two, (12, 11)) != first


def three_changes(tx, account_id: int) -> list[int]:
    return [changes.next_mod_seq(tx, account_id) for _ in range(3)]


def test_mod_seq_rises(backend: Backend) -> None:
    account = backend.new_account("a")
    before = backend.mod_seq(account)
    assert backend.write(account, three_changes, account) == [before + 1, before + 2, before + 3]


def test_all_rows_of_a_transaction_share_a_mod_seq(backend: Backend) -> None:
    account = backend.new_account("a")
    backend.append(account, "Sent", item(), item())
    sql = (
        "SELECT p.mod_seq, p.created_mod_seq, m.created_mod_seq, b.mod_seq, b.counts_mod_seq FROM placement p"
        " JOIN message m ON m.id = p.message_id JOIN mailbox b ON b.id = p.mailbox_id"
    )
    assert set(backend.query(sql)) == {(backend.mod_seq(account),) * 5}


def test_mod_seq_floor_is_respected(backend: Backend) -> None:
    account = backend.new_account("a")
    holder = backend.store.lane if backend.name == "sqlite" else backend.store
    holder.mod_seq_floor = 1 << 40
    deliver(backend, [account])
    assert backend.mod_seq(account) == (1 << 40) + 1
    backend.append(account, "Sent", item())
    assert backend.mod_seq(account) == (1 << 40) + 2
    holder.mod_seq_floor = 1 << 41
    backend.write(account, mailboxes.create, account, "x", NOW)
    assert backend.mod_seq(account) == (1 << 41) + 1


def test_ids_are_never_used_twice(backend: Backend) -> None:
    account = backend.new_account("a")
    seen: list[int] = []
    for _ in range(3):
        seen.append(backend.write(account, mailboxes.create, account, "x", NOW))
        deliver(backend, [account])
        seen.append(backend.query("SELECT max(id) FROM message")[0][0])
        backend.write(account, mailboxes.remove, account, "x", NOW)
    assert seen == sorted(set(seen))


def break_off(tx, account_id: int) -> None:
    messages.deliver(tx, [account_id], new_message())
    raise ZeroDivisionError


def test_function_that_raises_leaves_no_trace(backend: Backend) -> None:
    account = backend.new_account("a")
    before, hints = backend.mod_seq(account), len(backend.hints)
    with pytest.raises(ZeroDivisionError):
        backend.write(account, break_off, account)
    assert backend.mod_seq(account) == before
    assert backend.query("SELECT count(*) FROM message") == [(0,)]
    deliver(backend, [account])
    assert len(backend.hints) == hints + 1


def test_references_are_held_by_the_database(backend: Backend) -> None:
    """A domain goes only after its accounts, whatever a caller forgets."""
    backend.new_account("a")
    with pytest.raises(Exception, match=r"(?i)foreign key"):
        backend.write(0, execute, "DELETE FROM domain", ())
