"""The corpus of real and hostile messages (`POCHTA_CORPUS`), as far as it is mail."""

import os
from functools import cache
from pathlib import Path

_FOLDERS = (
    "notmuch-default",
    "notmuch-broken",
    "notmuch-html",
    "notmuch-attachment",
    "notmuch-threading",
    "mime-cpython",
)
_NOT_MAIL = (".bmp", ".gif", ".png", ".pbm", ".xbm", ".ras", ".tiff", ".aiff", ".wav")


@cache
def corpus() -> dict[str, bytes]:
    """The messages by file name; none where the variable is not set."""
    folder = os.environ.get("POCHTA_CORPUS")
    if not folder:
        return {}
    found = [path for name in _FOLDERS for path in sorted((Path(folder) / name).rglob("*")) if path.is_file()]
    return {path.name: path.read_bytes() for path in found if path.suffix not in _NOT_MAIL}
