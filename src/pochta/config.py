"""The settings: one TOML file, read once, checked whole, and frozen.

Decides which keys exist, their defaults, bounds and the reason for each (`config_page` makes `docs/settings.md` of
them). Refuses to know what a setting is used for. Every refusal is a `SetupError` of one line: file, key, what is
wrong, remedy.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from pochta.errors import SetupError

ENVIRONMENT_KEY: Final = "POCHTA_CONFIG"
DEFAULT_PATHS: Final = (Path("pochta.toml"), Path("/etc/pochta/pochta.toml"))

KIB: Final = 1024
MIB: Final = 1024 * KIB
PIB: Final = 1024**3 * MIB  # more than a machine has: bounds that only keep slips of the keyboard out
DAY_S: Final = 86_400

_MAX_CONFIG_BYTES: Final = MIB  # a hundred times the longest sensible file: -c /dev/zero must end
_HOSTNAME: Final = re.compile(r"(?=.{1,255}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*\Z")
_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})\Z")


class ListenerProtocol(StrEnum):
    """What a listener speaks."""

    SMTP = "smtp"
    SUBMISSION = "submission"
    IMAP = "imap"
    POP3 = "pop3"
    LMTP = "lmtp"
    METRICS = "metrics"


SERVED_PROTOCOLS: Final = frozenset({ListenerProtocol.SMTP, ListenerProtocol.IMAP, ListenerProtocol.METRICS})


class ListenerTls(StrEnum):
    """How a listener uses TLS: never, when the peer asks, or from the first byte."""

    NONE = "none"
    STARTTLS = "starttls"
    IMPLICIT = "implicit"


class Listener(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port to listen on; repeat the table for each."""

    protocol: Annotated[ListenerProtocol, Meta(description="What is spoken on this port.")]
    address: Annotated[
        str,
        Meta(
            description="IP address and port: `127.0.0.1:2525`, `[::1]:2525`, or `*:25` for every address of the"
            " machine, IPv4 and IPv6. Port 0 lets the system choose one."
        ),
    ]
    tls: Annotated[
        ListenerTls,
        Meta(description="`none`, `starttls` (the peer may ask for it), or `implicit` (from the first byte)."),
    ] = ListenerTls.NONE
    allow_plaintext_auth: Annotated[
        bool,
        Meta(description="Accept passwords without TLS. Only on a loopback address: elsewhere others could read them."),
    ] = False

    @property
    def host(self) -> str:
        """The IP address, without brackets, or `*`."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port; 0 when the system chooses."""
        return split_address(self.address)[1]


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The certificate that every listener shows."""

    certificate: Annotated[
        Path, Meta(description="PEM file with the certificate, followed by its chain; relative to this file.")
    ] = Path("tls/certificate.pem")
    key: Annotated[
        Path, Meta(description="PEM file with its private key, without passphrase; relative to this file.")
    ] = Path("tls/key.pem")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one peer, one worker or the whole server may use."""

    message_size_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=2**31 - 1,
            description="Largest message accepted. 50 MiB carries a 36 MB attachment in base64, above what the large"
            " providers send (25 to 35 MB). RFC 5321 §4.5.3.1.7: never under 64 KiB.",
        ),
    ] = 50 * MIB
    recipients: Annotated[
        int,
        Meta(
            ge=100,
            le=100_000,
            description="Recipients of one message. RFC 5321 §4.5.3.1.8: never under 100; 1000 is Postfix's default.",
        ),
    ] = 1000
    hops: Annotated[
        int,
        Meta(
            ge=100,
            le=1000,
            description="Received fields above which a message is taken to run in a circle."
            " RFC 5321 §6.3: never under 100.",
        ),
    ] = 100
    connections: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections, all workers together; each worker takes an equal share."
            " 10000 idle TLS connections need about 0.4 GB.",
        ),
    ] = 10_000
    connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections from one IPv4 address or one IPv6 /64, counted by each worker; loopback is"
            " exempt. 50 serves an office of ten people with five IMAP connections each behind one address.",
        ),
    ] = 50
    command_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long SMTP waits for the next command. RFC 5321 §4.5.3.2.7: at least 5 minutes.",
        ),
    ] = 300
    data_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long SMTP waits for the next block of a message; starts again with each block."
            " RFC 5321 §4.5.3.2.5 gives a sender 3 minutes per block; 5 leave room for one retransmission.",
        ),
    ] = 300
    login_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long IMAP waits for a peer that has not signed in. A person who types the classic"
            " dialogue by hand needs most of a minute; RFC 9051 §5.4 bounds only the time after sign-in.",
        ),
    ] = 60
    idle_timeout_s: Annotated[
        int,
        Meta(
            ge=1800,
            le=30 * DAY_S,
            description="How long IMAP waits for a peer that has signed in. RFC 9051 §5.4: at least 30 minutes; one"
            " minute more spares clients that renew IDLE at exactly 30.",
        ),
    ] = 1860
    write_timeout_s: Annotated[
        int,
        Meta(
            ge=1,
            le=DAY_S,
            description="How long a peer may leave our output unread before it is dropped. Two minutes outlast a"
            " change of network.",
        ),
    ] = 120
    min_free_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=PIB,
            description="Free space under data_dir below which no new mail is taken (452). 512 MiB is ten of the"
            " largest messages, and room to work for the store's own log.",
        ),
    ] = 512 * MIB
    spool_memory_bytes: Annotated[
        int,
        Meta(
            ge=MIB,
            le=PIB,
            description="Messages being received that a worker keeps in memory; above it, and above 1 MiB per message,"
            " they go to disk. 64 MiB is 64 messages at once.",
        ),
    ] = 64 * MIB
    view_memory_bytes: Annotated[
        int,
        Meta(
            ge=MIB,
            le=PIB,
            description="Views of selected mailboxes that a worker keeps, least used dropped first. A message takes"
            " 12 bytes, and 100 with the lines that were made of it, so 128 MiB hold at least 1.3 million.",
        ),
    ] = 128 * MIB
    retention_s: Annotated[
        int,
        Meta(
            ge=3600,
            le=3650 * DAY_S,
            description="How long removed messages are kept for undelete and for peers that still see them. Seven days"
            " cover a week's holiday; never under 1 hour, so that no open session loses bytes.",
        ),
    ] = 7 * DAY_S
    auth_queue: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Sign-ins that wait in a worker for a password check; more are told to try later. Two threads"
            " check 80 a second, so 256 wait about 3 seconds.",
        ),
    ] = 256
    auth_failures_per_connection: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="Failed sign-ins after which a connection is closed. Three typing errors, and two more.",
        ),
    ] = 5


def default_workers() -> int:
    """The number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))  # what a container or taskset leaves us
    return os.cpu_count() or 1


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings; paths are absolute once `load` has returned them."""

    hostname: Annotated[
        str,
        Meta(description="The server's full name as the world knows it: greeting, Received, Message-ID, certificate."),
    ]
    postmaster: Annotated[
        str | None,
        Meta(
            description="Address that gets the mail for postmaster at every domain and for `<postmaster>`, where no"
            " account or alias of that name exists (RFC 5321 §4.5.1)."
        ),
    ] = None
    data_dir: Annotated[Path, Meta(description="Where everything is kept; relative to this file.")] = Path("data")
    workers: Annotated[
        int,
        Meta(
            ge=1, le=1024, description="Worker processes. Any worker serves any account; more than cores gain nothing."
        ),
    ] = field(default_factory=default_workers)
    user: Annotated[
        str | None,
        Meta(
            description="System user to become once the ports are open. It must own data_dir and be able to"
            " read the key."
        ),
    ] = None
    tls: Tls = Tls()
    listeners: tuple[Listener, ...] = field(default=(), name="listener")
    limits: Limits = Limits()

    @property
    def uses_tls(self) -> bool:
        """Whether any listener needs the certificate."""
        return any(one.tls is not ListenerTls.NONE for one in self.listeners)


INITIAL_LISTENERS: Final = (
    Listener(protocol=ListenerProtocol.SMTP, address="*:25", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.IMAP, address="*:143", tls=ListenerTls.STARTTLS),
    Listener(protocol=ListenerProtocol.IMAP, address="*:993", tls=ListenerTls.IMPLICIT),
)


def split_address(address: str) -> tuple[str, int]:
    """Host (an IP address without brackets, or `*`) and port of `host:port`.

    Raises: ValueError with the reason; the writer of the settings acts.
    """
    match = _ADDRESS.match(address)
    if match is None:
        raise ValueError('is not an address and a port; write it as "127.0.0.1:25", "[::1]:25" or "*:25"')
    v6, other, digits = match.groups()
    port = int(digits)
    if port > 65535:
        raise ValueError(f"has port {port}; ports end at 65535")
    if other == "*":
        return "*", port
    try:
        parsed = IPv6Address(v6) if v6 is not None else IPv4Address(other)
    except ValueError:
        hint = ' (for this machine alone: "127.0.0.1")' if other == "localhost" else ""
        raise ValueError(
            f'names "{v6 or other}", which is not an IP address{hint}; write one, or "*" for all'
        ) from None
    return str(parsed), port


def is_loopback(host: str) -> bool:
    """Whether an IP address in text (or `*`) can only be reached from this machine."""
    return host != "*" and ip_address(host).is_loopback


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
    if check_files and settings.uses_tls:
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


def fields_of(struct: type[Struct]) -> dict[str, tuple[Any, str]]:  # Any: a type form
    """Key in the file to its type and its attribute, in order."""
    hints = get_type_hints(struct, include_extras=True)
    return {one.encode_name: (hints[one.name], one.name) for one in msgspec.structs.fields(struct)}


def struct_of(hint: Any) -> type[Struct] | None:  # Any: a type form
    """The table that a key of this type holds, or holds a list of; None: a plain value."""
    for one in (hint, *get_args(hint)):
        if isinstance(one, type) and issubclass(one, Struct):
            return one
    return None


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
        allowed = list(ListenerTls) if where.endswith("tls") else [x for x in ListenerProtocol if x in SERVED_PROTOCOLS]
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
    )
    return msgspec.structs.replace(settings, data_dir=data_dir, tls=tls)


def _check(path: Path, settings: Settings) -> None:
    if not _HOSTNAME.match(settings.hostname):
        raise SetupError(f'{path}: hostname: "{settings.hostname}" is not a host name; write it as "mail.example.org"')
    if settings.postmaster is not None and not re.match(r"[^@\s]+@[^@\s]+\Z", settings.postmaster):
        raise SetupError(
            f'{path}: postmaster: "{settings.postmaster}" is not an address; write it as "admin@example.org"'
        )
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
    if one.protocol not in SERVED_PROTOCOLS:
        raise SetupError(
            f'{path}: {where}: protocol "{one.protocol}" is not served by this version yet; remove this [[listener]]'
        )
    try:
        host, _ = split_address(one.address)
    except ValueError as error:
        raise SetupError(f'{path}: {where}: address "{one.address}" {error}') from None
    if one.protocol is ListenerProtocol.METRICS and (not is_loopback(host) or one.tls is not ListenerTls.NONE):
        raise SetupError(
            f'{path}: {where}: "metrics" asks for no password; listen on "127.0.0.1:9180", with tls = "none"'
        )
    if one.allow_plaintext_auth and not is_loopback(host):
        raise SetupError(
            f"{path}: {where}: allow_plaintext_auth would let others read passwords sent to {one.address};"
            ' remove it, or listen on "127.0.0.1"'
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
