"""Settings as the administrator meets them: what a file means, and the one line that says what is wrong with it."""

import os
import re
from pathlib import Path

import pytest

from pochta import config
from pochta.config import Listener, ListenerProtocol, ListenerTls, Settings
from pochta.config_page import settings_page
from pochta.errors import SetupError

MINIMAL = 'hostname = "mail.example.org"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).touch()
    return tmp_path


def refusal(path: Path, text: str | bytes) -> str:
    """What `load` says of a file with this text, without the file's name, after the promises that hold for all."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SetupError) as caught:
        config.load(path)
    said = str(caught.value)
    assert said.isprintable()
    assert said.startswith(f"{path}: ")
    return said[len(f"{path}: ") :]


def listener(*lines: str, protocol: str = "imap", address: str = "127.0.0.1:0") -> str:
    return "\n".join(["[[listener]]", f'protocol = "{protocol}"', f'address = "{address}"', *lines, ""])


BAD_FILES = {
    "missing key": ("workers = 1", 'hostname: missing; add the line hostname = "…"'),
    "unknown key": (MINIMAL + 'post_master = "a@b.org"', 'post_master: no such setting; did you mean "postmaster"?'),
    "unknown key, nothing like it": (
        MINIMAL + "[tls]\nfrobnicate = 1",
        "tls.frobnicate: no such setting; known here: certificate, client_ca, key",
    ),
    "unknown key in a list": (
        MINIMAL + listener() + listener("adress = 1"),
        'listener 2: adress: no such setting; did you mean "address"?',
    ),
    "plural of a list": (MINIMAL + "[[listeners]]", 'listeners: no such setting; did you mean "listener"?'),
    "wrong type": (
        MINIMAL + '[limits]\nrecipients = "many"',
        "limits.recipients: expected a whole number, got a text in quotes; see docs/settings.md",
    ),
    "number for a text": (
        MINIMAL + "postmaster = 3",
        "postmaster: expected a text in quotes, got a whole number; see docs/settings.md",
    ),
    "number for a path": (
        MINIMAL + "data_dir = 3",
        "data_dir: expected a text in quotes, got a whole number; see docs/settings.md",
    ),
    "empty path": (MINIMAL + 'data_dir = ""', "data_dir: expected a path, got nothing; see docs/settings.md"),
    "table for a list": (
        MINIMAL + '[listener]\nprotocol = "imap"',
        "listener: expected a list of tables, [[listener]], got a table; see docs/settings.md",
    ),
    "text for a table": (
        MINIMAL + 'tls = "yes"',
        "tls: expected a table, got a text in quotes; see docs/settings.md",
    ),
    "no number in a list": (
        MINIMAL + "listener = [7]",
        "listener 1: expected a table, got a whole number; see docs/settings.md",
    ),
    "text for true or false": (
        MINIMAL + listener('allow_plaintext_auth = "yes"'),
        "listener 1: allow_plaintext_auth: expected true or false, got a text in quotes; see docs/settings.md",
    ),
    "too few": (
        MINIMAL + "workers = 0",
        "workers: expected a whole number of at least 1; see docs/settings.md",
    ),
    "too many": (
        MINIMAL + "[limits]\nrecipients = 100001",
        "limits.recipients: expected a whole number of at most 100000; see docs/settings.md",
    ),
    "beyond 64 bits": (
        MINIMAL + "[limits]\nmin_free_bytes = 36893488147419103232",
        "limits.min_free_bytes: expected a whole number of at most 1125899906842624; see docs/settings.md",
    ),
    "unknown protocol": (
        MINIMAL + listener(protocol="imaps"),
        'listener 1: protocol: "imaps" is not known; did you mean "imap"?',
    ),
    "unknown protocol, nothing like it": (
        MINIMAL + listener(protocol="gopher"),
        'listener 1: protocol: "gopher" is not known; write one of smtp, submission, imap, pop3, lmtp, metrics',
    ),
    "unknown tls": (
        MINIMAL + listener('tls = "ssl"'),
        'listener 1: tls: "ssl" is not known; write one of none, starttls, implicit',
    ),
    "lmtp on the port of others": (
        MINIMAL + listener() + listener(protocol="lmtp", address="127.0.0.1:25"),
        'listener 2: "lmtp" may not use port 25; the usual one is "127.0.0.1:24"',
    ),
    "unknown way with bare newlines": (
        MINIMAL + '[smtp]\nbare_newline = "refuze"',
        'smtp.bare_newline: "refuze" is not known; did you mean "refuse"?',
    ),
    "exempt, but no network": (
        MINIMAL + '[smtp]\nbare_newline_exempt = ["10.0.0.1", "10.0.0.1/8"]',
        'smtp.bare_newline_exempt: "10.0.0.1/8" is no network (10.0.0.1/8 has host bits set);'
        ' write it as "192.0.2.0/24"',
    ),
    "listener without address": (
        MINIMAL + '[[listener]]\nprotocol = "imap"',
        'listener 1: address: missing; add the line address = "…"',
    ),
    "no host name": (
        MINIMAL.replace("mail.example.org", "mail example"),
        'hostname: "mail example" is not a host name; write it as "mail.example.org"',
    ),
    "line break in a value": (
        r'hostname = "mail\nERROR: forged"',
        r'hostname: "mail\nERROR: forged" is not a host name; write it as "mail.example.org"',
    ),
    "line break in a key": (
        MINIMAL + r'"post\nmaster" = 1',
        r'post\nmaster: no such setting; did you mean "postmaster"?',
    ),
    "no postmaster address": (
        MINIMAL + 'postmaster = "root"',
        'postmaster: "root" is not an address; write it as "admin@example.org"',
    ),
    "address without port": (
        MINIMAL + listener(address="127.0.0.1"),
        'listener 1: address "127.0.0.1" is not an address and a port;'
        ' write it as "127.0.0.1:25", "[::1]:25" or "*:25"',
    ),
    "IPv6 without brackets": (
        MINIMAL + listener(address="::1:25"),
        'listener 1: address "::1:25" is not an address and a port; write it as "127.0.0.1:25", "[::1]:25" or "*:25"',
    ),
    "port too high": (
        MINIMAL + listener(address="*:65536"),
        'listener 1: address "*:65536" has port 65536; ports end at 65535',
    ),
    "host name for address": (
        MINIMAL + listener(address="localhost:25"),
        'listener 1: address "localhost:25" names "localhost", which is not an IP address'
        ' (for this machine alone: "127.0.0.1"); write one, or "*" for all',
    ),
    "bad IPv4": (
        MINIMAL + listener(address="300.1.1.1:25"),
        'listener 1: address "300.1.1.1:25" names "300.1.1.1", which is not an IP address; write one, or "*" for all',
    ),
    "duplicate address": (
        MINIMAL + listener(address="127.0.0.1:2143") + listener(address="127.0.0.1:2143"),
        'listener 2: address "127.0.0.1:2143" is already taken by listener 1; give each its own port',
    ),
    "address within all addresses": (
        MINIMAL + listener(protocol="smtp", address="*:2143") + listener(address="[::1]:2143"),
        'listener 2: address "[::1]:2143" is already taken by listener 1; give each its own port',
    ),
    "any IPv4 beside one": (
        MINIMAL
        + listener(protocol="smtp", address="10.0.0.1:2143")
        + listener(protocol="smtp", address="0.0.0.0:2143"),
        'listener 2: address "0.0.0.0:2143" is already taken by listener 1; give each its own port',
    ),
    "passwords for all to read": (
        MINIMAL + listener("allow_plaintext_auth = true", address="*:143"),
        "listener 1: allow_plaintext_auth would let others read passwords sent to *:143;"
        ' remove it, or listen on "127.0.0.1"',
    ),
    "passwords that nobody may send": (
        MINIMAL + listener(protocol="submission", address="*:587"),
        'listener 1: nobody could sign in at *:587, for passwords need TLS there; write tls = "starttls" or "implicit"',
    ),
    "lmtp for all": (
        MINIMAL + listener(protocol="lmtp", address="*:24"),
        'listener 1: "lmtp" asks for no password; listen on "127.0.0.1:24", or on the address that the mail system in'
        " front reaches",
    ),
    "metrics for all to read": (
        MINIMAL + listener(protocol="metrics", address="*:9180"),
        'listener 1: "metrics" asks for no password; listen on "127.0.0.1:9180", with tls = "none"',
    ),
    "not TOML": (
        MINIMAL + "\nworkers = \n",
        "not TOML: Invalid value (at line 3, column 11); correct that line",
    ),
    "given twice": (
        MINIMAL + MINIMAL,
        "not TOML: Cannot overwrite a value (at line 2, column 30); correct that line",
    ),
    "not UTF-8": (
        MINIMAL.encode() + b"# caf\xe9\n",
        "line 2 is not UTF-8; save the file as UTF-8",
    ),
    "no settings file": (b"#" * (1024 * 1024 + 1), "larger than 1 MiB; this is not a settings file"),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refusal(tmp_path / "pochta.toml", text) == said


def test_every_bound_is_held(tmp_path: Path) -> None:
    path = tmp_path / "pochta.toml"
    table = ""
    for line in settings_page().splitlines():
        if section := re.match(r"## `\[(\w+)\]`", line):
            table = section[1]
        found = re.match(r"\| `(\w+)` \| `\d+` \| (\d+) to (\d+) \|", line)
        if not found or not table:
            continue
        key, low, high = found[1], int(found[2]), int(found[3])
        for value in (low, high):
            path.write_text(f"{MINIMAL}[{table}]\n{key} = {value}\n")
            assert getattr(getattr(config.load(path), table), key) == value
        for value in (low - 1, high + 1):
            said = refusal(path, f"{MINIMAL}[{table}]\n{key} = {value}\n")
            assert said.startswith(f"{table}.{key}: expected a whole")


ROUTE = '[[route]]\nname = "out"\nhosts = ["relay.example.net"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queue]\nretry_after_s = [60, 0]\n", "queue.retry_after_s: 0 is no wait between attempts"),
        ('[dns]\nservers = ["ns.example.org"]\n', 'dns.servers: "ns.example.org" is not an address and a port'),
        ('[dns]\nservers = ["*:53"]\n', 'dns.servers: "*:53" is no place to ask; write it as "127.0.0.1:53"'),
        ('[checks]\nblocklists = ["no such"]\n', 'checks.blocklists: "no such" is no zone'),
        ('[checks]\naccept_from = ["a b"]\n', 'checks.accept_from: "a b" is neither a network nor a domain'),
        ('[outbound]\nsource_addresses = ["here"]\n', 'outbound.source_addresses: "here" is not an IP address'),
        ('[outbound]\nsource_addresses = ["10.0.0.1", "10.0.0.2"]\n', "outbound.source_addresses: names two"),
        ('[outbound]\nca_file = "none.pem"\n', "outbound.ca_file: "),
        (ROUTE + ROUTE.replace('"out"', '"in"'), 'route 2: mail to * from * already goes by route "out"'),
        (ROUTE + 'username = "anna"\n', "route 1: username and password_file go together; write both"),
        (ROUTE + 'username = "anna"\npassword_file = "none"\n', "route 1: password_file: "),
        (ROUTE + 'username = "a"\npassword_file = "x"\ntls = "opportunistic"\n', "route 1: a password goes only to"),
        ('[[route]]\nname = "out"\nlmtp = true\n', "route 1: lmtp, implicit_tls and username need hosts"),
        ('[[route]]\nname = "o ut"\n', 'route 1: name "o ut" may hold letters'),
        (ROUTE.replace("relay.example.net", "a:b:c"), 'route 1: hosts: "a:b:c" is no host'),
        (
            listener('proxy_from = ["x"]', protocol="smtp", address="127.0.0.1:2525"),
            'listener 1: proxy_from: "x" is no',
        ),
    ],
)
def test_settings_of_transfer_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path / "pochta.toml", MINIMAL + text).startswith(said)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("127.0.0.1:2143", "127.0.0.1:2144"),
        ("127.0.0.1:2143", "127.0.0.2:2143"),
        ("127.0.0.1:2143", "[::1]:2143"),
        ("0.0.0.0:2143", "[::]:2143"),
        ("127.0.0.1:0", "127.0.0.1:0"),
    ],
)
def test_addresses_that_go_together(tmp_path: Path, first: str, second: str) -> None:
    path = tmp_path / "pochta.toml"
    path.write_text(MINIMAL + listener(protocol="smtp", address=first) + listener(protocol="smtp", address=second))
    assert [one.address for one in config.load(path).listeners] == [first, second]


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(SetupError) as caught:
        config.load(path)
    assert str(caught.value) == f"{path}: no such file; make one with `pochta init`, or name another with -c"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as caught:
        config.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot be read (Is a directory); check its path and permissions"


def test_a_certificate_that_is_not_there(folder: Path) -> None:
    text = MINIMAL + '[tls]\ncertificate = "certificate.pem"\nkey = "gone.pem"\n' + listener('tls = "implicit"')
    assert refusal(folder / "pochta.toml", text) == (
        f"tls.key: {folder}/gone.pem cannot be read (No such file or directory);"
        " make a pair with `pochta init`, or name another file"
    )
    assert config.load(folder / "pochta.toml", check_files=False).tls.key == folder / "gone.pem"


def test_a_certificate_that_cannot_be_read(folder: Path) -> None:
    (folder / "loop.pem").symlink_to("loop.pem")  # as permissions do not stop root
    text = MINIMAL + '[tls]\ncertificate = "loop.pem"\nkey = "key.pem"\n' + listener('tls = "starttls"')
    assert refusal(folder / "pochta.toml", text) == (
        f"tls.certificate: {folder}/loop.pem cannot be read (Too many levels of symbolic links);"
        " correct its permissions, or name another file"
    )


def test_a_certificate_nobody_shows_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "pochta.toml"
    path.write_text(MINIMAL + listener())
    assert not config.load(path).uses_tls


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "pochta.toml"
    path.write_text(MINIMAL)
    got = config.load(path)
    assert got == Settings(
        hostname="mail.example.org",
        data_dir=tmp_path / "data",
        workers=len(os.sched_getaffinity(0)),
        tls=config.Tls(certificate=tmp_path / "data/tls/certificate.pem", key=tmp_path / "data/tls/key.pem"),
    )
    assert (got.postmaster, got.user, got.listeners) == (None, None, ())


@pytest.mark.parametrize("given", ["relative", "absolute"])
def test_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    (folder / "etc").mkdir()
    (folder / "etc/pochta.toml").write_text(
        MINIMAL + 'data_dir = "../mail"\n[tls]\ncertificate = "/certificate.pem"\nkey = "../key.pem"\n'
    )
    monkeypatch.chdir(folder)
    got = config.load(Path("etc/pochta.toml") if given == "relative" else folder / "etc/pochta.toml")
    assert got.data_dir.is_absolute()
    assert got.data_dir.resolve() == folder / "mail"
    assert got.tls.certificate == Path("/certificate.pem")
    assert got.tls.key.resolve() == folder / "key.pem"


def test_which_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local, system = Path("pochta.toml"), tmp_path / "etc.toml"
    monkeypatch.setattr("pochta.config.file.DEFAULT_PATHS", (local, system))
    named, by_environment = tmp_path / "named.toml", tmp_path / "environment.toml"
    environ = {config.ENVIRONMENT_KEY: str(by_environment)}
    for path in (named, by_environment, local, system):
        path.touch()
    assert config.find_config(named, environ) == named
    assert config.find_config(None, environ) == by_environment
    assert config.find_config(None, {config.ENVIRONMENT_KEY: ""}) == local
    local.unlink()
    assert config.find_config(None, {}) == system
    system.unlink()
    with pytest.raises(SetupError) as caught:
        config.find_config(None, {})
    assert str(caught.value) == (
        f"no settings: neither pochta.toml nor {system} exists; make one with `pochta init`, or name it with -c"
    )


def test_a_named_file_that_is_not_there_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pochta.toml").touch()
    with pytest.raises(SetupError, match=r"^gone\.toml: no such file; "):
        config.find_config("gone.toml", {})
    with pytest.raises(SetupError, match=r"^gone\.toml: no such file; "):
        config.find_config(None, {config.ENVIRONMENT_KEY: "gone.toml"})


def test_the_usual_places() -> None:
    assert (Path("pochta.toml"), Path("/etc/pochta/pochta.toml")) == config.DEFAULT_PATHS


def test_a_worker_gets_the_settings_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "pochta.toml"
    path.write_text(
        MINIMAL
        + 'postmaster = "püsztmaster@example.org"\nuser = "mail"\nworkers = 3\n[limits]\nhops = 123\n'
        + listener("allow_plaintext_auth = true", address="[::1]:2143")
        + listener(protocol="smtp", address="*:0")
    )
    settings = config.load(path)
    line = config.encode(settings)
    assert b"\n" not in line
    assert config.decode(line) == settings


def test_a_new_file_means_what_it_was_made_of(tmp_path: Path) -> None:
    path = tmp_path / "pochta.toml"
    listeners = (
        Listener(protocol=ListenerProtocol.SMTP, address="*:25", tls=ListenerTls.STARTTLS),
        Listener(protocol=ListenerProtocol.IMAP, address="127.0.0.1:2143", allow_plaintext_auth=True),
    )
    text = config.initial_toml(
        "mail.example.org", 'odd\x7f\\"@example.org', listeners=listeners, data_dir="d", user="u", workers=2
    )
    path.write_text(text)
    got = config.load(path, check_files=False)
    assert got.listeners == listeners
    assert (got.hostname, got.postmaster) == ("mail.example.org", 'odd\x7f\\"@example.org')
    assert (got.data_dir, got.user, got.workers) == (tmp_path / "d", "u", 2)
    path.write_text(config.initial_toml("mail.example.org"))
    assert config.load(path, check_files=False).listeners == config.INITIAL_LISTENERS


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:25", "127.0.0.1", 25),
        ("[::1]:143", "::1", 143),
        ("[2001:DB8:0::1]:143", "2001:db8::1", 143),
        ("*:0", "*", 0),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    one = Listener(protocol=ListenerProtocol.IMAP, address=address)
    assert (one.host, one.port) == (host, port)
    assert config.is_loopback(host) == (host in ("127.0.0.1", "::1"))


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).parents[1] / "docs/settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run python -m pochta.config_page > docs/settings.md"


def test_the_page_has_every_key() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", settings_page(), re.MULTILINE)
    structs = (
        *(Settings, config.Tls, Listener, config.Smtp, config.Imap, config.Pop3, config.Auth, config.Oauth),
        *(config.Checks, config.Sending, config.Queue, config.Outbound, config.Route, config.Dns, config.Limits),
    )
    keys = [
        key for struct in structs for key, (hint, _) in config.fields_of(struct).items() if not config.struct_of(hint)
    ]
    assert listed == keys


def test_the_examples_of_ways_out(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/sending.md").read_text(encoding="utf-8")
    (tmp_path / "relay-password").write_text("secret\n")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    path = tmp_path / "pochta.toml"
    path.write_text(MINIMAL + "\n".join(examples))
    assert [one.name for one in config.load(path).routes] == ["provider", "bank", "news"]
