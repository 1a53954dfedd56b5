"""Which DNS records a domain needs, and why. Pure: nothing is asked.

Decides the values and what is said beside them. Refuses to know what stands in DNS (`cli/dns_check.py`).
Names are A-labels in lower case without the final dot; `Needed.data` is written as a zone file has it.

Source: RFC 5321 §5 (MX), RFC 7208 (SPF), RFC 6376 §3.6.2 (DKIM), RFC 9989 (DMARC), RFC 6186 and RFC 8314 §5.1 (SRV).
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from textwrap import wrap
from typing import Final, NamedTuple

from pochta.accounts.signing import Record
from pochta.config import Listener, ListenerProtocol, ListenerTls, is_loopback
from pochta.store.dkim_keys import OVERLAP_S

STRING_MAX_BYTES: Final = 255  # RFC 1035 §3.3.14: a TXT record is made of strings of so many octets at most
MX_PREFERENCE: Final = 10  # leaves room for a better and a worse one
COMMENT_COLUMNS: Final = 90
LATER: Final = "MTA-STS, TLSRPT, DANE and autoconfig are not supported by this version; publish nothing for them yet."


class Purpose(StrEnum):
    """What a record is for, and so how it is compared."""

    MX = "mx"
    ADDRESS = "address"
    REVERSE = "reverse"
    SPF = "spf"
    HELLO_SPF = "hello_spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    CLIENTS = "clients"


class Needed(NamedTuple):
    """One record. `kind`: as DNS calls it. `text`: of a TXT record, unsplit. `is_required`: mail suffers without it.

    `note`: what a person should know of this very record. `key_state` and `selector`: of a DKIM key.
    ADDRESS and REVERSE have no data: only whoever runs the machine knows its addresses.
    """

    purpose: Purpose
    name: str
    kind: str
    data: str
    text: str = ""
    is_required: bool = True
    note: str = ""
    selector: str = ""
    key_state: str = ""


_WHY: Final = {
    Purpose.MX: "Mail for {domain} goes to {hostname}.",
    Purpose.ADDRESS: (
        "{hostname} itself needs an address (A, AAAA, or both; no CNAME), and each of its addresses a reverse name"
        " (PTR) that is {hostname}: large providers refuse mail from an address without. The reverse name is set by"
        " whoever gave you the address."
    ),
    Purpose.SPF: (
        "SPF: only the servers of the MX record send for {domain}. -all lets others refuse the rest; write ~all while"
        " you are not sure that every server that sends for you is named. A name has one such record at the most."
    ),
    Purpose.HELLO_SPF: "SPF of the server's own name, which stands for the reports that it sends about other mail.",
    Purpose.DKIM: "DKIM: the keys that sign what {domain} sends.",
    Purpose.DMARC: (
        "DMARC: what others do with mail that only pretends to be from {domain}. p=none is a start: it asks for daily"
        " reports, to the address of rua=, and loses no mail. When for some weeks they show nothing of yours that"
        " fails, write p=quarantine, then p=reject."
    ),
    Purpose.CLIENTS: 'Where mail programs find the server; "0 0 0 ." says that a service is not offered.',
}

# Service, protocol, with implicit TLS?, priority
# RFC 6186 §3.4: the lower priority is what we would rather have. RFC 8314 §3: implicit TLS before STARTTLS.
_SERVICES: Final = (
    ("_submissions", ListenerProtocol.SUBMISSION, True, 0),
    ("_submission", ListenerProtocol.SUBMISSION, False, 10),
    ("_imaps", ListenerProtocol.IMAP, True, 0),
    ("_imap", ListenerProtocol.IMAP, False, 10),
    ("_pop3s", ListenerProtocol.POP3, True, 20),
    ("_pop3", ListenerProtocol.POP3, False, 30),
)


def records_of(
    domain: str, *, hostname: str, listeners: Sequence[Listener], keys: Iterable[Record]
) -> tuple[Needed, ...]:
    """Every record, in the order they are told. `domain`, `hostname`: A-labels."""
    hostname = hostname.lower()
    found = [
        Needed(Purpose.MX, domain, "MX", f"{MX_PREFERENCE} {hostname}."),
        Needed(Purpose.ADDRESS, hostname, "A", ""),
        Needed(Purpose.REVERSE, hostname, "PTR", "", is_required=False),
        _txt(Purpose.SPF, domain, "v=spf1 mx -all"),
    ]
    if hostname != domain:
        found.append(_txt(Purpose.HELLO_SPF, hostname, "v=spf1 a -all")._replace(is_required=False))
    found += [_dkim(one) for one in keys]
    found.append(_txt(Purpose.DMARC, f"_dmarc.{domain}", f"v=DMARC1; p=none; rua=mailto:postmaster@{domain}"))
    found += [_srv(domain, hostname, listeners, *one) for one in _SERVICES]
    return tuple(found)


def _txt(purpose: Purpose, name: str, text: str) -> Needed:
    return Needed(purpose, name, "TXT", quoted(text), text)


def quoted(text: str) -> str:
    """The text of a TXT record as a zone file has it: in strings of 255 octets at most. ASCII without quotes."""
    starts = range(0, max(1, len(text)), STRING_MAX_BYTES)
    return " ".join(f'"{text[start : start + STRING_MAX_BYTES]}"' for start in starts)


def _dkim(key: Record) -> Needed:
    note = ""
    if key.state == "next":
        note = "new: signs once this record is seen, by the server within an hour or by `pochta dns --check`"
    elif key.state == "retired" and key.retired_at is not None:
        day = datetime.fromtimestamp(key.retired_at + OVERLAP_S, UTC).strftime("%Y-%m-%d")
        note = f"retired: may be removed on {day}"
    is_required = key.state == "signing"
    return _txt(Purpose.DKIM, key.name, key.text)._replace(
        is_required=is_required, note=note, selector=key.selector, key_state=key.state
    )


def _srv(
    domain: str,
    hostname: str,
    listeners: Sequence[Listener],
    service: str,
    protocol: ListenerProtocol,
    is_implicit: bool,
    priority: int,
) -> Needed:
    ports = [
        one.port
        for one in listeners
        if one.protocol is protocol
        and (one.tls is ListenerTls.IMPLICIT) == is_implicit
        and one.port
        and not is_loopback(one.host)
    ]
    data = f"{priority} 1 {ports[0]} {hostname}." if ports else "0 0 0 ."
    return Needed(Purpose.CLIENTS, f"{service}._tcp.{domain}", "SRV", data, is_required=False)


def why(purpose: Purpose, domain: str, hostname: str) -> list[str]:
    """What is said before the records of a purpose, in lines; none where the record before says it."""
    return wrap(_WHY.get(purpose, "").format(domain=domain, hostname=hostname), COMMENT_COLUMNS)


def zone_lines(domain: str, hostname: str, records: Sequence[Needed]) -> list[str]:
    """The records as lines of a zone file, each purpose with its reason in a comment."""
    width = max((len(one.name) + 1 for one in records if one.data and one.purpose is not Purpose.DKIM), default=0)
    lines: list[str] = []
    told: set[Purpose] = set()
    for one in records:
        if one.purpose not in told:
            told.add(one.purpose)
            if reasons := why(one.purpose, domain, hostname):
                lines += [""] * bool(lines) + [f"; {line}" for line in reasons]
        if one.note:
            lines.append(f"; {one.note}")
        if one.data:
            lines.append(zone_line(one, width))
    return [*lines, "", f"; {LATER}"]


def zone_line(one: Needed, width: int = 0) -> str:
    """One record as a line of a zone file."""
    return f"{one.name + '.':<{width}} IN {one.kind:<3} {one.data}"
