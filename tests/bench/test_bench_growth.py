"""What `growth` fills is what the server would have made, and what it tells is the factor between sizes."""

import asyncio

from rich.console import Console
from rich.progress import Progress

from measure.fill import fill_accounts
from measure.growth import ACCOUNTS, SIZES, growth_figures
from measure.growth_mailbox import SMALLEST, fill_mailbox
from measure.meter import Row
from measure.server import DOMAIN, BenchServer
from pochta.index import rebuild
from pochta.store import check, directory
from pochta.store.store import Store


def test_filled_mailboxes_and_accounts_hold_what_a_check_wants_to_see() -> None:
    with BenchServer(accounts=1) as server:
        fill_mailbox(server.data_dir, SMALLEST, Progress(console=Console(quiet=True)))
        told: list[int] = []
        fill_accounts(server.data_dir, DOMAIN, [f"a{number}" for number in range(30)], "", told.append)
        assert sum(told) == 30
        assert check.check(server.data_dir) == []

        async def standing() -> rebuild.Standing:
            store = Store(server.data_dir)
            store.start(hears_hints=False)
            try:
                account = await store.read(0, directory.account, DOMAIN, "u0")
                return await rebuild.standing(store, server.data_dir, account.id)
            finally:
                await store.close()

        found = asyncio.run(standing())
        assert (found.messages, found.indexed, found.waiting, found.fault) == (SMALLEST, SMALLEST, 0, None)


def test_factor_is_that_of_the_medians_and_small_figures_count_as_flat() -> None:
    rows = {
        1000: {
            "STORE of one": Row([300.0, 200.0, 100.0], [1.0]),
            "STATUS": Row([4.0]),
            "start until at rest": Row([1e6]),
        },
        9000: {"STORE of one": Row([900.0], [2.0]), "STATUS": Row([90.0]), "start until at rest": Row([9e6])},
    }
    one, two, three = growth_figures("messages", rows)
    assert (one.value, one.is_met) == (4.5, False)
    assert one.detail == {"1000": {"cpu_us": 200.0, "p50_ms": 1.0}, "9000": {"cpu_us": 900.0, "p50_ms": 2.0}}
    assert (two.value, two.is_met) == (0.9, True)
    assert three.is_met is None
    assert growth_figures("accounts", {}) == []
    assert min(SIZES) >= SMALLEST
    assert min(ACCOUNTS) > 1
