"""`pochta dns`: the records that a domain needs, and what DNS says of them."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pochta import log
from pochta.accounts.key_rotation import KeyRotation
from pochta.cli.main import root
from pochta.store import dkim_keys
from pochta.store.store import Store
from pochta.testing.nameserver import Nameserver, read_zone
from pochta.testing.resolver import ZoneResolver

SERVER_ZONE = "mail A 192.0.2.5\nmail AAAA 2001:db8::5\n"
REVERSE = (
    ("2.0.192.in-addr.arpa", "5 PTR mail.example.org.\n"),
    ("8.b.d.0.1.0.0.2.ip6.arpa", "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 PTR mail.example.org.\n"),
)


def invoke(*words: str) -> Result:
    result = CliRunner().invoke(root, words, prog_name="pochta")
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


class Home:
    """A store with example.org, and the name server that its settings name."""

    def __init__(self, folder: Path, names: Nameserver) -> None:
        self.folder = folder
        self.names = names

    def run(self, *words: str) -> Result:
        return invoke("-c", str(self.folder / "pochta.toml"), *words)

    def lines(self) -> list[str]:
        """What is to be put into the zone."""
        return [one for one in self.run("dns", "example.org").output.splitlines() if one and not one.startswith(";")]

    def publish(self, lines: list[str]) -> None:
        """Let the zone say this, and what addresses the server has."""
        self.names.set_zone("example.org", SERVER_ZONE + "\n".join(lines))

    def states(self) -> dict[str, str]:
        """State by purpose and name, `spf example.org`."""
        records = json.loads(self.run("dns", "example.org", "--check", "--json").output)["records"]
        return {f"{one['purpose']} {one['name'].removesuffix('.example.org')}": one["state"] for one in records}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "mail"
    assert invoke("init", str(folder), "--hostname", "mail.example.org").exit_code == 0
    with Nameserver() as names:
        for origin, text in REVERSE:
            names.add_zone(origin, text)
        config = folder / "pochta.toml"
        address = ":".join(map(str, names.address))
        text = config.read_text(encoding="utf-8").replace(
            "[[listener]]", f'[dns]\nservers = ["{address}"]\ntimeout_s = 1\n\n[[listener]]', 1
        )
        config.write_text(text, encoding="utf-8")
        home = Home(folder, names)
        assert home.run("domain", "add", "example.org").exit_code == 0
        yield home


def test_printed_lines_are_a_zone_that_passes_its_own_check(home: Home) -> None:
    lines = home.lines()
    read_zone("example.org", "\n".join(lines))
    home.publish(lines)
    result = home.run("dns", "example.org", "--check")
    assert (result.exit_code, result.output.splitlines()[-1]) == (0, "DNS has all records.")
    assert set(home.states().values()) == {"ok"}


def test_strings_are_255_octets_at_most(home: Home) -> None:
    strings = re.findall(r'"([^"]*)"', "\n".join(home.lines()))
    assert max(map(len, strings)) == 255


def test_services_without_a_public_listener_are_told_as_not_offered(home: Home) -> None:
    config = home.folder / "pochta.toml"
    text = config.read_text(encoding="utf-8").replace('"*:995"', '"127.0.0.1:995"').replace('"*:465"', '"*:2465"')
    config.write_text(text, encoding="utf-8")
    found = {one["name"]: one["data"] for one in json.loads(home.run("dns", "example.org", "--json").output)["records"]}
    assert found["_pop3s._tcp.example.org"] == "0 0 0 ."
    assert found["_submissions._tcp.example.org"] == "0 1 2465 mail.example.org."


def test_nothing_published(home: Home) -> None:
    result = home.run("dns", "example.org", "--check")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("6 records to put right; ")
    assert set(home.states().values()) == {"missing"}


@pytest.mark.parametrize(
    ("record", "what", "state", "exit_code"),
    [
        ('@ TXT "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ?all"', "spf example.org", "ok", 0),
        ('@ TXT "v=spf1 ip4:192.0.2.5 ~all"', "spf example.org", "different", 1),
        ('@ TXT "v=spf1 mx:b.test -all"', "spf example.org", "different", 1),
        ('@ TXT "other"', "spf example.org", "missing", 1),
        ("@ MX 10 mx.b.test.", "mx example.org", "different", 1),
        ("@ MX 5 mx.b.test.\n@ MX 50 mail", "mx example.org", "ok", 0),
        ('_dmarc TXT "v=DMARC1; p=reject; sp=none"', "dmarc _dmarc", "ok", 0),
        ('_dmarc TXT "v=DMARC1; p=bad"', "dmarc _dmarc", "different", 1),
        ('_dmarc TXT "v=DMARC1; p=none"\n_dmarc TXT "v=DMARC1; p=reject"', "dmarc _dmarc", "different", 1),
        ("_imaps._tcp SRV 7 9 993 mail", "clients _imaps._tcp", "ok", 0),
        ("_imaps._tcp SRV 0 1 143 mail", "clients _imaps._tcp", "different", 0),
        ("_imaps._tcp SRV 0 0 0 .", "clients _imaps._tcp", "different", 0),
        ('mail TXT "v=spf1 -all"', "hello_spf mail", "different", 0),
    ],
)
def test_record_of_ones_own(home: Home, record: str, what: str, state: str, exit_code: int) -> None:
    name, kind = record.split()[:2]
    owner = "example.org." if name == "@" else f"{name}.example.org."
    kept = [one for one in home.lines() if not (one.split()[0] == owner and one.split()[2] == kind)]
    home.publish([*kept, record])
    assert home.states()[what] == state
    assert home.run("dns", "example.org", "--check").exit_code == exit_code


def test_dkim_record_with_another_key_is_different(home: Home) -> None:
    lines = home.lines()
    (key,) = [one for one in lines if "k=ed25519" in one]
    name = key.split()[0]
    swapped = [one for one in lines if one != key]
    swapped.append(f'{name} IN TXT "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="')
    home.publish(swapped)
    assert home.states()[f"dkim {name.removesuffix('.example.org.')}"] == "different"


def test_reverse_name_is_advised(home: Home) -> None:
    home.publish(home.lines())
    home.names.set_zone("2.0.192.in-addr.arpa", "5 PTR host-5.provider.test.\n")
    result = home.run("dns", "example.org", "--check")
    assert result.exit_code == 0
    assert re.search(r"^\(different\)\s+PTR\s.*host-5\.provider\.test", result.output, re.MULTILINE)


def test_server_that_does_not_answer_is_unknown(home: Home) -> None:
    home.publish(home.lines())
    home.names.fail("_dmarc.example.org")
    assert home.states()["dmarc _dmarc"] == "unknown"
    assert home.run("dns", "example.org", "--check").exit_code == 1


def test_new_keys_are_marked_and_begin_once_they_are_seen(home: Home) -> None:
    before = home.lines()
    home.publish(before)
    assert home.run("domain", "rotate-keys", "example.org").exit_code == 0
    assert home.run("dns", "example.org").output.count("; new: signs once this record is seen") == 2
    checked = home.run("dns", "example.org", "--check")
    assert checked.exit_code == 0
    assert checked.output.count("(missing)") == 2
    home.publish(home.lines())
    seen = home.run("dns", "example.org", "--check")
    assert len(re.findall(r"^The new DKIM key \S+ signs from now on\.$", seen.output, re.MULTILINE)) == 2
    keys = json.loads(home.run("domain", "keys", "example.org", "--json").output)
    assert [one["state"] for one in keys] == ["retired", "retired", "signing", "signing"]
    assert len(
        re.findall(r"; retired: may be removed on \d{4}-\d\d-\d\d$", home.run("dns", "example.org").output, re.M)
    )
    assert "signs from now on" not in home.run("dns", "example.org", "--check").output


def test_server_takes_new_keys_into_use_by_itself(home: Home) -> None:
    assert home.run("domain", "rotate-keys", "example.org").exit_code == 0
    records = json.loads(home.run("domain", "keys", "example.org", "--json").output)
    rsa, ed25519 = records[2:]
    resolver = ZoneResolver({rsa["name"]: {"TXT": [rsa["text"].replace("; ", ";")]}})
    resolver.fail(ed25519["name"])
    events: list[str] = []
    before = log.set_sink(events.append)

    async def look() -> tuple[list[str], list[str]]:
        store = Store(home.folder / "data")
        store.start(hears_hints=False)
        rotation = KeyRotation(store, resolver)
        first = [one.selector for one in await rotation.look()]
        resolver.recover(ed25519["name"])
        resolver.add(ed25519["name"], "TXT", ed25519["text"])
        second = [one.selector for one in await rotation.look()]
        assert await rotation.look() == []
        active = await store.read(0, dkim_keys.active, "example.org")
        assert {one.selector for one in active} == {rsa["selector"], ed25519["selector"]}
        await store.close()
        return first, second

    try:
        assert asyncio.run(look()) == ([rsa["selector"]], [ed25519["selector"]])
    finally:
        log.set_sink(before)
    assert sum("dkim.key.activated" in one for one in events) == 2
    assert sum("dkim.key.unknown" in one for one in events) == 1


def test_domain_that_is_not_kept_here(home: Home) -> None:
    result = home.run("dns", "else.test")
    assert (result.exit_code, result.stderr) == (1, "pochta: there is no domain else.test here\n")
