"""What one client of the SMTP server may ask for at most."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpLimits:
    """Bounds of one connection; the defaults are those of a public server."""

    max_message_bytes: int = 50 * 1024 * 1024  # what the large providers take; base64 makes of it 36 MB attached
    max_recipients: int = 1000  # RFC 5321 §4.5.3.1.8: 100 at least; Postfix' smtpd_recipient_limit
    # MAIL commands of one connection; None: no bound, and no MAILMAX. Exim's smtp_accept_max_per_connection is 1000.
    max_transactions: int | None = None
    # RFC 5321 §4.5.3.1.4: 512, and what extensions add to MAIL: SIZE 26, BODY 17, SMTPUTF8 10, AUTH 500, RET 9,
    # ENVID 107, REQUIRETLS 11, HOLDUNTIL 36, BY 17, MT-PRIORITY 15, in all 1260; to RCPT (RFC 3461 §5.4): ORCPT 507,
    # NOTIFY 29, in all 1048. Postfix takes 2048, too.
    max_command_line_bytes: int = 2048
    max_auth_line_bytes: int = 12288  # RFC 4954 §4: the limit of lines in an authentication exchange
    max_errors: int = 20  # Postfix' smtpd_hard_error_limit
