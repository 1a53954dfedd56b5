"""The error taxonomy: errors are named by who can act on them, not by the layer that met them.

* `RemoteProtocolError`: the peer broke grammar or order; the peer's author acts.
* `LocalProtocolError`: we called an engine out of order; a bug of ours.
* `Refusal`: a lawful "no"; the user or the administrator acts. `servers/refusal.py` maps every code to every protocol.
* `TryLater`: nothing is wrong for ever; the peer tries again.
* `Corrupt`: stored data lies; the administrator acts (`pochta check`). It concerns that row only.
* `SetupError`: configuration or environment does not let a command run; exit code 2.

Anything else that is raised is a bug.
"""

from enum import StrEnum


class PochtaError(Exception):
    """Base of the taxonomy; never raised itself."""


class RemoteProtocolError(PochtaError):
    """The peer broke the protocol. `str(error)` is one line that may reach the peer."""


class LocalProtocolError(PochtaError):
    """An engine was driven out of order by our own code: a bug."""


class RefusalCode(StrEnum):
    """Why a lawful request is refused. Closed: every code has a reply in every protocol (`servers/refusal.py`)."""

    NOT_FOUND = "not_found"
    EXISTS = "exists"
    NO_PERMISSION = "no_permission"
    OVER_QUOTA = "over_quota"
    TOO_LARGE = "too_large"
    AUTH_FAILED = "auth_failed"
    AUTH_REQUIRED = "auth_required"
    PRIVACY_REQUIRED = "privacy_required"
    POLICY = "policy"
    LIMIT = "limit"
    INVALID_NAME = "invalid_name"
    NO_SUCH_USER = "no_such_user"
    NO_SUCH_DOMAIN = "no_such_domain"
    NOT_LOCAL = "not_local"
    HAS_CHILDREN = "has_children"
    USE_TAKEN = "use_taken"
    IN_USE = "in_use"
    CANNOT = "cannot"
    EXPUNGED = "expunged"


class Refusal(PochtaError):
    """A lawful "no". `text` may reach the peer (no hosts, paths or rules); `detail` goes to the log."""

    def __init__(self, code: RefusalCode, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.detail = detail


class TryLater(PochtaError):
    """A temporary "no". `reason` may reach the peer; `retry_s` is our guess of when it is worth another try."""

    def __init__(self, reason: str, retry_s: float = 60.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_s = retry_s


class Corrupt(PochtaError):
    """Stored data contradicts itself: `what` (`blob`, `message`, …) and its `id`."""

    def __init__(self, what: str, id: object) -> None:
        super().__init__(f"stored {what} {id} is damaged; run `pochta check`")
        self.what = what
        self.id = id


class SetupError(PochtaError):
    """Settings, files or the environment do not allow this; one line that names file, key and remedy. Exit code 2."""
