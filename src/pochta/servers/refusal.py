"""The one table from errors to replies; a test proves it total. Inner code never speaks protocol."""

from typing import Final, NamedTuple

from pochta.errors import PochtaError, Refusal, RefusalCode, TryLater
from pochta.proto.smtp.replies import Reply


class ImapAnswer(NamedTuple):
    """Status and response code (without brackets, `b""` for none) of a tagged answer."""

    status: bytes
    code: bytes


class Answers(NamedTuple):
    """What one refusal is in each protocol.

    SMTP: code with enhanced status (RFC 3463). IMAP: response code (RFC 5530). POP3: response code without brackets
    (RFC 2449 §8, RFC 3206), `b""` for none.
    """

    smtp: tuple[int, str]
    imap: ImapAnswer
    pop3: bytes


def _no(code: bytes) -> ImapAnswer:
    return ImapAnswer(b"NO", code)


REFUSALS: Final[dict[RefusalCode, Answers]] = {
    RefusalCode.NOT_FOUND: Answers((550, "5.1.1"), _no(b"NONEXISTENT"), b""),
    RefusalCode.EXISTS: Answers((550, "5.0.0"), _no(b"ALREADYEXISTS"), b""),
    RefusalCode.NO_PERMISSION: Answers((550, "5.7.1"), _no(b"NOPERM"), b"SYS/PERM"),
    # RFC 5321 §4.2.2, RFC 3463 §3.3: the mailbox is full, and stays so until its owner acts
    RefusalCode.OVER_QUOTA: Answers((552, "5.2.2"), _no(b"OVERQUOTA"), b"SYS/PERM"),
    RefusalCode.TOO_LARGE: Answers((552, "5.3.4"), _no(b"LIMIT"), b""),
    RefusalCode.AUTH_FAILED: Answers((535, "5.7.8"), _no(b"AUTHENTICATIONFAILED"), b"AUTH"),
    RefusalCode.AUTH_REQUIRED: Answers((530, "5.7.0"), _no(b""), b""),
    RefusalCode.PRIVACY_REQUIRED: Answers((538, "5.7.11"), _no(b"PRIVACYREQUIRED"), b"AUTH"),
    RefusalCode.POLICY: Answers((550, "5.7.1"), _no(b"NOPERM"), b"AUTH"),
    RefusalCode.LIMIT: Answers((452, "4.5.3"), _no(b"LIMIT"), b"SYS/TEMP"),
    RefusalCode.INVALID_NAME: Answers((553, "5.1.3"), _no(b"CANNOT"), b""),
    RefusalCode.NO_SUCH_USER: Answers((550, "5.1.1"), _no(b"NONEXISTENT"), b""),
    RefusalCode.NO_SUCH_DOMAIN: Answers((550, "5.1.2"), _no(b"NONEXISTENT"), b""),
    RefusalCode.NOT_LOCAL: Answers((550, "5.7.1"), _no(b"CANNOT"), b""),
    RefusalCode.HAS_CHILDREN: Answers((550, "5.0.0"), _no(b"HASCHILDREN"), b""),
    RefusalCode.USE_TAKEN: Answers((550, "5.0.0"), _no(b"USEATTR"), b""),
    RefusalCode.IN_USE: Answers((450, "4.2.1"), _no(b"INUSE"), b"IN-USE"),
    RefusalCode.CANNOT: Answers((550, "5.0.0"), _no(b"CANNOT"), b""),
    RefusalCode.EXPUNGED: Answers((550, "5.0.0"), _no(b"EXPUNGEISSUED"), b""),
}


def _sentence(text: str) -> str:
    """As people read it: some texts begin in the middle of a command's error line."""
    return text[:1].upper() + text[1:]


def smtp_reply(error: PochtaError) -> Reply:
    """The reply to a lawful "no".

    Raises: the error itself when it is neither a `Refusal` nor a `TryLater`.
    """
    if isinstance(error, Refusal):
        code, enhanced = REFUSALS[error.code].smtp
        return Reply(code, enhanced, _sentence(error.text))
    if isinstance(error, TryLater):
        # RFC 3463 §3.4: 4.3.1, mail system full, is the only lasting cause here
        return Reply(452, "4.3.1", _sentence(error.reason))
    raise error


def imap_answer(error: PochtaError) -> tuple[ImapAnswer, str]:
    """The tagged answer to a lawful "no", and its text.

    Raises: the error itself when it is neither a `Refusal` nor a `TryLater`.
    """
    if isinstance(error, Refusal):
        return REFUSALS[error.code].imap, _sentence(error.text)
    if isinstance(error, TryLater):
        return _no(b"UNAVAILABLE"), _sentence(error.reason)
    raise error


def pop3_answer(error: PochtaError) -> tuple[bytes, str]:
    """Response code (without brackets, `b""` for none) and text of -ERR for a lawful "no".

    Raises: the error itself when it is neither a `Refusal` nor a `TryLater`.
    """
    if isinstance(error, Refusal):
        return REFUSALS[error.code].pop3, _sentence(error.text)
    if isinstance(error, TryLater):
        return b"SYS/TEMP", _sentence(error.reason)
    raise error
