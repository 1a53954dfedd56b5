"""Domain names as they are asked for: lower case, A-labels, no final dot. Labels of any octets are told in escapes."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

MAX_NAME_CHARS: Final = 253  # RFC 1035 §2.3.4: 255 octets with the length octets
_NAME_RE = re.compile(r"[^.]{1,63}(?:\.[^.]{1,63})*")
_A_LABEL_RE = re.compile(r"[a-z0-9_-]{1,63}")
_PLAIN_RE = re.compile(rb"[!-\-/-\[\]-~]+")  # visible, neither dot nor backslash
# IDNA 2008 keeps these four, which the older mapping folds away or removes: ss for eszett would be another's domain.
_IDNA_2008_RE = re.compile("[ßς\u200c\u200d]")


def to_question(name: str) -> str | None:
    """The name in lower case and A-labels, without the final dot; None where DNS cannot hold it.

    Underscores and other ASCII are taken as they are: what is asked for need not be a host.
    """
    # The length bounds the time of `encodings.idna`, too: it is quadratic.
    if len(name) > MAX_NAME_CHARS + 1:
        return None
    if not name.isascii():
        labels = [_to_a_label(label) for label in name.split(".")]
        name = ".".join(["." if label is None else label for label in labels])
    name = name.lower().removesuffix(".")
    return name if len(name) <= MAX_NAME_CHARS and _NAME_RE.fullmatch(name) else None


def to_text(labels: Iterable[bytes]) -> str:
    """The name of these labels in lower case, without the root; octets that are not plain text as `\\DDD`.

    So two names never look alike, and none looks like a part of another.
    """
    return ".".join([_label_text(label) for label in labels if label]).lower()


def _label_text(label: bytes) -> str:
    if _PLAIN_RE.fullmatch(label):
        return label.decode("ascii")
    return "".join([chr(octet) if _PLAIN_RE.fullmatch(bytes((octet,))) else f"\\{octet:03}" for octet in label])


def _to_a_label(label: str) -> str | None:
    # Imported late: its tables are not needed before the first such name.
    from encodings import idna

    if label.isascii():
        return label
    try:
        if _IDNA_2008_RE.search(label):
            prepared = unicodedata.normalize("NFC", label.lower())
            a_label = "xn--" + prepared.encode("punycode").decode("ascii")
        elif "\u3002" in (prepared := idna.nameprep(label)):
            # The ideographic full stop is a dot to some resolvers and a letter to others
            return None
        else:
            a_label = idna.ToASCII(prepared).decode("ascii").lower()
    except UnicodeError:
        return None
    # A letter whose compatibility form is a dot or a space must not come out as another name.
    return a_label if _A_LABEL_RE.fullmatch(a_label) else None
