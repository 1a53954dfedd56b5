"""A Maildir as the user's other programs change it: files come, go, and change the letters behind their names."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from interop_messages import MESSAGES, name_of
from interop_sides import SYSTEM_FLAGS

# "P" is mbsync's for $Forwarded
LETTERS: Final = {
    "P": "$Forwarded",
    "D": r"\Draft",
    "F": r"\Flagged",
    "R": r"\Answered",
    "S": r"\Seen",
    "T": r"\Deleted",
}
_UID: Final = re.compile(r",U=(\d+)")


@dataclass(frozen=True, slots=True)
class Kept:
    """One file; `uid` is the number in its name, 0 while the synchroniser has not seen it."""

    path: Path
    uid: int
    flags: frozenset[str]
    content: bytes


class Maildirs:
    """Folders under `root`; `spell` turns a mailbox into the name of its folder, `read` the other way."""

    has_unix_lines = True
    keeps_flags: frozenset[str] | None = SYSTEM_FLAGS

    def __init__(self, root: Path, spell: Callable[[str], str] = str, read: Callable[[str], str] = str) -> None:
        self.root = root
        self.spell = spell
        self.read = read

    def mailboxes(self) -> Iterator[str]:
        """Every mailbox that stands here."""
        for cur in sorted(self.root.glob("**/cur")):
            yield self.read(cur.parent.relative_to(self.root).as_posix())

    def kept(self, mailbox: str) -> dict[str, Kept]:
        """What stands in the mailbox, by the name of the message."""
        found: dict[str, Kept] = {}
        for path in sorted(self._folder(mailbox).glob("[cn][ue][rw]/*")):
            letters = path.name.partition(":2,")[2]
            uid = _UID.search(path.name)
            content = path.read_bytes()
            name = name_of(content)
            assert name not in found, f"{name} stands twice in {mailbox}"
            flags = frozenset(LETTERS[one] for one in letters)
            found[name] = Kept(path, int(uid[1]) if uid else 0, flags, content)
        return found

    def create(self, mailbox: str) -> None:
        """Make the mailbox."""
        for part in ("cur", "new", "tmp"):
            (self._folder(mailbox) / part).mkdir(parents=True)

    def append(self, mailbox: str, name: str, *flags: str) -> None:
        """Put the message in, with the lines of Unix."""
        self._put(mailbox, name, frozenset(flags), MESSAGES[name].replace(b"\r\n", b"\n"))

    def flag(self, mailbox: str, name: str, *flags: str) -> None:
        """Give the file these flags."""
        one = self.kept(mailbox)[name]
        base = one.path.name.partition(":2,")[0]
        letters = _letters((one.flags - SYSTEM_FLAGS) | set(flags))
        one.path.rename(one.path.parent.parent / "cur" / f"{base}:2,{letters}")

    def delete(self, mailbox: str, name: str) -> None:
        """Remove the file."""
        self.kept(mailbox)[name].path.unlink()

    def move(self, mailbox: str, name: str, target: str) -> None:
        """Move the file under a new name: the old one belongs to the synchroniser."""
        one = self.kept(mailbox)[name]
        self._put(target, name, one.flags, one.content)
        one.path.unlink()

    def _put(self, mailbox: str, name: str, flags: frozenset[str], content: bytes) -> None:
        (self._folder(mailbox) / "cur" / f"{name}.local:2,{_letters(flags)}").write_bytes(content)

    def _folder(self, mailbox: str) -> Path:
        return self.root / self.spell(mailbox)


def _letters(flags: frozenset[str]) -> str:
    return "".join(letter for letter, flag in LETTERS.items() if flag in flags)
