"""The sample messages of `pochta demo`: one of each kind that people send."""

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

_SENT: Final = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def _message(number: int, subject: str, sender: str, text: str) -> EmailMessage:
    message = EmailMessage()
    message["Date"] = format_datetime(_SENT + timedelta(hours=number))
    message["From"] = sender
    message["To"] = "alice@demo.example, bob@demo.example"
    message["Subject"] = subject
    message["Message-ID"] = f"<sample-{number}@demo.example>"
    message.set_content(text)
    return message


def _make() -> list[bytes]:
    welcome = _message(1, "Welcome to Pochta", "Pochta <postmaster@demo.example>", "Your first message has arrived.\n")
    cyrillic = _message(2, "Почта работает", "Ольга <olga@demo.example>", "Здравствуйте!\nПисьмо дошло.\n")
    html = _message(3, "Lunch on Thursday?", "Carol <carol@demo.example>", "Lunch on Thursday at noon?\n")
    html.add_alternative("<p>Lunch on <b>Thursday</b> at noon?</p>\n", subtype="html")
    reply = _message(4, "Re: Lunch on Thursday?", "Dave <dave@demo.example>", "> Lunch on Thursday at noon?\n\nYes!\n")
    reply["In-Reply-To"] = reply["References"] = "<sample-3@demo.example>"
    table = _message(5, "The figures", "Erin <erin@demo.example>", "They are attached.\n")
    table.add_attachment("month,letters\nJanuary,310\nFebruary,284\n", subtype="csv", filename="letters.csv")
    return [
        one.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        for one in (welcome, cyrillic, html, reply, table)
    ]


MESSAGES: Final = _make()
