"""What the server says it can do: the answers to EHLO and HELP. Both name only what works here and now."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pochta.proto.smtp.limits import SmtpLimits
from pochta.proto.smtp.replies import Reply


@dataclass(frozen=True, slots=True)
class FutureRelease:
    """How long a message may be held: `max_interval_s` from now, and no later than `max_at` (UTC epoch seconds).

    The engine knows no clock: the two are compared with what a client asks each for itself. Source: RFC 4865 §3.
    """

    max_interval_s: int
    max_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The extensions that a server may offer or not, beside those that always are. What is not offered is answered 555.

    `requiretls` counts only over TLS. `limits` tells what `SmtpLimits` enforces. `deliver_by_min_s`: None for no
    DELIVERBY, 0 for one without a minimum. `mt_priority`: None for no MT-PRIORITY, `""` for one without the name of a
    policy.
    """

    dsn: bool = False
    binarymime: bool = False
    requiretls: bool = False
    limits: bool = False
    future_release: FutureRelease | None = None
    deliver_by_min_s: int | None = None
    mt_priority: str | None = None


NO_OFFERS: Final = Offers()


def hello_reply(
    hostname: str,
    offers: Offers,
    *,
    limits: SmtpLimits,
    is_secure: bool,
    offers_tls: bool,
    mechanisms: tuple[str, ...],
) -> Reply:
    """The answer to EHLO and LHLO: our name, then one line for each extension. Source: RFC 5321 §4.1.1.1."""
    lines = [
        hostname,
        "PIPELINING",
        f"SIZE {limits.max_message_bytes}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        *(["BINARYMIME"] if offers.binarymime else []),
        *(["DSN"] if offers.dsn else []),
        # RFC 8689 §2: the keyword belongs to sessions over TLS.
        *(["REQUIRETLS"] if offers.requiretls and is_secure else []),
        *_submission_lines(offers),
    ]
    if offers.limits:
        mail_max = "" if limits.max_transactions is None else f" MAILMAX={limits.max_transactions}"
        # RFC 9422 §4: RCPTMAX recipients of one transaction, MAILMAX MAIL commands of one connection.
        lines.append(f"LIMITS RCPTMAX={limits.max_recipients}{mail_max}")
    # RFC 3207 §4.2: not offered again once TLS is active.
    if offers_tls:
        lines.append("STARTTLS")
    if mechanisms:
        lines.append(f"AUTH {' '.join(mechanisms)}")
    lines.append("HELP")
    return Reply(250, "", "\n".join(lines))


def _submission_lines(offers: Offers) -> list[str]:
    """What only a submission server has reason to offer."""
    lines = []
    if offers.future_release is not None:
        latest = datetime.fromtimestamp(offers.future_release.max_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        # RFC 4865 §3: the longest interval, then the latest date and time as RFC 3339 writes it.
        lines.append(f"FUTURERELEASE {offers.future_release.max_interval_s} {latest}")
    if offers.deliver_by_min_s is not None:
        # RFC 2852 §4: the parameter is the shortest time that the server can promise; without it there is none.
        lines.append(f"DELIVERBY {offers.deliver_by_min_s}" if offers.deliver_by_min_s else "DELIVERBY")
    if offers.mt_priority is not None:
        lines.append(f"MT-PRIORITY {offers.mt_priority}".rstrip())
    return lines


def help_reply(*, is_lmtp: bool, offers_tls: bool, offers_auth: bool) -> Reply:
    """The answer to HELP, whatever it was asked about: the commands."""
    verbs = ["LHLO"] if is_lmtp else ["HELO", "EHLO"]
    verbs += ["STARTTLS"] if offers_tls else []
    verbs += ["AUTH"] if offers_auth else []
    verbs += ["MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "HELP", "QUIT"]
    return Reply(214, "2.0.0", f"Commands: {' '.join(verbs)}")
