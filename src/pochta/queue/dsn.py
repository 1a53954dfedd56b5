"""Delivery status reports: what became of a message, for its sender and for the sender's program.

Pure: values in, one message out. Decides the words, the fields, how much of the original goes back and in which
encoding; refuses to know whom a report is owed (INV-10; `is_wanted` says what NOTIFY asked for) and how it is sent.

A report is multipart/report of three parts: words, fields, and the original or its header. Nothing that peers wrote
(addresses, replies, names) can end a line, a part or the message: controls become `?`, lengths are bounded, and the
boundary is compared with the content. Where something is not ASCII the fields are message/global-delivery-status (RFC
6533), and whatever may be encoded in 7 bits is, unless the way back is known to take UTF-8. What remains 8-bit is a
message/rfc822, which must not be encoded (RFC 2046 §5.2.1): a report that is not ASCII is to be sent with
BODY=8BITMIME, and with SMTPUTF8 only where `Report.sender` is not ASCII.

Sources: RFC 3464, RFC 3461 §6, RFC 6522, RFC 6533 §4, RFC 5321 §6.1.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from pochta.delivery.trace import date_time
from pochta.errors import LocalProtocolError
from pochta.proto.smtp.events import Notify

# RFC 3461 §6.2: an implementation may set the length above which only the header goes back. Exim's
# bounce_return_size_limit; Postfix sends the first 50 000 octets. Whoever sent more than this has it still.
MAX_RETURNED_BYTES: Final = 100 * 1024
# Real headers stay under 30 KiB with 500 recipients.
MAX_RETURNED_HEADER_BYTES: Final = 64 * 1024
# One transaction's recipients (`SmtpLimits.max_recipients`); 2.6 MB of fields at worst.
MAX_REPORTED_RECIPIENTS: Final = 1000
# Nobody reads more; the fields name all of them.
MAX_RECIPIENTS_IN_WORDS: Final = 50
# RFC 5321 §4.5.3.1.5: a reply line has 512 octets. Five lines hold the longest refusals of the large providers.
MAX_REPLY_LINE_BYTES: Final = 510
MAX_REPLY_LINES: Final = 5
# RFC 3461 §4.2: the longest of them is ORCPT with 500 characters; every line stays under the 998 of RFC 5322 §2.1.1.
MAX_VALUE_BYTES: Final = 500

_MAX_LINE: Final = 998
# Controls, line ends, and what turns the direction of the text around it; surrogates have no UTF-8.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LINE_ENDS: Final = re.compile(r"[\r\n]+")
_REPLY: Final = re.compile(r"[2-5][0-9][0-9](?:[ -]|\Z)")
# RFC 3464 §2.3.4: no leading zeros. Subject and detail behind their class.
_STATUS: Final = re.compile(r"[245](\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2}))", re.ASCII)
_SUBJECT_ADDRESS: Final = re.compile(r"(?!.*=\?)[!-~]{1,200}")


class Action(StrEnum):
    """What was done with the message for one recipient; in the order in which a reader wants to know.

    Source: RFC 3464 §2.3.3.
    """

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    EXPANDED = "expanded"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRecipient:
    """One recipient. `address` as the message was accepted for; `original`: ORCPT as `type;address`, decoded.

    `remote_reply` is what the other server said, `550 5.1.1 …`, lines parted by any line end, or our own words when
    nobody said anything. `remote_host` None: no other server took part. Times are epoch seconds; `will_retry_until`
    counts for DELAYED alone.
    """

    address: str
    action: Action
    status: str
    original: str | None = None
    remote_host: str | None = None
    remote_reply: str | None = None
    last_attempt_at: int | None = None
    will_retry_until: int | None = None
    final_log_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is to be reported to `sender`, and what of the original is at hand.

    `postmaster`: the address of whoever can be asked here, ASCII. `message_id` with its brackets, the report's own.
    `queue_id`: our name for the original. `envelope_id`: ENVID, decoded. `original_header` with CRLF, with or without
    the empty line; `original_body` None when it is not at hand, larger than MAX_RETURNED_BYTES, or not wanted.
    `returns_full`: RET=FULL; RFC 6522 §3 would have it also where there was no RET. `takes_utf8`: the way back is known
    to take SMTPUTF8 and 8BITMIME, as our own mailboxes do.
    """

    reporting_host: str
    postmaster: str
    sender: str
    message_id: str
    queue_id: str
    now_s: float
    arrived_at: int
    recipients: tuple[ReportedRecipient, ...]
    original_header: bytes
    original_body: bytes | None = None
    returns_full: bool = False
    envelope_id: str | None = None
    is_smtputf8: bool = False
    takes_utf8: bool = False


_ASKED_BY: Final = {
    Action.FAILED: Notify.FAILURE,
    Action.DELAYED: Notify.DELAY,
    Action.RELAYED: Notify.SUCCESS,
    Action.EXPANDED: Notify.SUCCESS,
    Action.DELIVERED: Notify.SUCCESS,
}


def is_wanted(notify: Notify | int | None, action: Action) -> bool:
    """Whether the sender wants to hear of `action`; `notify` 0 or None: NOTIFY was not given. Source: RFC 3461 §4.1."""
    # RFC 3461 §4.1: without NOTIFY as for FAILURE, or FAILURE and DELAY; people want to know of delays.
    return bool((notify or Notify.FAILURE | Notify.DELAY) & _ASKED_BY[action])


# What a reply code says by itself; the codes that say several things (450, 451, 550, 554) stay X.0.0. Source: RFC 5321
# §4.2.3, and the codes that the registry of RFC 5248 names beside each status.
_STATUS_OF_CODE: Final = {
    421: "4.3.2", 452: "4.3.1", 454: "4.7.0", 455: "4.5.4", 500: "5.5.2", 501: "5.5.4", 502: "5.5.1", 503: "5.5.1",
    504: "5.5.4", 521: "5.3.2", 530: "5.7.0", 534: "5.7.9", 535: "5.7.8", 538: "5.7.11", 551: "5.1.6", 552: "5.2.2",
    553: "5.1.3", 555: "5.5.4", 556: "5.1.10",
}  # fmt: skip


def status_of(code: int, enhanced: str = "") -> str:
    """The status for a reply: its own enhanced code where it has one, else what its code says.

    A reply whose code cannot be an answer counts as a protocol error that may pass: `4.5.0`.
    """
    klass = code // 100
    if klass not in (2, 4, 5):
        return "4.5.0"
    if match := _STATUS.fullmatch(enhanced):
        # RFC 2034 §4: the class of the enhanced code is that of the code, which is what was acted on.
        return f"{klass}{match[1]}"
    # RFC 3461 §6.3: X.0.0 where nothing says more.
    return _STATUS_OF_CODE.get(code, f"{klass}.0.0")


def compose(report: Report, *, boundary_token: str) -> bytes:
    """The report as a message with CRLF, to be sent from the null reverse-path to `report.sender` alone.

    `boundary_token`: `clock.token_hex()`; peers must not know it beforehand. Cost: 8 ms for
    1000 recipients, 60 ms when each of their servers sent a long hostile reply.

    Raises:
        LocalProtocolError: there is nobody to report to, or nothing, or more than MAX_REPORTED_RECIPIENTS recipients.
    """
    # RFC 5321 §6.1: a null reverse-path gets no report
    if not report.sender:
        raise LocalProtocolError("a report to the null reverse-path")
    if not 0 < len(report.recipients) <= MAX_REPORTED_RECIPIENTS:
        raise LocalProtocolError(f"a report of {len(report.recipients)} recipients")
    status = _status_part(report)
    parts = [_words_part(report), status, _returned_part(report)]
    boundary = f"=_{boundary_token}"
    while any(boundary.encode() in part.body for part in parts):
        boundary += "_"
    delimiter = f"--{boundary}".encode()
    lines = [_header(report, status, boundary)]
    for part in parts:
        encoding = f"Content-Transfer-Encoding: {part.encoding}\r\n" if part.encoding else ""
        lines += [delimiter, f"Content-Type: {part.content_type}\r\n{encoding}".encode(), part.body]
    lines += [delimiter + b"--", b""]
    return b"\r\n".join(lines)


class _Part(NamedTuple):
    """`encoding` "" is 7bit. `body` ends without the line end that belongs to the delimiter."""

    content_type: str
    encoding: str
    body: bytes


def _header(report: Report, status: _Part, boundary: str) -> bytes:
    action = _kind(report)
    address = report.recipients[0].address
    count = len(report.recipients)
    if count > 1:
        whom = f"{count} recipients"
    else:
        whom = address if _SUBJECT_ADDRESS.fullmatch(address) else "1 recipient"
    # RFC 6522 §3: report-type is the subtype of the second part.
    report_type = status.content_type.removeprefix("message/")
    lines = [
        # RFC 3464 §2: From is a human's, so that an answer reaches somebody.
        f"From: Mail Delivery System <{_ascii(report.postmaster)}>",
        # RFC 3464 §2: to the return address of the original, in header and envelope.
        f"To: <{_clean(report.sender)}>",
        f"Subject: {_WORDS[action].subject}: {whom}",
        f"Date: {date_time(report.now_s)}",
        f"Message-ID: {_ascii(report.message_id)}",
        # RFC 3834 §5: a direct answer by a machine; nobody's machine answers it.
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={report_type};\r\n\tboundary="{boundary}"',
        "",
    ]
    return "\r\n".join(lines).encode()


def _kind(report: Report) -> Action:
    """What a reader must know first."""
    actions = {one.action for one in report.recipients}
    return next(action for action in Action if action in actions)


class _Words(NamedTuple):
    subject: str
    opening: str
    closing: str


_WORDS: Final = {
    Action.FAILED: _Words(
        "Undelivered mail",
        "Your message could not be delivered to:",
        "It will not be tried again.",
    ),
    Action.DELAYED: _Words(
        "Delayed mail",
        "Your message has not been delivered yet to:",
        "You need not send it again: it is tried further, and you will hear if that fails.",
    ),
    Action.RELAYED: _Words(
        "Relayed mail",
        "Your message was handed on to another server for:",
        "That server does not confirm deliveries. Unless one fails, you will hear nothing more.",
    ),
    Action.EXPANDED: _Words(
        "Forwarded mail",
        "Your message was delivered, and sent on to several others, for:",
        "You will hear if it fails to reach one of those.",
    ),
    Action.DELIVERED: _Words(
        "Delivered mail",
        "Your message was delivered to:",
        "Whether it has been read nobody can tell.",
    ),
}

_CHECK_ADDRESS: Final = "Is the address spelled right? Ask its owner for the current one, and send again."
_SENDER: Final = "The other server does not take mail from your address. Ask whoever looks after it."
_TOO_LARGE: Final = "The message is too large there. Send it in smaller pieces, or send a link."
# What a sender can do, by the status without its class, and by the subject alone. Source: RFC 3463 §3.
_ADVICE: Final = {
    ".1": _CHECK_ADDRESS,
    ".1.7": _SENDER,
    ".1.8": _SENDER,
    ".2.1": "The mailbox is closed. Find another way to reach its owner.",
    ".2.2": "The mailbox is full. Tell its owner in another way, or send again later.",
    ".2.3": _TOO_LARGE,
    ".3.4": _TOO_LARGE,
    ".4": "The other server could not be reached in time. Send again later, or use another way if it is urgent.",
    ".7": "The other side's rules do not let this message in. Its answer says why; its postmaster knows more.",
}


def _words_part(report: Report) -> _Part:
    lines = [f"This is the mail system at {_ascii(report.reporting_host)}.", ""]
    told = 0
    for action in Action:
        chosen = [one for one in report.recipients if one.action is action]
        if not chosen:
            continue
        shown = chosen[: MAX_RECIPIENTS_IN_WORDS - told]
        told += len(shown)
        lines += [_WORDS[action].opening, ""]
        for one in shown:
            lines += _words_of(one)
        if len(shown) < len(chosen):
            lines += [f"  and {len(chosen) - len(shown)} more, named in the next part.", ""]
        lines += [_WORDS[action].closing, ""]
    lines += [
        f"If this leaves a question, forward it to {_ascii(report.postmaster)}.",
        f"Your message came here on {date_time(report.arrived_at)} and has the name {_ascii(report.queue_id)}.",
        "",
    ]
    body = "\r\n".join(lines).encode()
    if body.isascii():
        return _Part("text/plain; charset=us-ascii", "", body)
    return _Part("text/plain; charset=utf-8", "quoted-printable", _quoted_printable(body))


def _words_of(one: ReportedRecipient) -> Iterator[str]:
    yield f"  <{_clean(one.address)}>"
    original = (one.original or "").partition(";")[2]
    if original and original != one.address:
        yield f"    You wrote to <{_clean(original)}>, which leads there."
    if one.action in (Action.FAILED, Action.DELAYED) and (reply := _reply_lines(one)):
        yield f"    {_host(one)} answered:" if one.remote_host else "    The reason:"
        yield from (f"      {line}" for line in reply)
    if one.action is Action.FAILED:
        status = _status(one)
        if status[0] == "4":
            # RFC 3463 §3.5: the code of the actual problem rather than X.4.7; that time ran out is for the words to say
            yield "    It was tried until its time was over."
        detail = status[1:]
        advice = _ADVICE.get(detail) or _ADVICE.get(detail[: detail.index(".", 1)])
        if advice:
            yield f"    {advice}"
    if one.action is Action.DELAYED and one.will_retry_until is not None:
        yield f"    It is tried until {date_time(one.will_retry_until)}."
    yield ""


def _status_part(report: Report) -> _Part:
    # RFC 3461 §6.3: Original-Envelope-Id when there was an ENVID, and only then.
    lines = [] if report.envelope_id is None else [f"Original-Envelope-Id: {_ascii(report.envelope_id)}"]
    lines += [
        f"Reporting-MTA: dns; {_ascii(report.reporting_host)}",
        f"Arrival-Date: {date_time(report.arrived_at)}",
        # RFC 3464 §2.4: fields of one implementation begin with X- and its name.
        f"X-Pochta-Queue-Id: {_ascii(report.queue_id)}",
        "",
    ]
    for one in report.recipients:
        lines += _fields_of(one)
    body = "\r\n".join(lines).encode()
    # RFC 6533 §4.4: where all of it is ASCII the traditional type serves everybody.
    if body.isascii():
        return _Part("message/delivery-status", "", body)
    return _utf8_part("message/global-delivery-status", body, report)


def _fields_of(one: ReportedRecipient) -> Iterator[str]:
    if one.original is not None:
        # RFC 3461 §6.3: Original-Recipient when there was an ORCPT, and only then.
        kind, _, original = one.original.partition(";")
        yield f"Original-Recipient: {_ascii(kind)}; {_clean(original) if kind == 'utf-8' else _ascii(original)}"
    # RFC 6533 §3: addresses beyond ASCII are of the type `utf-8`.
    yield f"Final-Recipient: {'rfc822' if one.address.isascii() else 'utf-8'}; {_clean(one.address)}"
    yield f"Action: {one.action}"
    yield f"Status: {_status(one)}"
    if one.remote_host:
        yield f"Remote-MTA: dns; {_host(one)}"
    if reply := _reply_lines(one):
        # RFC 3461 §9.2: the reply itself, each further line behind a space; our own words are of no registered type.
        # RFC 6533 §4.1: ASCII in its grammar also there.
        kind = "smtp" if _REPLY.match(reply[0]) else "x-pochta"
        yield f"Diagnostic-Code: {kind}; " + "\r\n ".join(_ascii(line, MAX_REPLY_LINE_BYTES) for line in reply)
    if one.last_attempt_at is not None:
        yield f"Last-Attempt-Date: {date_time(one.last_attempt_at)}"
    if one.final_log_id is not None:
        yield f"Final-Log-ID: {_ascii(one.final_log_id)}"
    # RFC 3464 §2.3.9: in reports of delays only.
    if one.action is Action.DELAYED and one.will_retry_until is not None:
        yield f"Will-Retry-Until: {date_time(one.will_retry_until)}"
    yield ""


def _returned_part(report: Report) -> _Part:
    header = report.original_header.rstrip(b"\r\n") + b"\r\n"
    # RFC 3461 §4.3: without a failure only the header goes back
    if report.returns_full and report.original_body is not None and _kind(report) is Action.FAILED:
        size = len(header) + 2 + len(report.original_body)
        message = header + b"\r\n" + report.original_body if size <= MAX_RETURNED_BYTES else b"\n"
        # What is binary would need BINARYMIME on the way back.
        if _has_lawful_lines(message):
            return _message_part(message, report)
    if len(header) > MAX_RETURNED_HEADER_BYTES:
        cut = header.rfind(b"\r\n", 0, MAX_RETURNED_HEADER_BYTES)
        header = header[: cut if cut >= 0 else MAX_RETURNED_HEADER_BYTES] + b"\r\n"
    if header.isascii() and _has_lawful_lines(header):
        return _Part("text/rfc822-headers", "", header)
    if report.is_smtputf8 and _is_utf8(header):
        return _utf8_part("message/global-headers", header, report)
    # RFC 6522 §4: a header that is no lawful 7-bit text is encoded.
    return _Part("text/rfc822-headers", "quoted-printable", _quoted_printable(header))


def _message_part(message: bytes, report: Report) -> _Part:
    if message.isascii():
        return _Part("message/rfc822", "", message)
    if report.is_smtputf8 and _is_utf8(message):
        return _utf8_part("message/global", message, report)
    return _Part("message/rfc822", "8bit", message)


def _utf8_part(content_type: str, body: bytes, report: Report) -> _Part:
    # RFC 6533 §4.5: 7-bit where the way back may not take SMTPUTF8; an address beyond ASCII says that it does.
    if (report.takes_utf8 or not report.sender.isascii()) and _has_lawful_lines(body):
        return _Part(content_type, "8bit", body)
    return _Part(content_type, "quoted-printable", _quoted_printable(body))


def _has_lawful_lines(text: bytes) -> bool:
    """Whether `text` may travel without BINARYMIME. Source: RFC 2045 §2.7, §2.8."""
    pairs = text.count(b"\r\n")
    if b"\0" in text or text.count(b"\r") != pairs or text.count(b"\n") != pairs:
        return False
    return max(map(len, text.split(b"\r\n"))) <= _MAX_LINE


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _quoted_printable(text: bytes) -> bytes:
    """`text` with its CRLFs as line ends and every other CR or LF encoded. Source: RFC 2045 §6.7."""
    encoded = [binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") for line in text.split(b"\r\n")]
    return b"\r\n".join(encoded)


def _status(one: ReportedRecipient) -> str:
    if _STATUS.fullmatch(one.status):
        return one.status
    return {Action.FAILED: "5.0.0", Action.DELAYED: "4.0.0"}.get(one.action, "2.0.0")


def _host(one: ReportedRecipient) -> str:
    return _ascii(one.remote_host or "")


def _reply_lines(one: ReportedRecipient) -> list[str]:
    """What was said, as lines that can stand anywhere: without controls, not empty, few and short."""
    # Cut before it is looked at: each line end may be two octets.
    start = (one.remote_reply or "")[: MAX_REPLY_LINES * (MAX_REPLY_LINE_BYTES + 2)]
    lines = (_clean(line, MAX_REPLY_LINE_BYTES).strip() for line in _LINE_ENDS.split(start)[: MAX_REPLY_LINES + 1])
    return [line for line in lines if line][:MAX_REPLY_LINES]


def _clean(text: str, limit: int = MAX_VALUE_BYTES) -> str:
    """`text` as one line that cannot leave its place, of `limit` octets at most."""
    line = _UNPRINTABLE.sub("?", text[:limit])
    return line if line.isascii() else line.encode()[:limit].decode(errors="ignore")


def _ascii(text: str, limit: int = MAX_VALUE_BYTES) -> str:
    return _UNPRINTABLE.sub("?", text[:limit]).encode("ascii", "replace").decode("ascii")
