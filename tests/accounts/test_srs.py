"""Return addresses of forwarded mail: there, back, and nothing that others made."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pochta.accounts import srs
from pochta.errors import Refusal, RefusalCode
from pochta.proto.address import MAX_PATH_BYTES, Address, AddressError, address_key, fold_local_part, parse_mailbox

SECRET = b"not a secret at all"
NOW_S = 1_795_000_000.0
DAY_S = 86400


def forward(sender: str, domain: str = "us.example", *, secret: bytes = SECRET, now_s: float = NOW_S) -> str:
    return srs.forward(secret, sender, domain, now_s=now_s)


def reverse(rewritten: str, *, secret: bytes = SECRET, now_s: float = NOW_S) -> str:
    return srs.reverse(secret, parse_mailbox(rewritten).local_part, now_s=now_s)


def refused(rewritten: str, *, secret: bytes = SECRET, now_s: float = NOW_S) -> str:
    with pytest.raises(Refusal) as caught:
        reverse(rewritten, secret=secret, now_s=now_s)
    assert caught.value.code is RefusalCode.NO_SUCH_USER
    return caught.value.detail


# What `proto.address` takes: atoms with dots, or anything printable in quotes; names, and address literals.
_UTF8 = "éß\u0130\u0131\u017f\u212aиβ字𝄞\u0338"
LOCAL_PARTS = st.text(alphabet='aBz09.=+-_ "\\@()' + _UTF8, max_size=40)
DOMAINS = st.one_of(
    st.from_regex(r"[a-zA-Z0-9]{1,9}(-[a-z0-9]{1,9})?(\.[A-Za-z]{2,9}){1,3}", fullmatch=True),
    st.sampled_from(["bücher.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "[tag:a=b]"]),
)


@st.composite
def addresses(draw: st.DrawFn) -> str:
    text = str(Address(draw(LOCAL_PARTS), draw(DOMAINS)))
    try:
        return str(parse_mailbox(text))
    except AddressError:
        assume(False)
        raise


def test_form() -> None:
    assert forward("anna@first.example") == "SRS0=veujvg=jh=first.example=anna@us.example"


@pytest.mark.parametrize("sender", ["", "anna@us.example", "anna@US.example"])
def test_null_and_own_stay(sender: str) -> None:
    assert forward(sender) == sender


def test_no_address() -> None:
    with pytest.raises(AddressError):
        forward("anna")


@given(addresses())
def test_round_trip(sender: str) -> None:
    rewritten = forward(sender)
    assert len(rewritten.encode()) <= MAX_PATH_BYTES - 2
    assert srs.is_rewritten(parse_mailbox(rewritten).local_part)
    back = reverse(rewritten)
    assert address_key(back) == address_key(sender)
    assert parse_mailbox(back).local_part == parse_mailbox(sender).local_part


@given(addresses(), st.sampled_from([str.lower, str.upper, str.casefold, str.swapcase]))
def test_case_may_change(sender: str, change) -> None:  # type: ignore[no-untyped-def]
    local_part = parse_mailbox(forward(sender)).local_part
    changed = change(local_part)
    # `ŉ`.upper() is two letters; what the case change itself makes another address is no case change to us
    assume(fold_local_part(changed) == fold_local_part(local_part))
    back = srs.reverse(SECRET, changed, now_s=NOW_S)
    assert address_key(back) == address_key(sender)


@settings(max_examples=300)
@given(addresses(), st.data())
def test_any_other_change_is_refused(sender: str, data: st.DataObject) -> None:
    local_part = parse_mailbox(forward(sender)).local_part
    at = data.draw(st.integers(0, len(local_part) - 1))
    letter = data.draw(st.sampled_from(sorted(set('ab27=-+@."\\ ' + _UTF8 + local_part))) | st.just(""))
    tampered = local_part[:at] + letter + local_part[at + 1 :]
    assume(fold_local_part(tampered) != fold_local_part(local_part))
    with pytest.raises(Refusal):
        srs.reverse(SECRET, tampered, now_s=NOW_S)


@given(st.text(max_size=300))
def test_whatever_comes(text: str) -> None:
    for local_part in (text, f"SRS0={text}", f"SRS0=aaaaaa={text}=x.example=y", f"SRS1=aaaaaa=x.example={text}"):
        with pytest.raises(Refusal):
            srs.reverse(SECRET, local_part, now_s=NOW_S)


@pytest.mark.parametrize("letter", "\u0130\u0131\u017f\u212a", ids=ascii)
@pytest.mark.parametrize("form", ["SRS0={}aaaaa=aa=x.example=y", "SRS0=aaaaaa={}a=x.example=y", "SR{}0=aaaaaa=aa=x=y"])
def test_letters_that_fold_to_others(letter: str, form: str) -> None:
    assert "not of our making" in refused(str(Address(form.format(letter), "us.example")))


@pytest.mark.parametrize(
    ("age_days", "is_good"),
    [(-2, False), (-1, True), (0, True), (21, True), (22, False), (1024, False), (1024 * 3 + 5, False)],
)
def test_age(age_days: int, is_good: bool) -> None:
    rewritten = forward("anna@first.example", now_s=NOW_S - age_days * DAY_S)
    if is_good:
        assert reverse(rewritten) == "anna@first.example"
    else:
        assert refused(rewritten)


def test_reasons() -> None:
    rewritten = forward("anna@first.example")
    assert "forged" in refused(rewritten, secret=b"another")
    assert "forged" in refused(rewritten.replace("anna", "bert"))
    assert "made 22 days ago" in refused(rewritten, now_s=NOW_S + 22 * DAY_S)
    assert "not of our making" in refused("anna@us.example")


def test_second_forwarder() -> None:
    first = forward("anna@origin.example", "first.example", secret=b"first")
    second = forward(first, "second.example", secret=b"second")
    third = forward(second, "third.example", secret=b"third")
    rest = first.partition("@")[0].removeprefix("SRS0")
    assert second.startswith("SRS1=")
    assert second.endswith(f"=first.example={rest}@second.example")
    # The way back passes by the second: only the first is named.
    assert third.endswith(f"=first.example={rest}@third.example")
    assert third.partition("=first")[0] != second.partition("=first")[0]
    for rewritten, secret in ((second, b"second"), (third, b"third")):
        assert reverse(rewritten, secret=secret) == first
        assert reverse(rewritten.lower(), secret=secret).lower() == first.lower()
        assert "forged" in refused(rewritten, secret=b"other")
    assert reverse(first, secret=b"first") == "anna@origin.example"


def test_second_forwarder_knows_no_age() -> None:
    second = forward("SRS0=abcd=zz=o.example=anna@first.example")
    assert reverse(second, now_s=NOW_S + 400 * DAY_S) == "SRS0=abcd=zz=o.example=anna@first.example"


@pytest.mark.parametrize(
    ("theirs", "back"),
    [
        ("SRS0=AbC+/=zz=o.example=anna@f.example", None),
        ("srs0+AbCd=zz=o.example=anna@f.example", "SRS0+AbCd=zz=o.example=anna@f.example"),
        ("SRS0-AbCd=123=o.example=anna@f.example", None),
        ("SRS1=xxxx=f.example==AbCd=zz=o.example=anna@s.example", "SRS0=AbCd=zz=o.example=anna@f.example"),
        ("SRS1+xxxx=f.example=+AbCd=zz=o.example=anna@s.example", "SRS0+AbCd=zz=o.example=anna@f.example"),
    ],
)
def test_what_others_made(theirs: str, back: str | None) -> None:
    rewritten = forward(theirs)
    assert rewritten.startswith("SRS1=")
    assert reverse(rewritten) == (back or theirs)


@pytest.mark.parametrize(
    "sender",
    [
        "srs0-fan@x.example",
        "SRS0=@x.example",
        "SRS1=a=b@x.example",
        '"SRS1=a=not a domain==b=c=d.example=e"@x.example',
        "SRS1=a===b=c=d.example=e@x.example",
    ],
)
def test_what_only_looks_like_it(sender: str) -> None:
    rewritten = parse_mailbox(forward(sender))
    assert rewritten.local_part.startswith("SRS0=")
    assert reverse(str(rewritten)) == sender


def test_ours_comes_round() -> None:
    ours = forward("anna@origin.example")
    theirs = forward(ours, "second.example", secret=b"second")
    assert forward(theirs) == ours


@pytest.mark.rfc(5321, "4.5.3.1.1")
def test_longer_than_every_server_takes() -> None:
    sender = f"{'l' * 64}@first.example"
    rewritten = forward(sender)
    assert len(rewritten.partition("@")[0]) > 64
    assert reverse(rewritten) == sender


@pytest.mark.rfc(5321, "4.5.3.1.3")
def test_longer_than_a_path() -> None:
    sender = f"{'l' * 230}@first.example"
    with pytest.raises(Refusal) as caught:
        forward(sender)
    assert caught.value.code is RefusalCode.LIMIT
