"""Coverage-guided fuzzing of SCRAM: `pip install atheris`, then `python tests/fuzz/fuzz_scram.py -runs=N`."""

import sys

from pochta.errors import RemoteProtocolError
from pochta.proto import scram

KEYS = scram.derive_keys(b"password", b"salt", scram.MIN_ITERATIONS)


def consume(data: bytes) -> None:
    """Any two messages are an exchange or break the protocol; nobody gets in without the password."""
    first, _, final = data.partition(b"\0")
    try:
        exchange = scram.ServerExchange(
            scram.parse_client_first(first), server_nonce=b"nonce", salt=b"salt", iterations=scram.MIN_ITERATIONS
        )
        exchange.receive(final)
    except RemoteProtocolError:
        return
    assert not exchange.is_proven_by(KEYS.stored_key)


if __name__ == "__main__":
    import atheris

    atheris.instrument_all()
    atheris.Setup(sys.argv, consume)
    atheris.Fuzz()
