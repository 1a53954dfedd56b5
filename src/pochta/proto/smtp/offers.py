"""What the server says it can do: the answers to EHLO and HELP. Both name only what works here and now."""

from pochta.proto.smtp.replies import Reply


def hello_reply(hostname: str, *, max_message_bytes: int, offers_tls: bool, mechanisms: tuple[str, ...]) -> Reply:
    """The answer to EHLO and LHLO: our name, then one line for each extension. Source: RFC 5321 §4.1.1.1."""
    lines = [
        hostname,
        "PIPELINING",
        f"SIZE {max_message_bytes}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        # RFC 3207 §4.2: not offered again once TLS is active.
        *(["STARTTLS"] if offers_tls else []),
        *([f"AUTH {' '.join(mechanisms)}"] if mechanisms else []),
        "HELP",
    ]
    return Reply(250, "", "\n".join(lines))


def help_reply(*, is_lmtp: bool, offers_tls: bool, offers_auth: bool) -> Reply:
    """The answer to HELP, whatever it was asked about: the commands."""
    verbs = ["LHLO"] if is_lmtp else ["HELO", "EHLO"]
    verbs += ["STARTTLS"] if offers_tls else []
    verbs += ["AUTH"] if offers_auth else []
    verbs += ["MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "HELP", "QUIT"]
    return Reply(214, "2.0.0", f"Commands: {' '.join(verbs)}")
