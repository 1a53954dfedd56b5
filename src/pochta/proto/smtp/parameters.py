"""The parameters of MAIL and RCPT, read: values and their combinations, for the extensions that are offered.

Pure functions. What is wrong is raised as `CommandError`, which carries the reply. Refuses to know the time: HOLDUNTIL
is given as the second it names, and whoever has a clock compares.
"""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from pochta.errors import RemoteProtocolError
from pochta.proto.address import Address, AddressError, parse_mailbox
from pochta.proto.smtp import replies
from pochta.proto.smtp.commands import CommandError
from pochta.proto.smtp.events import Body, ByMode, Mail, Notify, Rcpt, Ret
from pochta.proto.smtp.offers import Offers
from pochta.proto.smtp.xtext import decode_unitext, decode_xtext

MAX_SIZE_DIGITS: Final = 20  # RFC 1870 §5: size-value ::= 1*20DIGIT
MAX_ENVELOPE_ID_CHARS: Final = 100  # RFC 3461 §4.4, as it is sent
MAX_ORIGINAL_BYTES: Final = 500  # RFC 3461 §4.2, as it is sent

_PARAMETER = re.compile("([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u00a0-\U0010ffff]+))?")
_JUST_SIZE = re.compile(rf"SIZE=([0-9]{{1,{MAX_SIZE_DIGITS}}})", re.IGNORECASE)  # what most servers send
_PRINTABLE = re.compile(rb"[\t -~]*")
_LINE_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# RFC 3461 §4.2: addr-type = atom.
_ORIGINAL = re.compile(r"([A-Za-z0-9!#$%&'*+/?^_`{|}~-]+);(.+)", re.DOTALL)
# RFC 4865 §3: 1 to 999999999 seconds; or an RFC 3339 date-time (erratum 2040).
_INTERVAL = re.compile(r"[1-9][0-9]{0,8}")
_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# RFC 2852 §4: by-time of one to nine digits with an optional sign, by-mode, by-trace.
_DELIVER_BY = re.compile(r"([+-]?[0-9]{1,9});([NRnr])([Tt]?)")
_PRIORITY = re.compile(r"-?[1-9]|0")
_EVENTS: Final = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}


def read_mail(
    reverse_path: Address | None,
    text: str,
    offers: Offers,
    *,
    max_message_bytes: int,
    is_auth_offered: bool,
    is_secure: bool,
) -> Mail:
    """MAIL with its parameters; `text` is what follows the path.

    Raises:
        CommandError: 501 for bad syntax and combinations that cannot be, 552 for a size beyond `max_message_bytes`,
            555 for a parameter that is unknown or not offered, 550 for a path that needs SMTPUTF8.
    """
    if not text:
        mail = Mail(reverse_path)
    elif (match := _JUST_SIZE.fullmatch(text)) is not None:
        mail = Mail(reverse_path, _parse_size(match[1], max_message_bytes))
    else:
        found = _mail_parameters(text, offers, max_message_bytes, is_auth_offered, is_secure)
        mail = Mail(reverse_path, **found)
        _check_hold(mail, offers)
    if reverse_path is not None and not mail.is_smtputf8 and not reverse_path.is_ascii:
        raise CommandError(replies.SENDER_NOT_ASCII)
    return mail


def read_rcpt(forward_path: Address, text: str, offers: Offers, *, is_smtputf8: bool) -> Rcpt:
    """RCPT with its parameters; `text` is what follows the path and not empty.

    Raises:
        CommandError: 501 for bad syntax, 555 for a parameter that is unknown or not offered, 553 for an ORCPT that
            needs SMTPUTF8.
    """
    notify: Notify | None = None
    original: str | None = None
    for keyword, value in _parameters(text):
        if keyword == "NOTIFY" and offers.dsn:
            notify = _parse_notify(value)
        elif keyword == "ORCPT" and offers.dsn:
            original = _parse_original(value, is_smtputf8=is_smtputf8)
        else:
            # RFC 5321 §4.1.1.11: 555 for a parameter that is not known.
            raise CommandError(replies.PARAMETER_UNKNOWN)
    return Rcpt(forward_path, notify, original)


def _mail_parameters(
    text: str, offers: Offers, max_message_bytes: int, is_auth_offered: bool, is_secure: bool
) -> dict[str, Any]:  # Any: the fields of `Mail` by name, each of its own type
    found: dict[str, Any] = {}
    for keyword, value in _parameters(text):
        if keyword == "SIZE":
            found["size"] = _parse_size(value, max_message_bytes)
        elif keyword == "BODY":
            found["body"] = _parse_body(value, offers)
        elif keyword == "SMTPUTF8":
            # RFC 6531 §3.4: the parameter takes no value.
            _refuse_value(value)
            found["is_smtputf8"] = True
        elif keyword == "AUTH" and is_auth_offered:
            found["auth"] = _parse_auth(value)
        # RFC 8689 §2: only in a session over TLS.
        elif keyword == "REQUIRETLS" and offers.requiretls and is_secure:
            _refuse_value(value)
            found["requires_tls"] = True
        elif (extension := _EXTENSIONS.get(keyword)) is not None and extension[0](offers):
            found |= extension[1](_some(value), offers)
        else:
            # RFC 5321 §4.1.1.11: 555 for a parameter that is not known.
            raise CommandError(replies.PARAMETER_UNKNOWN)
    return found


def _parameters(text: str) -> list[tuple[str, str | None]]:
    found: dict[str, str | None] = {}
    for word in filter(None, text.split(" ")):
        match = _PARAMETER.fullmatch(word)
        # RFC 1870 §6, RFC 3461 §4.5: a parameter stands there once.
        if match is None or match[1].upper() in found:
            raise CommandError(replies.PARAMETER_SYNTAX)
        found[match[1].upper()] = match[2]
    return list(found.items())


def _some(value: str | None) -> str:
    if value is None:
        raise CommandError(replies.PARAMETER_SYNTAX)
    return value


def _refuse_value(value: str | None) -> None:
    if value is not None:
        raise CommandError(replies.PARAMETER_SYNTAX)


def _parse_size(value: str | None, max_message_bytes: int) -> int:
    if value is None or len(value) > MAX_SIZE_DIGITS or not (value.isascii() and value.isdecimal()):
        raise CommandError(replies.PARAMETER_SYNTAX)
    size = int(value)
    if size > max_message_bytes:
        raise CommandError(replies.MESSAGE_TOO_LARGE)
    return size


def _parse_body(value: str | None, offers: Offers) -> Body:
    # RFC 6152 §2: BODY is 7BIT or 8BITMIME. RFC 3030 §3: or BINARYMIME, where that is offered.
    body = _BODIES.get((value or "").upper())
    if body is None or (body is Body.BINARY and not offers.binarymime):
        raise CommandError(replies.PARAMETER_SYNTAX)
    return body


def _parse_auth(value: str | None) -> str:
    """The identity in MAIL's AUTH parameter, `""` for `<>`. Source: RFC 4954 §5."""
    if value == "<>":
        return ""
    try:
        return str(parse_mailbox(decode_xtext(_some(value)).decode("utf-8")))
    except (RemoteProtocolError, UnicodeDecodeError, AddressError):
        raise CommandError(replies.PARAMETER_SYNTAX) from None


def _parse_ret(value: str, _: Offers) -> dict[str, Any]:
    # RFC 3461 §4.3: FULL or HDRS, in any case.
    if value.upper() not in ("FULL", "HDRS"):
        raise CommandError(replies.PARAMETER_SYNTAX)
    return {"ret": Ret(value.upper())}


def _parse_envelope_id(value: str, _: Offers) -> dict[str, Any]:
    if len(value) > MAX_ENVELOPE_ID_CHARS:
        raise CommandError(replies.PARAMETER_SYNTAX)
    return {"envelope_id": _decode_printable(value)}


def _decode_printable(value: str) -> str:
    """What an xtext stands for: printable ASCII, so that it can stand in the header of a report."""
    try:
        decoded = decode_xtext(value)
    except RemoteProtocolError:
        raise CommandError(replies.PARAMETER_SYNTAX) from None
    # RFC 3461 §4.2, §4.4: graphic characters and white space of ASCII, before the encoding.
    if not _PRINTABLE.fullmatch(decoded):
        raise CommandError(replies.PARAMETER_SYNTAX)
    return decoded.decode("ascii")


def _parse_notify(value: str | None) -> Notify:
    words = _some(value).upper().split(",")
    # RFC 3461 §4.1: NEVER stands alone.
    if words == ["NEVER"]:
        return Notify.NEVER
    found = Notify(0)
    for word in words:
        if word not in _EVENTS:
            raise CommandError(replies.PARAMETER_SYNTAX)
        found |= _EVENTS[word]
    return found


def _parse_original(value: str | None, *, is_smtputf8: bool) -> str:
    match = _ORIGINAL.fullmatch(_some(value))
    if match is None or len(match[0].encode()) > MAX_ORIGINAL_BYTES:
        raise CommandError(replies.PARAMETER_SYNTAX)
    address_type, address = match[1].lower(), match[2]
    if address_type != "utf-8":
        return f"{address_type};{_decode_printable(address)}"
    # RFC 6531 §3.4: what is not ASCII needs SMTPUTF8; utf-8-addr-xtext of RFC 6533 §3 does without.
    if not is_smtputf8 and not address.isascii():
        raise CommandError(replies.RECIPIENT_NOT_ASCII)
    # RFC 6533 §3: an address that only claims to be of the type is passed on as it stands.
    with suppress(RemoteProtocolError):
        address = decode_unitext(address)
    if _LINE_BREAKING.search(address):
        raise CommandError(replies.PARAMETER_SYNTAX)
    return f"{address_type};{address}"


def _parse_hold_for(value: str, offers: Offers) -> dict[str, Any]:
    if not _INTERVAL.fullmatch(value):
        raise CommandError(replies.PARAMETER_SYNTAX)
    assert offers.future_release is not None
    if int(value) > offers.future_release.max_interval_s:
        raise CommandError(replies.HOLD_TOO_LONG)
    return {"hold_for_s": int(value)}


def _parse_hold_until(value: str, offers: Offers) -> dict[str, Any]:
    if not _DATE_TIME.fullmatch(value):
        raise CommandError(replies.PARAMETER_SYNTAX)
    try:
        at = int(datetime.fromisoformat(value.upper()).timestamp())
    except ValueError:  # no such day, hour or offset
        raise CommandError(replies.PARAMETER_SYNTAX) from None
    assert offers.future_release is not None
    if at > offers.future_release.max_at:
        raise CommandError(replies.HOLD_TOO_LONG)
    return {"hold_until": at}


def _parse_deliver_by(value: str, offers: Offers) -> dict[str, Any]:
    match = _DELIVER_BY.fullmatch(value)
    if match is None:
        raise CommandError(replies.PARAMETER_SYNTAX)
    seconds, mode = int(match[1]), ByMode(match[2].upper())
    # RFC 2852 §4: zero and less are for by-mode N alone, which tells of the delay at once.
    if mode is ByMode.RETURN and seconds <= 0:
        raise CommandError(replies.PARAMETER_SYNTAX)
    if mode is ByMode.RETURN and seconds < (offers.deliver_by_min_s or 0):
        raise CommandError(replies.DELIVER_BY_TOO_SOON)
    return {"deliver_by_s": seconds, "deliver_by_mode": mode, "deliver_by_trace": bool(match[3])}


def _parse_priority(value: str, _: Offers) -> dict[str, Any]:
    # RFC 6710 §3: -9 to 9.
    if not _PRIORITY.fullmatch(value):
        raise CommandError(replies.PARAMETER_SYNTAX)
    return {"priority": int(value)}


def _check_hold(mail: Mail, offers: Offers) -> None:
    """Raise the reply where parameters that are lawful alone contradict each other."""
    if mail.hold_for_s is None:
        return
    # RFC 4865 §4.2: a MAIL with more than one of HOLDFOR and HOLDUNTIL is rejected.
    if mail.hold_until is not None:
        raise CommandError(replies.PARAMETER_SYNTAX)
    # The times of RFC 2852 run from MAIL on: held beyond its end, the message could only be returned.
    if mail.deliver_by_mode is ByMode.RETURN and (mail.deliver_by_s or 0) <= mail.hold_for_s:
        raise CommandError(replies.DELIVER_BY_TOO_SOON)


_BODIES: Final = {"7BIT": Body.SEVEN_BIT, "8BITMIME": Body.EIGHT_BIT, "BINARYMIME": Body.BINARY}

# Keyword -> whether it is offered, and what reads it into fields of `Mail`.
_EXTENSIONS: Final[dict[str, tuple[Callable[[Offers], bool], Callable[[str, Offers], dict[str, Any]]]]] = {
    "RET": (lambda offers: offers.dsn, _parse_ret),
    "ENVID": (lambda offers: offers.dsn, _parse_envelope_id),
    "HOLDFOR": (lambda offers: offers.future_release is not None, _parse_hold_for),
    "HOLDUNTIL": (lambda offers: offers.future_release is not None, _parse_hold_until),
    "BY": (lambda offers: offers.deliver_by_min_s is not None, _parse_deliver_by),
    "MT-PRIORITY": (lambda offers: offers.mt_priority is not None, _parse_priority),
}
