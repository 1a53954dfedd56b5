"""The grammar of NOTIFY. Source: RFC 5465 §8."""

import pytest

from pochta.errors import RemoteProtocolError
from pochta.proto.imap import commands as c
from pochta.proto.imap import notify
from pochta.proto.imap.metadata import metadata_names
from pochta.proto.imap.notify import EventGroup, MailboxFilter, Notify, NotifyEvent
from pochta.proto.imap.parse import parse_command

NEW, GONE, FLAGS = NotifyEvent.MESSAGE_NEW, NotifyEvent.MESSAGE_EXPUNGE, NotifyEvent.FLAG_CHANGE
MEMBERSHIP = frozenset({NEW, GONE})
ALL = "MessageNew MessageExpunge FlagChange"


def parsed(text: str) -> Notify:
    tag, command = parse_command(b"a NOTIFY " + text.encode() + b"\r\n")
    assert tag == b"a"
    assert isinstance(command, Notify)
    return command


@pytest.mark.rfc(5465, "8")
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("NONE", Notify(), id="none"),
        pytest.param("none", Notify(), id="any-case"),
        pytest.param("SET (SELECTED NONE)", Notify((EventGroup(MailboxFilter.SELECTED),)), id="no-events"),
        pytest.param(
            "set status (personal (messagenew MessageExpunge))",
            Notify((EventGroup(MailboxFilter.PERSONAL, (), MEMBERSHIP),), wants_status=True),
            id="status",
        ),
        pytest.param(
            "SET (selected-delayed (MessageNew (UID FLAGS) MessageExpunge)) (inboxes (MailboxName))",
            Notify(
                (
                    EventGroup(
                        MailboxFilter.SELECTED_DELAYED,
                        (),
                        MEMBERSHIP,
                        (c.FetchAttribute.UID, c.FetchAttribute.FLAGS),
                    ),
                    EventGroup(MailboxFilter.INBOXES, (), frozenset({NotifyEvent.MAILBOX_NAME})),
                )
            ),
            id="items",
        ),
        pytest.param(
            'SET (subtree Lists NONE) (mailboxes ("a b" inbox) (SubscriptionChange ServerMetadataChange))'
            " (subscribed (MailboxMetadataChange))",
            Notify(
                (
                    EventGroup(MailboxFilter.SUBTREE, ("Lists",)),
                    EventGroup(
                        MailboxFilter.MAILBOXES,
                        ("a b", "INBOX"),
                        frozenset({NotifyEvent.SUBSCRIPTION_CHANGE, NotifyEvent.SERVER_METADATA_CHANGE}),
                    ),
                    EventGroup(MailboxFilter.SUBSCRIBED, (), frozenset({NotifyEvent.MAILBOX_METADATA_CHANGE})),
                )
            ),
            id="names",
        ),
    ],
)
def test_lawful(text: str, wanted: Notify) -> None:
    assert parsed(text) == wanted


def test_items_may_be_sections() -> None:
    command = parsed("SET (SELECTED (MessageNew (UID BODY.PEEK[HEADER.FIELDS (From To)]) MessageExpunge))")
    (group,) = command.groups
    assert [getattr(item, "label", item) for item in group.items] == [
        c.FetchAttribute.UID,
        b"BODY[HEADER.FIELDS (From To)]",
    ]


@pytest.mark.rfc(5465, "3.1")
@pytest.mark.parametrize(
    "events",
    [f"({ALL} AnnotationChange)", "(Foo)", "(Foo-Bar MailboxName)", f"({ALL} Foo)", "(MessageNew Foo)"],
)
@pytest.mark.parametrize("which", ["selected", "personal"])
def test_unknown_events_are_no_error_of_syntax(which: str, events: str) -> None:
    assert not parsed(f"SET ({which} {events})").is_supported


@pytest.mark.rfc(5465, "5")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "ALL",
        "SET",
        "SET ",
        "SET STATUS",
        "SET STATU (personal NONE)",
        "SET ()",
        "SET (personal)",
        "SET (personal ())",
        "SET (personal MailboxName)",
        "SET (everything (MailboxName))",
        "SET (subtree (MailboxName))",
        "SET (mailboxes () (MailboxName))",
        "SET (personal (MailboxName) NONE)",
        "SET (personal (MailboxName))x",
        "SET (personal (MailboxName)) ",
        "SET(personal (MailboxName))",
        "NONE (personal (MailboxName))",
        "SET (personal (MessageNew))",
        "SET (personal (MessageExpunge))",
        "SET (selected (FlagChange))",
        "SET (selected (AnnotationChange))",
        "SET (selected (FlagChange MessageNew))",
        "SET (selected (MailboxName))",
        "SET (selected-delayed (MessageNew MessageExpunge ServerMetadataChange))",
        "SET (selected NONE) (selected-delayed NONE)",
        "SET (selected NONE) (selected NONE)",
        "SET (personal (MessageNew (UID) MessageExpunge))",
        "SET (selected (MessageNew () MessageExpunge))",
        "SET (selected (MessageNew (ALL) MessageExpunge))",
        "SET (selected (MessageNew (FOO) MessageExpunge))",
        "SET (personal (" + "MailboxName " * notify.MAX_EVENTS + "MailboxName))",
        "SET" + " (personal NONE)" * (notify.MAX_GROUPS + 1),
        "SET" + (" (mailboxes (" + " ".join(["x"] * 200) + ") NONE)") * 6,
    ],
)
def test_bad(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        parsed(text)


@pytest.mark.rfc(5464, "4.4.2")
def test_names_of_annotations() -> None:
    assert metadata_names("", ["/shared/comment"]) == b'* METADATA "" /shared/comment\r\n'
    assert metadata_names("a b", ["/private/x", "/shared/y z"]) == b'* METADATA "a b" /private/x "/shared/y z"\r\n'
