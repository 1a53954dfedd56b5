"""Three rounds in which the client and the others change the account at the same time."""

from interop_sides import Account, Client, agree

REPORTS = "Отчёты"
PLANS = "Планы & цели/2025"


def three_rounds(here: Client, there: Account) -> None:
    """Hold the client and the server against each other before, between and after changes on both sides."""
    for name in ("plain", "dots", "eight_bit"):
        there.deliver(name)
    there.append("INBOX", "long_line", r"\Seen", "$Label1")
    start = {"plain": "", "dots": "", "eight_bit": "", "long_line": r"$Label1 \Seen"}
    agree(here, there, {"INBOX": start})
    _first_round(here, there)
    _second_round(here, there)
    _third_round(here, there)


def _first_round(here: Client, there: Account) -> None:
    here.append("INBOX", "binary", r"\Seen")
    here.flag("INBOX", "plain", r"\Flagged", r"\Seen")
    here.flag("INBOX", "eight_bit", r"\Seen")
    here.flag("INBOX", "long_line")
    there.deliver("multipart")
    there.flag("INBOX", "dots", "+FLAGS", r"\Answered", "$Forwarded")
    there.create(REPORTS)
    there.append(REPORTS, "utf8", r"\Draft")
    inbox = {
        "plain": r"\Flagged \Seen",
        "dots": r"$Forwarded \Answered",
        "eight_bit": r"\Seen",
        "long_line": "$Label1",
        "binary": r"\Seen",
        "multipart": "",
    }
    agree(here, there, {"INBOX": inbox, REPORTS: {"utf8": r"\Draft"}})


def _second_round(here: Client, there: Account) -> None:
    here.delete("INBOX", "eight_bit")
    here.move("INBOX", "plain", REPORTS)
    here.append(REPORTS, "big", r"\Flagged")
    here.flag("INBOX", "dots", r"\Answered", r"\Flagged")
    there.delete("INBOX", "long_line")
    there.move("INBOX", "multipart", "Archive")
    there.flag("INBOX", "binary", "-FLAGS", r"\Seen")
    there.append("Archive", "unended", r"\Seen", r"\Answered")
    inbox = {"dots": r"$Forwarded \Answered \Flagged", "binary": ""}
    reports = {"utf8": r"\Draft", "plain": r"\Flagged \Seen", "big": r"\Flagged"}
    agree(here, there, {"INBOX": inbox, REPORTS: reports, "Archive": {"multipart": "", "unended": r"\Answered \Seen"}})


def _third_round(here: Client, there: Account) -> None:
    here.create(PLANS.partition("/")[0])
    here.create(PLANS)
    here.append(PLANS, "long_line")
    here.append("INBOX", "eight_bit", r"\Seen")
    here.delete(REPORTS, "big")
    here.move("Archive", "multipart", "INBOX")
    here.flag("INBOX", "binary", r"\Seen")
    there.flag("INBOX", "binary", "+FLAGS", "$Work")
    there.flag("INBOX", "dots", "FLAGS", r"\Flagged")
    there.delete(REPORTS, "plain")
    there.append(REPORTS, "empty", "$Label1")
    there.append("Archive", "big", r"\Flagged")
    inbox = {"dots": r"\Flagged", "binary": r"$Work \Seen", "eight_bit": r"\Seen", "multipart": ""}
    archive = {"unended": r"\Answered \Seen", "big": r"\Flagged"}
    reports = {"utf8": r"\Draft", "empty": "$Label1"}
    agree(here, there, {"INBOX": inbox, REPORTS: reports, "Archive": archive, PLANS: {"long_line": ""}})
