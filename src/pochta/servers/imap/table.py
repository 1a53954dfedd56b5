"""Which function handles which command, and in which state (RFC 3501 §6). The one table of commands."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from pochta.proto.imap import commands as c
from pochta.servers.imap import fetch, mailboxes, messages, search, signin, state

if TYPE_CHECKING:
    from pochta.servers.imap.connection import ImapConnection

    # Any: the command's own type, which the key of the table fixes
    Handler = Callable[["ImapConnection", bytes, Any], Awaitable[None]]


class State(Enum):
    """When a command is lawful."""

    ANY = auto()
    NOT_AUTHENTICATED = auto()
    AUTHENTICATED = auto()  # or selected
    SELECTED = auto()


HANDLERS: "Final[dict[type[c.Command], tuple[Handler, State]]]" = {
    c.Capability: (state.capability, State.ANY),
    c.Noop: (state.noop, State.ANY),
    c.Logout: (state.logout, State.ANY),
    c.Id: (state.id_, State.ANY),
    c.StartTls: (signin.start_tls, State.NOT_AUTHENTICATED),
    c.Login: (signin.login, State.NOT_AUTHENTICATED),
    c.Authenticate: (signin.authenticate, State.NOT_AUTHENTICATED),
    c.Enable: (state.enable, State.AUTHENTICATED),
    c.Namespace: (mailboxes.namespace, State.AUTHENTICATED),
    c.Select: (mailboxes.select, State.AUTHENTICATED),
    c.Create: (mailboxes.create, State.AUTHENTICATED),
    c.Delete: (mailboxes.delete, State.AUTHENTICATED),
    c.Rename: (mailboxes.rename, State.AUTHENTICATED),
    c.Subscribe: (mailboxes.subscribe, State.AUTHENTICATED),
    c.Unsubscribe: (mailboxes.unsubscribe, State.AUTHENTICATED),
    c.List: (mailboxes.list_, State.AUTHENTICATED),
    c.Lsub: (mailboxes.lsub, State.AUTHENTICATED),
    c.Status: (mailboxes.status, State.AUTHENTICATED),
    c.Idle: (state.idle, State.AUTHENTICATED),
    c.Check: (state.check, State.SELECTED),
    c.Close: (messages.close, State.SELECTED),
    c.Unselect: (messages.unselect, State.SELECTED),
    c.Expunge: (messages.expunge, State.SELECTED),
    c.UidExpunge: (messages.uid_expunge, State.SELECTED),
    c.Search: (search.search, State.SELECTED),
    c.UnknownCharset: (search.unknown_charset, State.SELECTED),
    c.Fetch: (fetch.fetch, State.SELECTED),
    c.Store: (messages.store, State.SELECTED),
    c.Copy: (messages.copy, State.SELECTED),
    c.Move: (messages.move, State.SELECTED),
}
