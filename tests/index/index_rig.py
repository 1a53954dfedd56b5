"""Messages in four scripts, queries about them, and what a plain reading of their text finds."""

import unicodedata
from array import array
from base64 import b64encode, encodebytes
from collections.abc import Sequence
from pathlib import Path
from quopri import encodestring
from random import Random  # noqa: TID251 - seeded by the test, so that a failure can be had again
from typing import Final, NamedTuple

from pochta.delivery.intake import Intake
from pochta.index.feed import Indexer
from pochta.index.searcher import Searcher
from pochta.proto.imap import commands as c
from pochta.proto.imap.view import Snapshot
from pochta.servers.imap.search.facts import Mailbox
from pochta.servers.imap.search.plan import Terms, find
from pochta.store import directory, mailboxes, messages, placements, setup
from pochta.store.store import Store

NOW: Final = 1_750_000_000


class Script(NamedTuple):
    """Letters to make words of, how long they are, and charsets that hold them."""

    letters: str
    longest: int
    charsets: tuple[str, ...]
    gap: str = " "


SCRIPTS: Final = (
    Script("aeinorstlcdmuß éüÅﬁ".replace(" ", ""), 7, ("utf-8",)),
    Script("aeinorstlcdmuk", 7, ("us-ascii", "iso-8859-1", "utf-8")),
    Script("аеёиноыстрлвдЙк", 8, ("utf-8", "koi8-r", "windows-1251")),
    Script("αεήινορστλςκδΣ", 8, ("utf-8", "iso-8859-7")),
    Script("会議明日東京報告書予算来週", 4, ("utf-8", "iso-2022-jp", "gb18030"), gap=""),
    Script("가나다라회의보고서내일", 4, ("utf-8", "euc-kr"), gap=" "),
)


def encoded_as(text: str, charsets: Sequence[str]) -> str:
    """The first of the charsets that holds the text; UTF-8 holds all."""
    for one in charsets:
        try:
            text.encode(one)
        except UnicodeEncodeError:
            continue
        return one
    return "utf-8"


def words(rng: Random, script: Script, count: int) -> str:
    made = ["".join(rng.choices(script.letters, k=rng.randint(1, script.longest))) for _ in range(count)]
    return script.gap.join(made)


def encoded_word(text: str, charset: str) -> str:
    return f"=?{charset}?B?{b64encode(text.encode(charset)).decode('ascii')}?="


class Made(NamedTuple):
    """A message, and its text as whoever wrote it knows it: fields by name, and the bodies."""

    raw: bytes
    fields: dict[str, str]
    bodies: tuple[str, ...]
    inner: str
    heads: tuple[str, ...]  # headers of parts


def make(rng: Random, number: int) -> Made:
    """A message: plain, or with a text attachment, or with a message inside."""
    script = rng.choice(SCRIPTS)
    subject, name = words(rng, script, rng.randint(1, 3)), words(rng, script, 1)
    charset = encoded_as(subject + name, rng.sample(script.charsets, len(script.charsets)))
    fields = {
        "from": f"{encoded_word(name, charset)} <u{number % 97}@example.org>",
        "to": f"reader{number % 13}@example.net",
        "subject": encoded_word(subject, charset),
        "message-id": f"<{number}.m@example.org>",
    }
    known = {**fields, "from": f"{name} <u{number % 97}@example.org>", "subject": subject}
    if number % 3 == 0:
        fields["x-note"] = known["x-note"] = f"note {number % 7}"
    lines = "".join(f"{key.title()}: {value}\r\n" for key, value in fields.items())
    bodies = [words(rng, script, rng.randint(3, 30))]
    inner = ""
    if number % 5 == 0:
        bodies.append(words(rng, rng.choice(SCRIPTS), 10))
    made = [part(rng, script, text) for text in bodies]
    parts = "".join(f"\r\n--b\r\n{one}" for one in made)
    heads = [one.partition("\r\n\r\n")[0] for one in made]
    if number % 11 == 0:
        inner = words(rng, script, 2)
        within = encoded_word(inner, encoded_as(inner, script.charsets))
        heads.append("Content-Type: message/rfc822")
        parts += f"\r\n--b\r\n{heads[-1]}\r\n\r\nSubject: {within}\r\n\r\nnothing\r\n"
        bodies.append("nothing")
    kind = 'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b"\r\n'
    known["mime-version"], known["content-type"] = "1.0", 'multipart/mixed; boundary="b"'
    raw = f"{lines}{kind}{parts}\r\n--b--\r\n".encode("ascii")
    return Made(raw, known, tuple(bodies), inner, tuple(heads))


def part(rng: Random, script: Script, text: str) -> str:
    charset = encoded_as(text, rng.sample(script.charsets, len(script.charsets)))
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: "
    if rng.random() < 0.5:
        return f"{head}base64\r\n\r\n{encodebytes(text.encode(charset)).decode('ascii')}"
    return f"{head}quoted-printable\r\n\r\n{encodestring(text.encode(charset)).decode('ascii')}"


def folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKD", text).casefold().split(" "))


class Brute:
    """The folded text of a message, to be looked through."""

    def __init__(self, made: Made) -> None:
        self.fields = {name: folded(value) for name, value in made.fields.items()}
        self.header = "\n".join(
            [*(f"{name}: {value}" for name, value in self.fields.items()), *map(folded, made.heads)]
        )
        self.body = "\n".join(map(folded, (*made.bodies, f"subject: {made.inner}" if made.inner else "")))

    def matches(self, key: c.SearchKey) -> bool:
        if isinstance(key, c.SearchHeader):
            value = self.fields.get(key.field)
            return value is not None and folded(key.text) in value
        assert isinstance(key, c.SearchText)
        found = folded(key.text) in self.body
        if key.scope is c.TextScope.TEXT:
            found = found or folded(key.text) in self.header
        return found


def query(rng: Random, known: Sequence[Made]) -> c.SearchKey:
    """A key about a piece of a message, or about no message."""
    one = rng.choice(known)
    field = rng.choice(("from", "to", "subject", "x-note", "message-id", "body", "body", "text", "text"))
    source = one.fields.get(field) or rng.choice((*one.bodies, one.inner or "nothing"))
    length = rng.choice((1, 1, 2, 2, 3, 4, 5, 8, 13))
    at = rng.randint(0, max(0, len(source) - length))
    # without the spaces at its ends, where lines of quoted-printable end
    text = source[at : at + length].strip() or "e"
    if rng.random() < 0.1:
        text += rng.choice("qж会ω")
    text = rng.choice((text, text.upper(), text.lower(), unicodedata.normalize("NFD", text)))
    if field in ("body", "text"):
        return c.SearchText(c.TextScope.BODY if field == "body" else c.TextScope.TEXT, text)
    return c.SearchHeader(field, "" if rng.random() < 0.02 else text)


class Bench:
    """A store with one mailbox, its index, and what feeds it."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        setup.create(data_dir, is_throwaway=True)
        self.store = Store(data_dir)
        self.store.start(hears_hints=False)
        self.intake = Intake(self.store.blobs, memory_limit_bytes=1 << 26)
        self.searcher = Searcher(data_dir)
        self.indexer = Indexer(self.store, data_dir, pause_factor=0.0)
        self.count = 0

    async def begin(self) -> None:
        write = self.store.write
        await write(0, directory.add_domain, "example.org", "example.org", None, NOW)
        self.account_id = await write(0, directory.add_account, "example.org", "u", "u@example.org", "", 0, NOW)
        self.mailbox_id = (await self.store.read(0, mailboxes.find, self.account_id, "INBOX")).id

    def let_go(self) -> None:
        """Close the index's files, so that they can be harmed."""
        self.searcher.close()
        self.indexer.close(wait=True)
        self.searcher = Searcher(self.data_dir)
        self.indexer = Indexer(self.store, self.data_dir, pause_factor=0.0)

    async def close(self) -> None:
        self.indexer.close()
        self.searcher.close()
        await self.store.close()

    async def append(self, raws: Sequence[bytes]) -> None:
        for start in range(0, len(raws), 200):
            items = []
            for raw in raws[start : start + 200]:
                incoming = self.intake.open()
                incoming.write(raw)
                items.append((await incoming.finish(NOW), messages.NewPlacement(0, (), NOW, 0)))
            await self.store.write(0, messages.append, self.account_id, "INBOX", tuple(items), NOW)
        self.count += len(raws)

    async def view(self) -> Snapshot:
        ranges = ((1, messages.UID_LIMIT),)
        rows = await self.store.read(0, placements.flags_of, self.account_id, self.mailbox_id, ranges)
        return Snapshot.of(array("I", [row[0] for row in rows]), array("q", [row[1] for row in rows]), 1)

    async def search(self, key: c.SearchKey, *, has_index: bool = True, view: Snapshot | None = None) -> list[int]:
        """The sequence numbers found."""
        mailbox = Mailbox(self.store, self.account_id, self.mailbox_id, self.searcher if has_index else None)
        found: list[int] = []
        async for facts, positions in find(mailbox, view or await self.view(), key, Terms()):
            found += [facts.part.seq + at for at in positions]
        return found

    async def expunge(self, uid: int) -> None:
        args = (self.account_id, self.mailbox_id, ((uid, uid),), NOW, False)
        await self.store.write(0, placements.expunge, *args)


async def opened(data_dir: Path) -> Bench:
    bench = Bench(data_dir)
    await bench.begin()
    return bench
