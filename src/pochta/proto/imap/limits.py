"""How much of one command is held while it comes in: what a connection can make us hold (INV-7)."""

from typing import Final

MAX_LINE_BEFORE_SIGN_IN: Final = 12 * 1024
"""As RFC 4954 §4 has it for AUTH: tokens of identity providers, and tickets, have up to 9 KiB before base64."""

MAX_LINE: Final = 64 * 1024
"""Sets of thousands of UIDs stand on one line; Dovecot's imap_max_line_length is 64 KiB as well."""

MAX_LITERAL_BEFORE_SIGN_IN: Final = 4 * 1024
"""User name or password; RFC 7888 §5: what every LITERAL- server takes."""

MAX_LITERAL: Final = 64 * 1024
"""A string of any command but APPEND; names and search texts are far shorter."""

MAX_COMMAND_BEFORE_SIGN_IN: Final = 16 * 1024
"""Lines and literals of one command: LOGIN with two full literals and some room."""

MAX_COMMAND: Final = 256 * 1024
"""Two full lines and two full literals: what one connection can make us hold."""
