"""What a file for `pochta apply` declares, read and checked whole before anything is touched.

    [[domain]]   name, catch_all          [[account]]  address, password or password_hash, quota, enabled,
    [[alias]]    address, targets                            quota_messages, quota_mailboxes, shared
    [[share]]    address, mailbox, who, rights, deny

Every refusal is a `SetupError` of one line: file, table, key, what is wrong, remedy; none shows a password.
"""

import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pochta.accounts import edit, passwords, sharing
from pochta.accounts.quota import NO_QUOTA, parse_number, parse_quota
from pochta.errors import Refusal, RefusalCode, SetupError
from pochta.log import Secret
from pochta.store.access import ANYBODY
from pochta.store.mailboxes import DELIMITER, split_path
from pochta.store.rights import Edit, letters_of

MAX_FILE_BYTES: Final = 64 * 1024 * 1024  # some 300 000 accounts with their hashes
NONE: Final = "none"

Key = tuple[str, str]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class DeclaredDomain:
    """`catch_all`: an address, `""` for none, None where the file does not say."""

    name: str
    key: str
    catch_all: str | None


@dataclass(frozen=True, slots=True)
class DeclaredAccount:
    """At most one of password and hash; quotas and `is_enabled` None where the file does not say.

    `is_shared`: nobody signs in, and so no password is needed.
    """

    address: str
    key: Key
    password: Secret | None
    password_hash: str | None = field(repr=False)
    quota_bytes: int | None
    is_enabled: bool | None
    quota_messages: int | None = None
    quota_mailboxes: int | None = None
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class DeclaredAlias:
    """`targets` as they are stored, sorted."""

    address: str
    key: Key
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredShare:
    """What `whom` may do in `mailbox` of the account; of EVERY_MAILBOX, in those that no other share of theirs names.

    Rights as letters, whole: what is not among `granted` or `denied` is neither.
    """

    address: str
    key: Key
    mailbox: str
    whom: str
    whom_key: Key | None  # None: anyone
    granted: str
    denied: str


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole file, each list by key; shares by account, mailbox and whom."""

    source: str
    domains: dict[str, DeclaredDomain]
    accounts: dict[Key, DeclaredAccount]
    aliases: dict[Key, DeclaredAlias]
    shares: dict[tuple[Key, str, Key | None], DeclaredShare]

    @property
    def owners(self) -> tuple[Key, ...]:
        """Of whose mailboxes it declares shares."""
        return tuple({key for key, _, _ in self.shares})


def read(path: Path) -> Declaration:
    """What the file declares.

    Raises:
        SetupError: it cannot be read, or something in it is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); check its path and permissions") from None
    if len(data) > MAX_FILE_BYTES:
        raise SetupError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; split it")
    try:
        return parse(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SetupError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None


def parse(text: str, source: str) -> Declaration:
    """What `text` declares; `source` names it in refusals.

    Raises:
        SetupError: something in it is wrong.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{source}: not TOML: {error}; correct that line") from None
    except RecursionError:
        known = ", ".join(f"[[{name}]]" for name in _KEYS)
        raise SetupError(f"{source}: nested too deep; known are {known}") from None
    for name in raw:
        if name not in _KEYS:
            raise SetupError(f"{source}: {name}: no such table; {_remedy(name, tuple(_KEYS))}")
    made = Declaration(source, {}, {}, {}, {})
    for table in _tables(raw, "domain", source):
        domain = _domain(table)
        _put(made.domains, domain.key, domain, f"{table.where}: name")
    for table in _tables(raw, "account", source):
        account = _account(table)
        _put(made.accounts, account.key, account, f"{table.where}: address")
    for table in _tables(raw, "alias", source):
        alias = _alias(table)
        if alias.key in made.accounts:
            raise SetupError(f"{table.where}: address: {alias.address} is an account too; remove one of the two")
        _put(made.aliases, alias.key, alias, f"{table.where}: address")
    for table in _tables(raw, "share", source):
        share = _share(table)
        _put(made.shares, (share.key, share.mailbox, share.whom_key), share, f"{table.where}: who")
    return made


_KEYS: Final = {
    "domain": ("name", "catch_all"),
    "account": (
        "address",
        "password",
        "password_hash",
        "quota",
        "enabled",
        "quota_messages",
        "quota_mailboxes",
        "shared",
    ),
    "alias": ("address", "targets"),
    "share": ("address", "mailbox", "who", "rights", "deny"),
}


@dataclass(frozen=True, slots=True)
class _Table:
    """One table of the file, with where it stands for refusals."""

    where: str
    values: dict[str, Any]  # Any: TOML of the administrator's making

    def text(self, key: str) -> str | None:
        """The text under `key`, None where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise SetupError(f'{self.where}: {key}: not a text; write it in quotes, {key} = "…"')
        return value

    def required(self, key: str) -> str:
        """The text under `key`."""
        value = self.text(key)
        if value is None:
            raise SetupError(f'{self.where}: {key}: missing; add the line {key} = "…"')
        return value

    def truth(self, key: str) -> bool | None:
        """The truth value under `key`, None where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise SetupError(f"{self.where}: {key}: neither true nor false; write {key} = false, without quotes")
        return value

    def refused(self, key: str, refusal: Refusal) -> SetupError:
        """What to raise for a value that was refused."""
        return SetupError(f"{self.where}: {key}: {refusal.text}")


def _tables(raw: dict[str, Any], name: str, source: str) -> list[_Table]:
    tables = raw.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise SetupError(f"{source}: {name}: not a list of tables; write each as [[{name}]]")
    made = [_Table(f"{source}: {name} {number}", values) for number, values in enumerate(tables, 1)]
    for table in made:
        for key in table.values:
            if key not in _KEYS[name]:
                raise SetupError(f"{table.where}: {key}: no such key; {_remedy(key, _KEYS[name])}")
    return made


def _remedy(given: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(given, known, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"


def _put(into: dict[K, V], key: K, value: V, where: str) -> None:
    if key in into:
        raise SetupError(f"{where}: declared before; remove one of the two")
    into[key] = value


def _domain(table: _Table) -> DeclaredDomain:
    name = table.required("name")
    catch_all = table.text("catch_all")
    try:
        key = edit.domain_key(name)
    except Refusal as refusal:
        raise table.refused("name", refusal) from None
    if catch_all is not None:
        try:
            catch_all = "" if catch_all == NONE else edit.target(catch_all)
        except Refusal as refusal:
            raise table.refused("catch_all", refusal) from None
    return DeclaredDomain(name, key, catch_all)


def _account(table: _Table) -> DeclaredAccount:
    address = table.required("address")
    password, password_hash = table.text("password"), table.text("password_hash")
    if password is not None and password_hash is not None:
        raise SetupError(f"{table.where}: password_hash: stands beside password; keep one of the two")
    field = "address"
    try:
        key = edit.key(address)
        field = "password_hash"
        stored = None if password_hash is None else passwords.check_hash(password_hash)
        field = "password"
        if password is not None:
            passwords.check_password(Secret(password))
        field = "quota"
        quota = _quota(table)
        field = "quota_messages"
        messages = _number(table, field)
        field = "quota_mailboxes"
        mailboxes = _number(table, field)
    except Refusal as refusal:
        raise table.refused(field, refusal) from None
    secret = None if password is None else Secret(password)
    is_shared = table.truth("shared") is True
    if is_shared and (secret is not None or stored is not None or table.truth("enabled")):
        raise SetupError(f"{table.where}: shared: nobody signs in to a shared account; remove password and enabled")
    return DeclaredAccount(address, key, secret, stored, quota, table.truth("enabled"), messages, mailboxes, is_shared)


def _number(table: _Table, key: str) -> int | None:
    value = table.values.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return NO_QUOTA if value == 0 else parse_number(str(value))
    text = table.text(key)
    return None if text is None else parse_number(text)


def _quota(table: _Table) -> int | None:
    value = table.values.get("quota")
    if isinstance(value, int) and not isinstance(value, bool):
        return NO_QUOTA if value == 0 else parse_quota(str(value))
    text = table.text("quota")
    return None if text is None else parse_quota(text)


def _alias(table: _Table) -> DeclaredAlias:
    address = table.required("address")
    targets = table.values.get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(one, str) for one in targets):
        raise SetupError(f'{table.where}: targets: not a list of addresses; write it as targets = ["user@example.org"]')
    field = "address"
    try:
        key = edit.key(address)
        field = "targets"
        stored = tuple(edit.targets(targets))
    except Refusal as refusal:
        raise table.refused(field, refusal) from None
    return DeclaredAlias(address, key, stored)


def _share(table: _Table) -> DeclaredShare:
    address, mailbox, whom = table.required("address"), table.required("mailbox"), table.required("who")
    field = "address"
    try:
        key = edit.key(address)
        field = "mailbox"
        if mailbox != sharing.EVERY_MAILBOX:
            mailbox = DELIMITER.join(split_path(mailbox))
        field = "who"
        whom_key = None if whom == ANYBODY else edit.key(whom)
        field = "rights"
        granted = _letters(table, field)
        field = "deny"
        denied = _letters(table, field)
    except Refusal as refusal:
        raise table.refused(field, refusal) from None
    if not granted and not denied:
        raise SetupError(f'{table.where}: rights: missing; add the line rights = "read", or deny = "…"')
    if whom_key == key:
        raise SetupError(f"{table.where}: who: the owner has all rights; name somebody else, or remove the table")
    return DeclaredShare(address, key, mailbox, whom, whom_key, granted, denied)


def _letters(table: _Table, key: str) -> str:
    """The rights under `key`, as letters."""
    edited, found = sharing.parse_rights(table.text(key) or "")
    if edited is not Edit.REPLACE:
        raise Refusal(RefusalCode.INVALID_NAME, "a sign is for changes; write all the rights there are to be")
    return letters_of(found)
