"""Settings of signing in: what they mean, and the one line that says what is wrong with them."""

from pathlib import Path

import pytest

from pochta import config
from pochta.config import Auth, Oauth
from pochta.errors import SetupError

MINIMAL = 'hostname = "mail.example.org"\n'
ISSUER = MINIMAL + '[oauth]\nissuer = "https://login.example.org/realm"\naudience = "mail"\n'

BAD = {
    "PLUS alone": (MINIMAL + "[auth]\nscram_sha_256_plus = true", "auth.scram_sha_256_plus: needs scram_sha_256"),
    "no issuer": (MINIMAL + '[oauth]\naudience = "mail"', "oauth.audience: needs the issuer"),
    "no audience": (MINIMAL + '[oauth]\nissuer = "https://login.example.org"', "oauth.audience: missing"),
    "no claim": (ISSUER + 'claim = ""', "oauth.claim: empty"),
    "no algorithms": (ISSUER + "algorithms = []", "oauth.algorithms: empty"),
    "a shared key": (ISSUER + 'algorithms = ["RS256", "HS256"]', 'oauth.algorithms: "HS256" cannot be used'),
    "no signature": (ISSUER + 'algorithms = ["none"]', 'oauth.algorithms: "none" cannot be used'),
    "no scope": (ISSUER + 'scope = "a\\"b"', 'oauth.scope: "a"b" is no scope'),
    "no keytab": (MINIMAL + '[auth]\nkeytab = "none"', "auth.keytab: "),
    "no authority": (MINIMAL + '[tls]\nclient_ca = "none"', "tls.client_ca: "),
    "no CA file": (ISSUER + 'ca_file = "none"', "oauth.ca_file: "),
}


def loaded(folder: Path, text: str) -> config.Settings:
    path = folder / "pochta.toml"
    path.write_text(text)
    return config.load(path)


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_said(tmp_path: Path, what: str) -> None:
    text, said = BAD[what]
    with pytest.raises(SetupError) as caught:
        loaded(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'pochta.toml'}: {said}")


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.org",
        "login.example.org",
        "https://",
        "https://[x",
        "https://a:b",
        "https://user@login.example.org",
        "https://login.example.org/?x",
        "https://login.example.org/#x",
        "https://l\u00f6gin.example.org",
        "ftp://127.0.0.1",
        "http://10.0.0.1",
    ],
)
def test_issuers_that_are_not_safe(tmp_path: Path, url: str) -> None:
    with pytest.raises(SetupError, match="is no safe URL"):
        loaded(tmp_path, ISSUER.replace("https://login.example.org/realm", url))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/realm", "http://localhost", "http://[::1]:8080", "https://a.example:8443/"]
)
def test_issuers_that_are_safe(tmp_path: Path, url: str) -> None:
    assert loaded(tmp_path, ISSUER.replace("https://login.example.org/realm", url)).oauth.issuer == url


def test_defaults(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    assert settings.auth == Auth(scram_sha_256=False, scram_sha_256_plus=False, keytab=None)
    assert settings.oauth == Oauth(issuer=None, audience=None, claim="email", algorithms=("RS256", "ES256"))
    assert settings.tls.client_ca is None


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    for name in ("ca.pem", "clients.pem"):
        (tmp_path / name).touch()
    settings = loaded(tmp_path, ISSUER + 'ca_file = "ca.pem"\n[tls]\nclient_ca = "clients.pem"\n')
    assert settings.oauth.ca_file == tmp_path / "ca.pem"
    assert settings.tls.client_ca == tmp_path / "clients.pem"
    assert config.decode(config.encode(settings)) == settings


def test_kerberos_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keytab").touch()
    monkeypatch.setattr("pochta.config.sign_in.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install pochta\[gssapi\]"):
        loaded(tmp_path, MINIMAL + '[auth]\nkeytab = "keytab"\n')
