"""The sweeper takes what limits, greylisting and keys no longer need."""

from accounts_harness import NOW, Accounts, query

from pochta.accounts import edit, sending
from pochta.accounts.sending import SendingLimits
from pochta.store import dkim_keys, greylist, sweep
from pochta.store.dkim_keys import NewKey
from pochta.store.greylist import Rules

DAY = 86_400
RULES = Rules(delay_s=60, retry_window_s=DAY, kept_s=3 * DAY)


def test_sweeper_takes_what_is_past_its_time(accounts: Accounts) -> None:
    accounts.write(edit.add_domain, "example.org", None, NOW, (NewKey("a", "ed25519-sha256", b"x"),))
    accounts.write(dkim_keys.rotate, "example.org", (NewKey("b", "ed25519-sha256", b"y"),), NOW)
    accounts.write(dkim_keys.activate, [2], NOW)
    anna, bert = accounts.account("anna@example.org"), accounts.account("bert@example.org")
    for account_id in (anna, bert):
        accounts.write(sending.charge, account_id, ["x@y.example"], SendingLimits(), NOW)
    for attempt, at in ((1, 0), (1, 60), (2, 0)):
        accounts.write(greylist.check, attempt, 1000 + attempt, RULES, NOW + at)

    def left(now: int) -> dict[str, list[object]]:
        accounts.run(sweep.Sweeper(accounts.store, greylist_rules=RULES).run_once(now))
        columns = {"sending": "account_id", "correspondent": "account_id", "greylist": "triplet_hash", "dkim_key": "id"}
        return {
            table: [row[0] for row in accounts.read(query, f"SELECT {column} FROM {table} ORDER BY 1")]
            for table, column in columns.items()
        }

    both = [anna, bert]
    all_of_it = {"sending": both, "correspondent": both, "greylist": [1, 2, 1001], "dkim_key": [1, 2]}
    assert left(NOW + DAY - 1) == all_of_it
    assert left(NOW + 2 * DAY) == all_of_it | {"greylist": [1, 1001]}
    assert left(NOW + 3 * DAY) == all_of_it | {"greylist": [1, 1001], "sending": []}
    assert left(NOW + 7 * DAY) == {"sending": [], "correspondent": both, "greylist": [], "dkim_key": [2]}
    accounts.write(edit.remove_account, "anna@example.org", NOW)
    assert left(NOW + 8 * DAY)["correspondent"] == [bert]
