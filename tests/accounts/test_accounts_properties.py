"""What nobody wrote on purpose: any text as hash, file, password or user name ends in a documented way."""

from contextlib import suppress

from accounts_harness import CHEAP, NOW, Accounts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pochta.accounts import declare, edit, saslprep
from pochta.accounts.directory import Resolution, resolve, trace
from pochta.accounts.passwords import check_hash, hash_password, verify_password
from pochta.errors import Refusal, SetupError
from pochta.log import Secret
from pochta.proto.address import parse_mailbox
from pochta.store.tx import Tx

NAMES = ("a", "b", "c", "d", "user")
ALIASES = st.dictionaries(
    st.sampled_from(NAMES[:-1]), st.lists(st.sampled_from((*NAMES, "gone")), min_size=1, unique=True), max_size=4
)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.from_regex(r"\$(6|scrypt|argon2id|2b)\$[ -~]{0,120}", fullmatch=True))
def test_any_text_as_hash(text: str) -> None:
    try:
        credential = check_hash(text)
    except Refusal:
        return
    assert check_hash(credential) == credential


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_as_password(text: str) -> None:
    try:
        prepared = saslprep.prepare(text)
        credential = hash_password(Secret(text), CHEAP)
    except Refusal:
        return
    assert saslprep.prepare(prepared) == prepared
    assert verify_password(credential, Secret(text))


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=80)
    | st.builds(
        "[[{}]]\n{} = {}".format,
        st.sampled_from(("domain", "account", "alias")),
        st.sampled_from(("name", "address", "targets", "quota", "password", "password_hash", "catch_all")),
        st.sampled_from(("1", "true", '"x"', '"a@b.example"', "[]", '["a@b.example"]', "1979-05-27", "{}", "nan")),
    )
)
def test_any_text_as_file(text: str) -> None:
    with suppress(SetupError):
        declare.parse(text, "x")


class _Undone(Exception):
    pass


def _walk(tx: Tx, graph: dict[str, list[str]]) -> None:
    edit.add_domain(tx, "example.org", None, NOW)
    user = edit.add_account(tx, "user@example.org", "", 0, NOW)
    for name, targets in graph.items():
        edit.put_alias(tx, f"{name}@example.org", [f"{target}@example.org" for target in targets], NOW)
    for name in graph:
        reached, waiting = set(), [name]
        while waiting:
            at = waiting.pop()
            if at not in reached:
                reached.add(at)
                waiting += graph.get(at, [])
        address = parse_mailbox(f"{name}@example.org")
        found = trace(tx, address)
        assert found.accounts == ((user,) if "user" in reached else ())
        assert set(found.broken) == {f"{one}@example.org" for one in reached - graph.keys() - {"user"}}
        try:
            assert resolve(tx, address) == found
        except Refusal:
            assert found == Resolution((), broken=found.broken, loops=found.loops)
    raise _Undone


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graph=ALIASES)
def test_any_aliases_reach_what_the_graph_reaches(accounts: Accounts, graph: dict[str, list[str]]) -> None:
    try:
        accounts.write(_walk, graph)
    except _Undone:
        return
    raise AssertionError
