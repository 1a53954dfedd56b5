"""What one server may make the SMTP client take, and how long it may take for it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Bounds of one connection to a server; times in seconds, the defaults are the RFC's."""

    # RFC 5321 §4.5.3.1.5: 512. Servers that put addresses and links into refusals go beyond; Postfix takes 2048.
    max_reply_line_bytes: int = 2048
    max_reply_lines: int = 256  # the longest answers to EHLO and policy refusals have some 30
    max_reply_bytes: int = 32 * 1024  # 64 lines of the RFC's length; it is held in memory, and its text is stored
    # RFC 5321 §4.5.3.2: the least a client should wait, by command.
    greeting_timeout_s: float = 300.0
    command_timeout_s: float = 300.0  # EHLO, STARTTLS, AUTH, MAIL, RCPT, RSET
    data_timeout_s: float = 120.0
    block_timeout_s: float = 180.0
    end_timeout_s: float = 600.0
    quit_timeout_s: float = 5.0  # nothing depends on the answer
