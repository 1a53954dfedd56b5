"""The settings file: found, read once, checked whole, written anew.

Refuses to know what a setting is used for. Every refusal is a `SetupError` of one line: file, key, what is wrong,
remedy.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from pochta.config.schema import (
    MIB,
    BareNewline,
    Listener,
    ListenerProtocol,
    ListenerTls,
    Settings,
    Tls,
    fields_of,
    is_loopback,
    split_address,
    struct_of,
)
from pochta.config.sign_in import check_sign_in, check_sign_in_files
from pochta.config.transfer_check import check_transfer, check_transfer_files
from pochta.errors import SetupError

ENVIRONMENT_KEY: Final = "POCHTA_CONFIG"
DEFAULT_PATHS: Final = (Path("pochta.toml"), Path("/etc/pochta/pochta.toml"))

_LMTP_FORBIDDEN_PORT: Final = 25

_PASSWORD_PROTOCOLS: Final = frozenset({ListenerProtocol.SUBMISSION, ListenerProtocol.IMAP, ListenerProtocol.POP3})

_MAX_CONFIG_BYTES: Final = MIB  # a hundred times the longest sensible file: -c /dev/zero must end
_HOSTNAME: Final = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*\Z")


INITIAL_LISTENERS: Final = (
    Listener(protocol=ListenerProtocol.SMTP, address="*:25", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.SUBMISSION, address="*:587", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.SUBMISSION, address="*:465", tls=ListenerTls.IMPLICIT),
    Listener(protocol=ListenerProtocol.IMAP, address="*:143", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.IMAP, address="*:993", tls=ListenerTls.IMPLICIT),
    Listener(protocol=ListenerProtocol.POP3, address="*:110", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.POP3, address="*:995", tls=ListenerTls.IMPLICIT),
)


def find_config(option: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The settings file to use: the option, else $POCHTA_CONFIG, else ./pochta.toml, else /etc/pochta/pochta.toml.

    Raises: SetupError when there is none.
    """
    named = option or (os.environ if environ is None else environ).get(ENVIRONMENT_KEY)
    if named:
        path = Path(named)
        if not path.exists():
            raise SetupError(f"{path}: no such file; make one with `pochta init`, or name another with -c")
        return path
    for path in DEFAULT_PATHS:
        if path.exists():
            return path
    tried = " nor ".join(str(path) for path in DEFAULT_PATHS)
    raise SetupError(f"no settings: neither {tried} exists; make one with `pochta init`, or name it with -c")


def load(path: str | Path, *, check_files: bool = True) -> Settings:
    """The settings in the file, checked, with every path absolute.

    `check_files=False` leaves out the certificate, for commands that never show it.
    Raises: SetupError, one line: file, key, what is wrong, remedy.
    """
    try:
        return _load(Path(path), check_files)
    except SetupError as error:
        raise SetupError("".join(one if one.isprintable() else repr(one)[1:-1] for one in str(error))) from None


def _load(path: Path, check_files: bool) -> Settings:
    raw = _read(path)
    _refuse_unknown(path, raw, Settings, "")
    try:
        settings = msgspec.convert(raw, Settings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise SetupError(_explain(path, str(error))) from None
    settings = _with_absolute_paths(settings, raw, path.absolute().parent)
    _check(path, settings)
    if check_files:
        check_transfer_files(path, settings)
        check_sign_in_files(path, settings.auth, settings.oauth, settings.tls.client_ca)
        if settings.uses_tls:
            _check_readable(path, settings.tls)
    return settings


def encode(settings: Settings) -> bytes:
    """Checked settings as one line of JSON, for a worker: it must not see edits made after its sockets were opened."""
    return msgspec.json.encode(settings, enc_hook=str)


def decode(line: bytes) -> Settings:
    """What `encode` was given."""
    return msgspec.json.decode(line, type=Settings, dec_hook=_decode_path)


def initial_toml(
    hostname: str,
    postmaster: str | None = None,
    *,
    listeners: tuple[Listener, ...] = INITIAL_LISTENERS,
    data_dir: str = "data",
    user: str | None = None,
    workers: int | None = None,
) -> str:
    """The text of a new settings file with these values and the defaults of everything else."""
    values: dict[str, object] = {"hostname": hostname, "postmaster": postmaster, "data_dir": data_dir}
    values |= {"workers": workers, "user": user}
    lines = ["# Settings of Pochta. Every key, its default and the reason: docs/settings.md"]
    lines += [f"{key} = {toml_value(value)}" for key, value in values.items() if value is not None]
    for one in listeners:
        lines += [
            "",
            "[[listener]]",
            f"protocol = {toml_value(one.protocol.value)}",
            f"address = {toml_value(one.address)}",
        ]
        lines.append(f"tls = {toml_value(one.tls.value)}")
        if one.allow_plaintext_auth:
            lines.append("allow_plaintext_auth = true")
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """A text, number or boolean as it is written in the file."""
    # JSON strings and integers are TOML too; only DEL is legal in the one and not in the other.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _decode_path(wanted: type, value: object) -> Path:
    # msgspec has no Path of its own and asks here for each; its bad-type message comes from the exception's text.
    if wanted is not Path or not isinstance(value, str) or not value:
        raise ValueError(
            f"Expected `str`, got `{type(value).__name__}`" if value != "" else "Expected a path, got nothing"
        )
    return Path(value)


def _read(path: Path) -> dict[str, Any]:  # Any: TOML of the administrator's making, not checked yet
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file; make one with `pochta init`, or name another with -c") from None
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); check its path and permissions") from None
    if len(data) > _MAX_CONFIG_BYTES:
        raise SetupError(f"{path}: larger than 1 MiB; this is not a settings file")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SetupError(f"{path}: line {line} is not UTF-8; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise SetupError(f"{path}: not TOML: {error}; correct that line") from None


def _refuse_unknown(path: Path, raw: Mapping[str, Any], struct: type[Struct], where: str) -> None:
    known = fields_of(struct)
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            remedy = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(sorted(known))}"
            raise SetupError(f"{path}: {where}{key}: no such setting; {remedy}")
        inner = struct_of(known[key][0])
        if inner is None:
            continue
        if isinstance(value, Mapping):
            _refuse_unknown(path, value, inner, f"{where}{key}.")
        elif isinstance(value, list):
            for number, one in enumerate(value, 1):
                if isinstance(one, Mapping):
                    _refuse_unknown(path, one, inner, f"{key} {number}: ")


_REASON: Final = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?\Z", re.DOTALL)
_TYPE_NAMES: Final = {
    "str": "a text in quotes",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list of tables, [[listener]]",
    "object": "a table",
    "float": "a number with a point",
    "dict": "a table",
    "null": "nothing",
}


_ENUMS: Final[dict[str, type[StrEnum]]] = {
    "protocol": ListenerProtocol,
    "tls": ListenerTls,
    "bare_newline": BareNewline,
}


def _explain(path: Path, message: str) -> str:
    """One line from msgspec's message: `Expected `int`, got `str` - at `$.limits.recipients``."""
    match = _REASON.match(message)
    what, where = (match["what"], match["where"] or "") if match else (message, "")
    where = re.sub(r"\[(\d+)\]\.?", lambda found: f" {int(found[1]) + 1}: ", where).strip(" :")
    missing = re.match(r"Object missing required field `(\w+)`", what)
    if missing:
        at = f"{where}: " if where else ""
        return f'{path}: {at}{missing[1]}: missing; add the line {missing[1]} = "…"'
    invalid = re.match(r"Invalid enum value (.*)", what, re.DOTALL)
    if invalid:
        allowed = list(_ENUMS.get(where.rpartition(" ")[2].rpartition(".")[2], ListenerProtocol))
        given = invalid[1].strip("'")
        near = difflib.get_close_matches(given, allowed, n=1)
        remedy = f'did you mean "{near[0]}"?' if near else f"write one of {', '.join(allowed)}"
        return f'{path}: {where}: "{given}" is not known; {remedy}'
    what = re.sub(r"`(\w+)(?: \| null)?`", lambda found: _TYPE_NAMES.get(found[1], found[1]), what)
    what = what.replace(" >= ", " of at least ").replace(" <= ", " of at most ")
    return f"{path}: {where}: {what[:1].lower()}{what[1:]}; see docs/settings.md"


def _with_absolute_paths(settings: Settings, raw: Mapping[str, Any], base: Path) -> Settings:
    data_dir = base / settings.data_dir
    given = raw.get("tls", {})
    tls = Tls(
        certificate=(base if "certificate" in given else data_dir) / settings.tls.certificate,
        key=(base if "key" in given else data_dir) / settings.tls.key,
        client_ca=None if settings.tls.client_ca is None else base / settings.tls.client_ca,
    )
    auth, oauth = settings.auth, settings.oauth
    if auth.keytab is not None:
        auth = msgspec.structs.replace(auth, keytab=base / auth.keytab)
    if oauth.ca_file is not None:
        oauth = msgspec.structs.replace(oauth, ca_file=base / oauth.ca_file)
    routes = tuple(
        one if one.password_file is None else msgspec.structs.replace(one, password_file=base / one.password_file)
        for one in settings.routes
    )
    outbound = settings.outbound
    if outbound.ca_file is not None:
        outbound = msgspec.structs.replace(outbound, ca_file=base / outbound.ca_file)
    return msgspec.structs.replace(
        settings, data_dir=data_dir, tls=tls, routes=routes, outbound=outbound, auth=auth, oauth=oauth
    )


def _check(path: Path, settings: Settings) -> None:
    if not _HOSTNAME.match(settings.hostname):
        raise SetupError(f'{path}: hostname: "{settings.hostname}" is not a host name; write it as "mail.example.org"')
    if settings.postmaster is not None and not re.match(r"[^@\s]+@[^@\s]+\Z", settings.postmaster):
        raise SetupError(
            f'{path}: postmaster: "{settings.postmaster}" is not an address; write it as "admin@example.org"'
        )
    for address in settings.administrators:
        if not re.match(r"[^@\s]+@[^@\s]+\Z", address):
            raise SetupError(f'{path}: administrators: "{address}" is not an address; write it as "admin@example.org"')
    for network in settings.smtp.bare_newline_exempt:
        try:
            ip_network(network)
        except ValueError as error:
            raise SetupError(
                f'{path}: smtp.bare_newline_exempt: "{network}" is no network ({error}); write it as "192.0.2.0/24"'
            ) from None
    check_transfer(path, settings)
    check_sign_in(path, settings.auth, settings.oauth)
    for number, one in enumerate(settings.listeners, 1):
        _check_listener(path, f"listener {number}", one)
    taken: dict[int, list[tuple[str, int]]] = {}
    for number, one in enumerate(settings.listeners, 1):
        host, port = split_address(one.address)
        if not port:
            continue
        for other, earlier in taken.get(port, []):
            if _overlap(host, other):
                raise SetupError(
                    f'{path}: listener {number}: address "{one.address}" is already taken by listener {earlier};'
                    " give each its own port"
                )
        taken.setdefault(port, []).append((host, number))


def _check_listener(path: Path, where: str, one: Listener) -> None:
    try:
        host, port = split_address(one.address)
    except ValueError as error:
        raise SetupError(f'{path}: {where}: address "{one.address}" {error}') from None
    if one.protocol is ListenerProtocol.METRICS and (not is_loopback(host) or one.tls is not ListenerTls.NONE):
        raise SetupError(
            f'{path}: {where}: "metrics" asks for no password; listen on "127.0.0.1:9180", with tls = "none"'
        )
    if one.protocol is ListenerProtocol.LMTP and port == _LMTP_FORBIDDEN_PORT:
        # RFC 2033 §5: LMTP must not be spoken on port 25
        raise SetupError(f'{path}: {where}: "lmtp" may not use port 25; the usual one is "127.0.0.1:24"')
    if one.protocol is ListenerProtocol.LMTP and host == "*":
        raise SetupError(
            f'{path}: {where}: "lmtp" asks for no password; listen on "127.0.0.1:24", or on the address that the mail'
            " system in front reaches"
        )
    if one.allow_plaintext_auth and not is_loopback(host):
        raise SetupError(
            f"{path}: {where}: allow_plaintext_auth would let others read passwords sent to {one.address};"
            ' remove it, or listen on "127.0.0.1"'
        )
    if one.protocol in _PASSWORD_PROTOCOLS and one.tls is ListenerTls.NONE and not is_loopback(host):
        raise SetupError(
            f"{path}: {where}: nobody could sign in at {one.address}, for passwords need TLS there;"
            ' write tls = "starttls" or "implicit"'
        )


def _check_readable(path: Path, tls: Tls) -> None:
    # Whether the two belong together is net/tls.py's to say, when the listeners are opened: no ssl in this leaf.
    for key, file in (("certificate", tls.certificate), ("key", tls.key)):
        try:
            file.open("rb").close()
        except OSError as error:
            remedy = (
                "make a pair with `pochta init`" if isinstance(error, FileNotFoundError) else "correct its permissions"
            )
            raise SetupError(
                f"{path}: tls.{key}: {file} cannot be read ({error.strerror}); {remedy}, or name another file"
            ) from None


def _overlap(host: str, other: str) -> bool:
    """Whether two addresses cannot both be bound on one port."""
    if host == other or "*" in (host, other):
        return True
    first, second = ip_address(host), ip_address(other)
    return first.version == second.version and (first.is_unspecified or second.is_unspecified)
