"""What a server says it can do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pochta.proto.smtp.client.extensions import NO_EXTENSIONS, Extensions, parse_extensions
from pochta.proto.smtp.replies import Reply

OFFERS = {
    "nothing": ("", {}),
    "usual": (
        "PIPELINING\nSIZE 10240000\n8BITMIME\nsmtputf8\nChunking\nDSN\nSTARTTLS\nENHANCEDSTATUSCODES\nREQUIRETLS",
        {
            "has_pipelining": True,
            "has_size": True,
            "max_message_bytes": 10240000,
            "has_8bitmime": True,
            "has_smtputf8": True,
            "has_chunking": True,
            "has_dsn": True,
            "has_start_tls": True,
            "has_requiretls": True,
        },
    ),
    "SIZE 0": ("SIZE 0", {"has_size": True}),
    "SIZE without": ("SIZE", {"has_size": True}),
    "SIZE of junk": ("SIZE 1k", {"has_size": True}),
    "SIZE of 30 digits": (f"SIZE {'9' * 30}", {"has_size": True}),
    "BINARYMIME alone": ("BINARYMIME", {}),
    "BINARYMIME": ("BINARYMIME\nCHUNKING", {"has_binarymime": True, "has_chunking": True}),
    "SMTPUTF8 alone": ("SMTPUTF8", {}),
    "AUTH": ("AUTH plain LOGIN  X", {"auth_mechanisms": ("PLAIN", "LOGIN", "X")}),
    "AUTH of old": ("AUTH=PLAIN LOGIN", {}),
    "LIMITS": (
        "LIMITS RCPTMAX=20 mailmax=5 RCPTDOMAINMAX=1 NEW=x OTHER",
        {"rcpt_max": 20, "mail_max": 5, "rcpt_domain_max": 1},
    ),
    "LIMITS of junk": ("LIMITS RCPTMAX=0 MAILMAX=1234567 RCPTDOMAINMAX=-1 =", {}),
    "DELIVERBY": ("DELIVERBY 240", {"has_deliver_by": True, "deliver_by_min_s": 240}),
    "MT-PRIORITY": ("MT-PRIORITY MIXER", {"has_mt_priority": True}),
    "twice": ("SIZE 1\nSIZE 2", {"has_size": True, "max_message_bytes": 1}),
    "junk": ("-X\n\n=\nPIPE LINING\nPIPELINING\u00a0x", {}),
}


@pytest.mark.rfc(1870, "4")
@pytest.mark.rfc(5321, "4.1.1.1")
@pytest.mark.parametrize(("lines", "found"), OFFERS.values(), ids=OFFERS.keys())
def test_offer(lines: str, found: dict[str, object]) -> None:
    assert parse_extensions(Reply(250, "", f"mx.example\n{lines}")) == Extensions(**found)  # type: ignore[arg-type]


def test_the_first_line_only_greets() -> None:
    assert parse_extensions(Reply(250, "", "PIPELINING")) == NO_EXTENSIONS


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    parse_extensions(Reply(250, "", text))
