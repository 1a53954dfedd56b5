"""What a person should know after a change: aliases and catch-alls whose mail will not arrive.

Nothing of it is an error: a target may be made later, and this server may learn to send.
"""

from pochta.accounts import directory as resolving
from pochta.accounts import edit
from pochta.errors import Refusal, RefusalCode, TryLater
from pochta.proto.address import address_key, parse_mailbox, split_detail
from pochta.store import directory
from pochta.store.invariants import Finding, Severity, no_such_target
from pochta.store.tx import Tx


def on_targets(tx: Tx, where: str, addresses: list[str]) -> list[Finding]:
    """One for each of the addresses that leads to nobody, and for each address elsewhere that one leads to.

    Raises:
        Refusal: INVALID_NAME; LIMIT, aliases nest too deep.
    """
    found = []
    for target in edit.targets(addresses):
        try:
            resolution = resolving.trace(tx, parse_mailbox(target))
        except TryLater:
            continue  # for postmaster, before there is an account
        except Refusal as refusal:
            if refusal.code is not RefusalCode.NOT_LOCAL:
                raise
            resolution = resolving.Resolution((), (target,))
        found += [_elsewhere(where, remote) for remote in resolution.remotes]
        if not resolution.accounts and not resolution.remotes:
            found.append(no_such_target(where, target))
    return found


def on_removed_account(tx: Tx, address: str) -> list[Finding]:
    """One for each alias and catch-all that sends to the address, which no account has any more.

    Raises:
        Refusal: INVALID_NAME.
    """
    local_part, domain = edit.key(address)
    return [
        no_such_target(where, target)
        for where, target, (name, at) in _all_targets(tx)
        if at == domain and local_part in (name, split_detail(name)[0])
    ]


def on_removed_domain(tx: Tx, name: str) -> list[Finding]:
    """One for each alias and catch-all that sends to an address of the domain, which is not kept here any more.

    Raises:
        Refusal: INVALID_NAME.
    """
    domain = edit.domain_key(name)
    return [_elsewhere(where, target) for where, target, (_, at) in _all_targets(tx) if at == domain]


def _all_targets(tx: Tx) -> list[tuple[str, str, tuple[str, str]]]:
    """(alias or domain, target, the target's key)."""
    pairs = [(alias.address, target) for alias in directory.aliases(tx) for target in alias.targets]
    pairs += [(domain.shown, domain.catch_all) for domain in directory.domains(tx) if domain.catch_all is not None]
    return [(where, target, address_key(target)) for where, target in pairs]


def _elsewhere(where: str, target: str) -> Finding:
    remedy = "mail for it is sent on to the server of that domain"
    return Finding(Severity.NOTE, f"sends to {target}, which is not kept here", where, remedy)
