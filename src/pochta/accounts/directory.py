"""Where mail for an address goes: recipient -> accounts here, addresses elsewhere.

The order at each local address: exact account, exact alias, then the same without `+detail`, then postmaster, then the
domain's catch-all. Aliases and catch-alls are followed through each other up to MAX_ALIAS_HOPS; a circle among them is
cut and reported. A recipient of a domain that is not kept here is refused at once: whoever may send on decides that.

Postmaster, which RFC 5321 §4.5.1 wants at every domain and bare: an account or alias of that name; else the
`postmaster` setting, where it leads to somebody; else the oldest account of the domain; else the oldest of the server.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.address import Address, AddressError, address_key, split_detail
from pochta.store import directory
from pochta.store.tx import Tx

MAX_ALIAS_HOPS: Final = 10  # nobody nests deeper on purpose
MAX_RECIPIENTS: Final = 1000  # distinct addresses one recipient may grow into; the default of `limits.recipients`
RETRY_S: Final = 3600.0

_POSTMASTER: Final = "postmaster"

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one recipient stands for.

    `remotes` are addresses at domains elsewhere, `broken` targets that name nobody here, `loops` aliases that lead back
    to themselves. `detail` is the part behind `+` when it was needed to find somebody, else None.
    """

    accounts: tuple[int, ...]
    remotes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    detail: str | None = None


def resolve(tx: Tx, address: Address, postmaster: str | None = None) -> Resolution:
    """Who gets mail for `address` (`POSTMASTER` for the bare one); `postmaster` is the setting.

    One statement for an account; two for an alias, and one for each of its targets.

    Raises:
        Refusal: NO_SUCH_USER; NOT_LOCAL, the domain is not kept here; LIMIT, its aliases nest too deep or are too many.
        TryLater: mail for postmaster, and the server has no account yet.
    """
    resolution = trace(tx, address, postmaster)
    if not resolution.accounts and not resolution.remotes:
        detail = f"loops: {' '.join(resolution.loops)}" if resolution.loops else ""
        raise Refusal(RefusalCode.NO_SUCH_USER, "there is no such user here", detail)
    return resolution


def trace(tx: Tx, address: Address, postmaster: str | None = None) -> Resolution:
    """As `resolve`, but nobody found is an answer: for those who want to know why.

    Raises:
        Refusal: NOT_LOCAL, LIMIT.
        TryLater: as `resolve`.
    """
    walk = _Walk(tx, postmaster)
    if address.domain:
        local_part, domain = address.key
        walk.visit(str(address), (local_part, domain), ())
        if walk.remotes:
            raise Refusal(RefusalCode.NOT_LOCAL, "this server keeps no mail for that domain")
    else:
        domain = directory.NOWHERE
        walk.visit_postmaster((_POSTMASTER, domain), ())
    walk.run()
    if walk.is_postmaster and not walk.accounts and not walk.remotes:
        oldest = directory.oldest_account(tx, domain)
        if oldest is None:
            # RFC 5321 §4.5.1: mail for postmaster is never refused for good.
            raise TryLater("this server has no accounts yet", RETRY_S)
        walk.accounts[oldest] = None
    detail = split_detail(address.local_part)[1] if walk.uses_detail else None
    return Resolution(tuple(walk.accounts), tuple(walk.remotes), tuple(walk.broken), tuple(walk.loops), detail)


def owns(tx: Tx, account_id: int, address: Address, postmaster: str | None = None) -> bool:
    """Whether the account may write as `address`: mail for it comes to the account, by itself or with others."""
    try:
        return account_id in trace(tx, address, postmaster).accounts
    except (Refusal, TryLater):
        return False


@dataclass(slots=True)
class _Walk:
    """The way from one recipient to its targets, breadth first; dicts serve as ordered sets."""

    tx: Tx
    postmaster: str | None
    accounts: dict[int, None] = field(default_factory=dict)
    remotes: dict[str, None] = field(default_factory=dict)
    broken: dict[str, None] = field(default_factory=dict)
    loops: dict[str, None] = field(default_factory=dict)
    uses_detail: bool = False
    is_postmaster: bool = False
    _waiting: list[tuple[str, tuple[Key, ...]]] = field(default_factory=list)
    _seen: set[Key] = field(default_factory=set)

    def run(self) -> None:
        """Follow every target until none waits."""
        for text, path in _taken(self._waiting):
            try:
                key = address_key(text)
            except AddressError:
                self.broken[text] = None  # only another program can have stored it
                continue
            if key in path:
                self.loops[text] = None
            elif key not in self._seen:
                self.visit(text, key, path)

    def visit(self, text: str, key: Key, path: tuple[Key, ...]) -> None:
        """Note where `key` leads; `path` are the aliases that led to it."""
        self._seen.add(key)
        if len(self._seen) > MAX_RECIPIENTS:
            raise Refusal(RefusalCode.LIMIT, f"more than {MAX_RECIPIENTS} addresses behind one", f"at {text}")
        local_part, domain = key
        found = directory.lookup(self.tx, domain, local_part)
        if found is None:
            self.remotes[text] = None
            return
        if self._take(found, key, path):
            return
        user, detail = split_detail(local_part)
        if detail is not None:
            plain = directory.lookup(self.tx, domain, user)
            if plain is not None and self._take(plain, key, path):
                self.uses_detail = self.uses_detail or not path
                return
        if user == _POSTMASTER:
            self.visit_postmaster(key, path)
        elif found.catch_all is not None:
            self._follow([found.catch_all], key, path)
        else:
            self.broken[text] = None

    def visit_postmaster(self, key: Key, path: tuple[Key, ...]) -> None:
        """Go on with the setting; `resolve` takes the oldest account should that lead nowhere."""
        self.is_postmaster = True
        if self.postmaster is not None:
            self._follow([self.postmaster], key, path)

    def _take(self, found: directory.Found, key: Key, path: tuple[Key, ...]) -> bool:
        if found.account_id is not None:
            self.accounts[found.account_id] = None
        elif found.alias_id is not None:
            self._follow(directory.targets_of(self.tx, found.alias_id), key, path)
        return found.account_id is not None or found.alias_id is not None

    def _follow(self, targets: list[str], key: Key, path: tuple[Key, ...]) -> None:
        if len(path) >= MAX_ALIAS_HOPS:
            named = " -> ".join("@".join(one) for one in (*path, key))
            raise Refusal(RefusalCode.LIMIT, f"more than {MAX_ALIAS_HOPS} aliases in a row", named)
        longer = (*path, key)
        self._waiting += [(target, longer) for target in targets]


def _taken(waiting: list[tuple[str, tuple[Key, ...]]]) -> Iterator[tuple[str, tuple[Key, ...]]]:
    """The items first to last, with those that come in meanwhile."""
    position = 0
    while position < len(waiting):
        yield waiting[position]
        position += 1
