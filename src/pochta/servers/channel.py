"""A connection, described to those who decide how somebody may sign in on it."""

from pochta.accounts.auth import Service
from pochta.accounts.sign_in import Channel
from pochta.net.connection import Connection


def channel_of(connection: Connection, service: Service, *, is_private: bool) -> Channel:
    """The connection as it is now; `is_private`: TLS is active, or the listener takes passwords without it."""
    return Channel(
        service=service,
        peer=connection.peer_address,
        is_private=is_private,
        client_names=connection.client_names if connection.is_secure else (),
        end_point=lambda: connection.tls_end_point if connection.is_secure else None,
    )
