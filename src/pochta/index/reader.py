"""Answers of the index: which messages match a text, and which may.

Theory of operation. The trigrams of the needle narrow: a message that lacks one of them cannot contain the needle. The
folded text decides, inside SQLite, which leaves the interpreter to others meanwhile. Where trigrams do not narrow (they
stand in a good part of all messages, or the needle is shorter than three characters and no rare one), the texts are
looked through one after the other: 0.6 us a message of 1 KiB. A message whose text is not wholly kept is told as one
that may match; the caller opens it.

Blocks, so: not on the event loop (INV-12).
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from pochta.index import file
from pochta.index.file import Place, Witness
from pochta.index.texts import COLUMNS, State, as_words

TRIGRAM: Final = 3
TRIGRAMS_MAX: Final = 16  # of one needle; the rarest decide, and 16 of them hold a rare one
# Beyond such a share of all messages, candidates cost more to look up than all messages to look through: 0.07 us for a
# field, 0.6 us for a text of 1 KiB.
FIELD_SHARE: Final = 16
TEXT_SHARE: Final = 4
NARROW_MIN: Final = 1000
SHORT_ROWS: Final = 20_000  # (trigram, message) pairs looked at for a needle of one or two characters: 2 ms
OPEN_MAX: Final = 16  # files open for reading, each with a cache of up to file.CACHE_KIB (INV-7)
# of each open file, for whoever asks again: the next page of what was found, the next mailbox (MULTISEARCH).
# 8 octets an id, so 5 MB of all files (INV-7)
KEPT_ANSWERS: Final = 4
KEPT_IDS: Final = 10_000  # of one answer
IDS_CHARS: Final = 32 * 1024  # of a list of ids read in one go: 0.5 ms
_LAST: Final = "\U0010ffff"


class FieldQuestion(NamedTuple):
    """Which messages have a field of this column (`texts.COLUMNS`) that contains the folded text."""

    column: int
    form: str


class HeaderQuestion(NamedTuple):
    """Which messages have a header field of this name (lower case) that contains the folded text."""

    name: str
    form: str


class TextQuestion(NamedTuple):
    """Which messages contain the text (not empty), folded for bodies and headers; `in_header`: TEXT, else BODY."""

    body_form: str
    header_form: str
    in_header: bool


Question = FieldQuestion | HeaderQuestion | TextQuestion


class Answer(NamedTuple):
    """Message ids, rising: those that match, and those that may; all others up to `last_id` do not.

    8 octets each: a question about a common letter has every message for an answer.
    """

    sure: "array[int]"
    maybe: "array[int]"


class Reader:
    """The files of a data folder, open for reading; any thread may ask."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._idle: OrderedDict[Place, _Opened] = OrderedDict()
        self._is_closed = False

    def ask(self, account_id: int, questions: Sequence[Question]) -> tuple[Witness, list[Answer]] | None:
        """The answers, on one snapshot of the account's file; None when it has none that can be used.

        Raises:
            apsw.Error: the file is damaged or not to be read.
        """
        place = file.place(self._folder, account_id)
        if place is None:
            return None
        opened = self._take(place)
        if opened is None:
            return None
        try:
            asked = opened.ask(questions)
        except BaseException:
            opened.connection.close()
            raise
        self._give_back(place, opened)
        return asked

    def discard(self, account_id: int) -> None:
        """Remove a file that is damaged or not of this store; whoever feeds it begins again."""
        path = file.current(self._folder, account_id)
        if path is not None:
            file.discard(path)

    def close(self) -> None:
        """Close what is open."""
        with self._lock:
            self._is_closed = True
            idle = list(self._idle.values())
            self._idle.clear()
        for one in idle:
            one.connection.close()

    def _take(self, place: Place) -> "_Opened | None":
        with self._lock:
            opened = self._idle.pop(place, None)
        if opened is not None:
            return opened
        try:
            connection = file.connect(place.path, writable=False)
        except apsw.CantOpenError:
            if not place.path.exists():  # replaced just now
                return None
            raise
        try:
            connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, words, instance)")
        except BaseException:
            connection.close()
            raise
        return _Opened(connection)

    def _give_back(self, place: Place, opened: "_Opened") -> None:
        closing = [opened]
        with self._lock:
            if not self._is_closed and place not in self._idle:
                self._idle[place] = closing.pop()
            # files of the account that were replaced are let go of
            stale = [one for one in self._idle if one.path.parent == place.path.parent and one != place]
            closing += [self._idle.pop(one) for one in stale]
            while len(self._idle) > OPEN_MAX:
                closing.append(self._idle.popitem(last=False)[1])
        for one in closing:
            one.connection.close()


class _Opened:
    """A file open for reading, with the answers that it gave last; used by one thread at a time.

    Messages once indexed never change, so an answer stays true until there are more of them. One that has left the
    index since is named still; it stands nowhere any more.
    """

    __slots__ = ("_answers", "_witness", "connection")

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection
        self._witness: Witness | None = None
        self._answers: OrderedDict[Question, Answer] = OrderedDict()

    def ask(self, questions: Sequence[Question]) -> tuple[Witness, list[Answer]] | None:
        """The answers, on one snapshot; None when the file is of another version."""
        self.connection.execute("BEGIN")
        witness = file.read_witness(self.connection)
        if witness is None:
            self.connection.execute("COMMIT")
            return None
        if witness != self._witness:
            self._answers.clear()
            self._witness = witness
        answers = [self._answers.get(one) or _answer(self.connection, one, witness.last_id) for one in questions]
        self.connection.execute("COMMIT")
        for question, answer in zip(questions, answers, strict=True):
            if len(answer.sure) + len(answer.maybe) <= KEPT_IDS:
                self._answers[question] = answer
                self._answers.move_to_end(question)
        while len(self._answers) > KEPT_ANSWERS:
            self._answers.popitem(last=False)
        return witness, answers


def _answer(connection: apsw.Connection, question: Question, last_id: int) -> Answer:
    if isinstance(question, FieldQuestion):
        return _ask_field(connection, question, last_id)
    if isinstance(question, HeaderQuestion):
        return _ask_header(connection, question, last_id)
    return _ask_text(connection, question, last_id)


def _ask_field(connection: apsw.Connection, question: FieldQuestion, last_id: int) -> Answer:
    column = COLUMNS[question.column]
    narrowed = _narrow(connection, (question.form,), last_id // FIELD_SHARE)
    args = (question.form.encode("utf-8"),) if question.form else ()
    sql = f"SELECT group_concat(e.id) FROM {_source(f'{column} e', narrowed)} {'instr(e.value, ?)' if args else '1'}"
    ((sure,),) = file.rows(connection, sql, (*narrowed.args, *args))
    return _resolved(_ids(sure), _cut(connection, State.FIELDS_CUT))


def _ask_header(connection: apsw.Connection, question: HeaderQuestion, last_id: int) -> Answer:
    """A header holds a line for each field: the first one of that name is looked into by SQLite, further ones here."""
    narrowed = _narrow(connection, (question.form,), last_id // TEXT_SHARE)
    start, form = f"\n{question.name}: ".encode(), question.form.encode("utf-8")
    args: tuple[str | bytes | int, ...] = (start,)
    if not form:
        sql = f"SELECT e.id, 1, NULL FROM {_source('text e', narrowed)} instr(e.header, ?)"
    else:
        sql = (
            "SELECT id, instr(substr(rest, 1, instr(rest, x'0A') - 1), ?2) AS is_hit,"
            " iif(instr(rest, ?1), rest, NULL) FROM (SELECT e.id, substr(e.header, instr(e.header, ?1) + ?3) AS rest"
            f" FROM {_source('text e', narrowed, first=4)} instr(e.header, ?1) AND instr(e.header, ?2))"
            " WHERE is_hit OR instr(rest, ?1)"
        )
        args = (start, form, len(start))
    if form:
        rows = file.rows(connection, sql, (*args, *narrowed.args))
    else:
        rows = file.rows(connection, sql, (*narrowed.args, *args))
    sure = [row[0] for row in rows if row[1] or _has_line(row[2], start, form)]
    return _resolved(sure, _cut(connection, State.FIELDS_CUT))


def _has_line(header: bytes, start: bytes, form: bytes) -> bool:
    """Whether a line of the header begins with `start` (a line end first) and goes on with a text that holds `form`."""
    at = header.find(start)
    while at >= 0:
        end = header.find(b"\n", at + len(start))
        if header.find(form, at + len(start), end) >= 0:
            return True
        at = header.find(start, end)
    return False


def _ask_text(connection: apsw.Connection, question: TextQuestion, last_id: int) -> Answer:
    narrowed = _narrow(connection, (question.body_form, question.header_form), last_id // TEXT_SHARE)
    columns = ("header", "parts", "inner") if question.in_header else ("inner",)
    tests = [f"instr(e.{column}, ?1)" for column in columns]
    found = f"({' OR '.join(tests)} OR coalesce(instr(e.body, ?2), 0))"
    sql = (
        "SELECT group_concat(iif(is_hit, id, NULL)), group_concat(iif(is_hit, NULL, id)) FROM ("
        f"SELECT e.id, {found} AS is_hit FROM {_source('text e', narrowed, first=3)} ({found} OR e.body IS NULL))"
    )
    args = (question.header_form.encode("utf-8"), question.body_form.encode("utf-8"))
    ((sure, maybe),) = file.rows(connection, sql, (*args, *narrowed.args))
    return _resolved(_ids(sure), _ids(maybe) + _cut(connection, State.TEXT_CUT))


def _ids(joined: str | None) -> "array[int]":
    """The numbers of a list, read piece by piece: no call may hold the interpreter for long."""
    found = array("q")
    at = 0
    while joined is not None and at < len(joined):
        stop = joined.find(",", at + IDS_CHARS)
        stop = len(joined) if stop < 0 else stop
        found.extend(map(int, joined[at:stop].split(",")))
        at = stop + 1
    return found


def _cut(connection: apsw.Connection, state: State) -> "array[int]":
    sql = "SELECT group_concat(id) FROM entry WHERE state != 0 AND state & ?"
    ((joined,),) = file.rows(connection, sql, (int(state),))
    return _ids(joined)


def _resolved(sure: Iterable[int], maybe: Iterable[int]) -> Answer:
    """What is cut may match or not, whatever its first part says: a character may have been cut through."""
    doubtful = set(maybe)
    return Answer(array("q", sorted(one for one in sure if one not in doubtful)), array("q", sorted(doubtful)))


class _Narrowed(NamedTuple):
    """How the rows are chosen that are looked into; `where` is empty for all rows."""

    where: str
    args: tuple[str, ...]


_ALL: Final = _Narrowed("", ())
_LISTED: Final = "SELECT value FROM json_each(?)"


def _source(table: str, narrowed: _Narrowed, first: int = 0) -> str:
    """FROM and WHERE of the rows; `first`: the number of the parameter, where parameters are numbered."""
    if not narrowed.where:
        return f"{table} WHERE"
    mark = f"?{first}" if first else "?"
    return f"{table} WHERE e.id IN ({narrowed.where.replace('?', mark)}) AND"


def _narrow(connection: apsw.Connection, forms: tuple[str, ...], worth: int) -> _Narrowed:
    """The rows that can contain one of the forms; all rows, when those are more than `worth`."""
    most = max(NARROW_MIN, worth)
    words = [as_words(form) for form in dict.fromkeys(forms)]
    if min(map(len, words)) >= TRIGRAM:
        match = " OR ".join(f"({' AND '.join(_trigrams(word))})" for word in words)
        sql = "SELECT count(*), group_concat(rowid) FROM (SELECT rowid FROM words WHERE words MATCH ? LIMIT ?)"
        ((count, joined),) = file.rows(connection, sql, (match, most + 1))
        return _ALL if count > most else _Narrowed(_LISTED, (f"[{joined or ''}]",))
    if len(words) > 1 or not words[0]:
        return _ALL
    # every trigram that begins with the needle: the ends of texts are padded for this
    word = words[0]
    sql = "SELECT doc FROM temp.terms WHERE term >= ? AND term <= ? LIMIT ?"
    rows = connection.execute(sql, (word, word + _LAST * (TRIGRAM - len(word)), SHORT_ROWS)).fetchall()
    ids = {row[0] for row in rows}
    if len(rows) == SHORT_ROWS or len(ids) > most:
        return _ALL
    return _Narrowed(_LISTED, (f"[{','.join(map(str, ids))}]",))


def _trigrams(word: str) -> list[str]:
    """Trigrams of the word as FTS5 strings, which together hold each of its characters; of a long word some."""
    last = len(word) - TRIGRAM
    # every second one: each more costs a look through the list of a common one (1 ms for 40 000 messages), and lets
    # hardly a message less through
    step = max(2, -(-(last + 1) // TRIGRAMS_MAX))
    found = dict.fromkeys(word[at : at + TRIGRAM] for at in (*range(0, last, step), last))
    return ['"' + one.replace('"', '""') + '"' for one in found]


def count_entries(path: Path) -> tuple[Witness | None, int]:
    """The witness of a file and how many messages it holds.

    Raises:
        apsw.Error: it is damaged.
    """
    connection = file.connect(path, writable=False)
    try:
        witness = file.read_witness(connection)
        ((count,),) = file.rows(connection, "SELECT count(*) FROM entry") if witness else ((0,),)
        return witness, count
    finally:
        with suppress(apsw.Error):
            connection.close()
