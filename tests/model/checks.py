"""What a step names, how it is asked for, and what the answers of FETCH, STORE and SEARCH must say."""

from dataclasses import dataclass
from typing import Final

from model import steps as s
from model.client import Answer, Fetched, Found, Searched
from model.model import Flags, View, expanded, ranges, require

NO_UID: Final = b"4000000000"
BODY: Final = b"body\r\n"


def message(number: int) -> bytes:
    """The message of that number, told by its subject."""
    return b"From: <a@example.net>\r\nSubject: test %d.\r\n\r\n%b" % (number, BODY)


def subject(number: int) -> bytes:
    """What `BODY[HEADER.FIELDS (SUBJECT)]` is."""
    return b"Subject: test %d.\r\n\r\n" % number


@dataclass(frozen=True, slots=True)
class Named:
    """The messages that a step names: their uids, and the set as it is sent."""

    uids: list[int]
    text: bytes


def named(view: View, picks: tuple[int, ...], *, is_uid: bool, is_open: bool = False, is_saved: bool = False) -> Named:
    """What `picks` means in this view; with nothing in it, a set that names nothing. `is_saved`: what `$` names."""
    if is_saved:
        return Named([uid for uid in view.uids if uid in view.saved], b"$")
    places = sorted({pick % len(view.uids) for pick in picks}) if view.uids else []
    if is_open and places:
        places = list(range(places[0], len(view.uids)))
    uids = [view.uids[place] for place in places]
    if not uids:
        return Named([], NO_UID if is_uid else b"1")
    if is_open and view.version == view.mailbox.version:
        return Named(uids, b"%d:*" % (uids[0] if is_uid else places[0] + 1))
    return Named(uids, ranges(uids if is_uid else [place + 1 for place in places]).encode())


def check_fetched(view: View, uids: list[int], answer: Answer, what: str) -> None:
    """Every named message is answered for, with what it is."""
    answered: set[int] = set()
    for line in answer.lines:
        if not isinstance(line, Fetched) or line.uid is None:
            continue
        told = {"flags": line.flags, "changed": line.flags, "size": line.size_bytes}.get(what, line.body)
        if told is None:
            continue  # flags that others changed
        answered.add(line.uid)
        # a removed message stays what it was
        held = next(iter(view.mailbox.history.get(line.uid, ())), None)
        if held is not None:
            number = held.number
            wanted = {"size": len(message(number)), "subject": subject(number), "body": BODY}.get(what, told)
            require(told == wanted, "FETCH tells the message of the uid", (line, held))
    require(answered >= set(uids), "FETCH answers for every message", (uids, answer.lines))


def check_changed(view: View, uids: list[int], answer: Answer, since: int) -> None:
    """FETCH with CHANGEDSINCE: whatever changed is told, with MODSEQ, and nothing else."""
    there = [uid for uid in uids if uid in view.mailbox.messages]
    answered = {one.uid for one in answer.lines if isinstance(one, Fetched)}
    wanted = {uid for uid in there if view.mailbox.is_since(uid, since)}
    require(answered >= wanted, "CHANGEDSINCE tells what has changed", (since, wanted, answer.lines))
    # what is news to the client is told behind the answer, however old
    known = [uid for uid in there if view.flags[uid] == view.current(uid)]
    others = {uid for uid in known if view.mailbox.is_since(uid, since) is False}
    require(not answered & others, "CHANGEDSINCE tells only what has changed", (since, others, answer.lines))


def check_found_since(view: View, line: Found, since: int, *, is_uid: bool) -> None:
    """SEARCH MODSEQ: as CHANGEDSINCE, and the highest of what was found."""
    found = set(line.numbers) if is_uid else {view.uid_of(seq) for seq in line.numbers}
    newer = {uid: view.mailbox.is_since(uid, since) for uid in view.uids if uid in view.mailbox.messages}
    wanted = {uid for uid, is_newer in newer.items() if is_newer}
    require(wanted <= found, "SEARCH MODSEQ finds what has changed", (since, wanted, line))
    require(not any(newer.get(uid) is False for uid in found), "SEARCH MODSEQ finds nothing else", (since, line))
    require((line.mod_seq is None) == (not found), "SEARCH MODSEQ tells the highest", line)
    lows = [view.mailbox.bounds[uid].low for uid in found if uid in newer]
    require(not lows or (line.mod_seq or 0) > max(lows), "SEARCH MODSEQ tells the highest", (lows, line))


def store_command(step: s.Store, which: Named, since: int | None) -> bytes:
    """STORE as it is sent."""
    condition = "" if since is None else f"(UNCHANGEDSINCE {since}) "
    item = f"{condition}{step.mode}FLAGS{'.SILENT' if step.is_silent else ''} ({' '.join(step.flags)})"
    return b"%b %b %b" % (b"UID STORE" if step.is_uid else b"STORE", which.text, item.encode())


def without_modified(view: View, uids: list[int], failed: list[int], answer: Answer, *, is_uid: bool) -> Answer:
    """The answer to a conditional STORE as one to any other, after the look at MODIFIED (RFC 7162 §3.1.3)."""
    end = answer.end
    told: list[int] = []
    if end.code == "MODIFIED":
        numbers = expanded(end.argument)
        told = numbers if is_uid else [view.uid_of(seq) for seq in numbers]
    there = [uid for uid in told if uid in view.mailbox.messages]
    require(there == failed, "MODIFIED names what failed", (end, failed))
    if end.status == "NO":
        require(any(uid not in view.mailbox.messages for uid in uids), "STORE fails where messages are gone", end)
        end = end._replace(status="OK")
    return answer._replace(end=end)


def check_stored(
    view: View, step: s.Store, uids: list[int], changed: list[int], answer: Answer, *, is_conditional: bool
) -> None:
    """What STORE tells of the messages that it changed; the client of a silent one works it out.

    `step.is_silent` only where all that the step names may be changed: what is left out is told.
    """
    fetched = [one for one in answer.lines if isinstance(one, Fetched)]
    # by number: removals are told behind them
    told = {one.uid or view.uid_of(one.seq) for one in fetched if one.flags is not None and _is_of_view(view, one)}
    if is_conditional:
        with_mod_seq = {one.uid for one in fetched if one.mod_seq is not None}
        require(with_mod_seq >= set(changed), "a conditional STORE tells MODSEQ", (changed, fetched))
    if not step.is_silent:
        require(told >= set(changed), "STORE tells the flags", (told, changed))
        return
    gone = [uid for uid in uids if uid not in view.mailbox.messages]
    # RFC 3501 §6.4.6: what others changed is told all the same, and so may be what the client never asked for
    known = [uid for uid in changed if view.flags[uid] is not None]
    view.believe([*changed, *gone], step.mode, frozenset(step.flags))
    right = {uid for uid in known if view.flags[uid] == view.current(uid) and uid not in view.cached}
    require(not told & right, "a silent STORE is silent", (told, right))


def _is_of_view(view: View, one: Fetched) -> bool:
    return one.uid is not None or one.seq <= len(view.uids)


def check_found(view: View, line: Found, key: str, number: int, *, is_uid: bool) -> None:
    """What must be found, and what may be: flags that the client was not told of count as before or as now."""
    require(len(set(line.numbers)) == len(line.numbers), "SEARCH names each message once", line)
    found = set(line.numbers) if is_uid else {view.uid_of(seq) for seq in line.numbers}
    must: set[int] = set()
    may: set[int] = set()
    for uid in view.uids:
        message_now = view.mailbox.messages.get(uid)
        known = view.flags[uid]
        past = {known} if known is not None else view.mailbox.past_flags(uid, view.reader)
        now = view.current(uid)
        possible = past | ({now} if now is not None else set())
        is_picked = message_now is not None and message_now.number == number
        matches = {is_picked if key == "picked" else _matches(key, flags) for flags in possible}
        if message_now is None or True in matches:
            may.add(uid)
        if message_now is not None and matches == {True}:
            must.add(uid)
    if is_uid:
        may |= {uid for uid in view.mailbox.messages if uid >= view.uid_next}
    require(must <= found <= may, "SEARCH finds what matches", (key, found, must, may))


def _matches(key: str, flags: Flags) -> bool:
    words = key.split()
    is_negated = words[0] in ("NOT", "UNSEEN", "UNDELETED")
    name = words[-1].removeprefix("UN")
    flag = name if name.startswith("$") else "\\" + name.capitalize()
    return key == "ALL" or (flag in flags) is not is_negated


def check_summary(line: Searched, *, is_uid: bool) -> Found:
    """MIN, MAX and COUNT are those of ALL, which is returned as SEARCH would have told it."""
    require(line.is_uid is is_uid, "ESEARCH says whether its numbers are uids", line)
    numbers = line.found.numbers
    told = {name: int(line.values[name]) for name in ("MIN", "MAX", "COUNT") if name in line.values}
    wanted = {"COUNT": len(numbers)} | ({"MIN": numbers[0], "MAX": numbers[-1]} if numbers else {})
    require(all(wanted.get(name) == number for name, number in told.items()), "ESEARCH sums up what was found", line)
    return line.found
