"""Which function handles which command, and in which state (RFC 3501 §6). The one table of commands."""

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from pochta.proto.imap import commands as c
from pochta.proto.imap.acl import DeleteAcl, GetAcl, ListRights, MyRights, SetAcl
from pochta.proto.imap.metadata import GetMetadata, SetMetadata
from pochta.proto.imap.multisearch import CancelUpdate, MultiSearch
from pochta.proto.imap.notify import Notify
from pochta.proto.imap.quota import GetQuota, GetQuotaRoot, SetQuota
from pochta.proto.imap.sort import Sort, Thread
from pochta.servers.imap import compress, messages, signin, state
from pochta.servers.imap.fetch import fetch
from pochta.servers.imap.mailboxes import acl, listing, mailboxes, metadata, quota, status
from pochta.servers.imap.notify import notify
from pochta.servers.imap.search import contexts, multisearch, search
from pochta.servers.imap.sort import sort, thread

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
    c.Unauthenticate: (signin.unauthenticate, State.AUTHENTICATED),
    c.Enable: (state.enable, State.AUTHENTICATED),
    c.Compress: (compress.compress, State.AUTHENTICATED),
    c.Namespace: (listing.namespace, State.AUTHENTICATED),
    c.Select: (mailboxes.select, State.AUTHENTICATED),
    c.Create: (mailboxes.create, State.AUTHENTICATED),
    c.Delete: (mailboxes.delete, State.AUTHENTICATED),
    c.Rename: (mailboxes.rename, State.AUTHENTICATED),
    c.Subscribe: (mailboxes.subscribe, State.AUTHENTICATED),
    c.Unsubscribe: (mailboxes.unsubscribe, State.AUTHENTICATED),
    c.List: (listing.list_, State.AUTHENTICATED),
    c.Lsub: (listing.lsub, State.AUTHENTICATED),
    c.Status: (status.status, State.AUTHENTICATED),
    SetAcl: (acl.set_acl, State.AUTHENTICATED),
    DeleteAcl: (acl.delete_acl, State.AUTHENTICATED),
    GetAcl: (acl.get_acl, State.AUTHENTICATED),
    ListRights: (acl.list_rights, State.AUTHENTICATED),
    MyRights: (acl.my_rights, State.AUTHENTICATED),
    GetQuota: (quota.get_quota, State.AUTHENTICATED),
    GetQuotaRoot: (quota.get_quota_root, State.AUTHENTICATED),
    SetQuota: (quota.set_quota, State.AUTHENTICATED),
    GetMetadata: (metadata.get_metadata, State.AUTHENTICATED),
    SetMetadata: (metadata.set_metadata, State.AUTHENTICATED),
    c.Idle: (state.idle, State.AUTHENTICATED),
    Notify: (notify.notify, State.AUTHENTICATED),
    c.Check: (state.check, State.SELECTED),
    c.Close: (messages.close, State.SELECTED),
    c.Unselect: (messages.unselect, State.SELECTED),
    c.Expunge: (messages.expunge, State.SELECTED),
    c.UidExpunge: (messages.uid_expunge, State.SELECTED),
    c.Search: (search.search, State.SELECTED),
    c.UnknownCharset: (search.unknown_charset, State.AUTHENTICATED),
    Sort: (sort.sort, State.SELECTED),
    MultiSearch: (multisearch.esearch, State.AUTHENTICATED),
    CancelUpdate: (contexts.cancel_update, State.SELECTED),
    Thread: (thread.thread_, State.SELECTED),
    c.Fetch: (fetch.fetch, State.SELECTED),
    c.Store: (messages.store, State.SELECTED),
    c.Copy: (messages.copy, State.SELECTED),
    c.Move: (messages.move, State.SELECTED),
}
