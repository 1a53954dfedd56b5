"""What a client has switched on for its connection, by ENABLE or by using it."""

from dataclasses import dataclass


@dataclass(slots=True)
class Modes:
    """Nothing is ever switched off again, but by UNAUTHENTICATE, which brings a new one."""

    condstore: bool = False  # the client has asked for mod-sequences (RFC 7162 §3.1)
    qresync: bool = False  # VANISHED in place of EXPUNGE (RFC 7162 §3.2.3)
    rev2: bool = False  # IMAP4rev2 (RFC 9051)
    utf8: bool = False  # names and strings in UTF-8 (RFC 6855 §3; rev2 brings it too)
    uidonly: bool = False  # no sequence numbers, either way (RFC 9586 §3)

    @property
    def tells_vanished(self) -> bool:
        """Whether removals are told by UID."""
        # RFC 9586 §3: VANISHED in place of EXPUNGE, also without QRESYNC
        return self.qresync or self.uidonly
