"""The bytes of a message on its way out: without our Return-Path, converted, then signed."""

import asyncio
from pathlib import Path

import pytest
from parts_rig import TEXT, Parts, run

from pochta import clock
from pochta.delivery.submit import Origin
from pochta.errors import Corrupt
from pochta.policy.dkim.keys import SigningKey
from pochta.queue import content as module
from pochta.queue.content import Contents, NoRoomError, Rendered, Source, author_domain
from pochta.queue.form import Refused, Step
from pochta.store.outbox import NewRecipient, Outgoing

TO = NewRecipient("x.test", "b@x.test")
LARGE = TEXT + b"line of some text\r\n" * 8000  # stands in a file


async def first(parts: Parts) -> Outgoing:
    return (await parts.claim("x.test")).messages[0]


async def octets(contents: Contents, rendered: Rendered | Refused) -> bytes:
    assert isinstance(rendered, Rendered)
    body = contents.body(rendered)
    whole = body if isinstance(body, bytes) else b"".join([one async for one in body])
    assert len(whole) == rendered.size
    return whole


@pytest.mark.rfc(5321, "4.4")
@pytest.mark.parametrize("text", [TEXT, LARGE], ids=["inline", "file"])
def test_the_message_goes_without_our_return_path(tmp_path: Path, text: bytes) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(TO, text=text)
        message = await first(parts)
        source = await parts.contents.load(message)
        got = await octets(parts.contents, await parts.contents.render(message, source))
        assert got == text.removeprefix(b"Return-Path: <a@us.test>\r\n")

    run(tmp_path, test)


def test_only_the_first_return_path_is_ours(tmp_path: Path) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(
            TO, text=b"Return-Path: <x@y>\r\nSubject: 1\r\nReturn-Path: <theirs@y>\r\n\r\nReturn-Path: <b>\r\n"
        )
        message = await first(parts)
        got = await octets(parts.contents, await parts.contents.render(message, await parts.contents.load(message)))
        assert got == b"Subject: 1\r\nReturn-Path: <theirs@y>\r\n\r\nReturn-Path: <b>\r\n"

    run(tmp_path, test)


@pytest.mark.parametrize("damage", ["inline", "file"])
def test_bytes_that_are_gone(tmp_path: Path, damage: str) -> None:
    async def test(parts: Parts) -> None:
        await parts.accept(TO, text=TEXT if damage == "inline" else LARGE)
        message = await first(parts)
        await parts.execute("DELETE FROM blob_inline")
        await parts.execute("UPDATE blob SET file = '0-00' WHERE file IS NOT NULL")
        with pytest.raises(Corrupt):
            await parts.contents.load(message)

    run(tmp_path, test, is_sound=False)


def test_what_was_written_here_is_signed_once_and_anew_where_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[bytes] = []

    def sign(header: bytes, body: object, keys: object, *, now_s: float) -> bytes:
        signed.append(header)
        return b"DKIM-Signature: %d\r\n" % len(signed)

    async def keys_for(self: Contents, message: Outgoing, header: bytes) -> list[tuple[str, str, SigningKey]]:
        return [("s", "us.test", None)] if message.origin in module.SIGNED_ORIGINS else []  # type: ignore[list-item]

    monkeypatch.setattr(module, "sign", sign)
    monkeypatch.setattr(Contents, "_keys_for", keys_for)
    text = b"From: <a@us.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    text += "Grüße\r\n".encode()

    async def test(parts: Parts) -> None:
        await parts.accept(TO, text=text)
        message = await first(parts)
        source = await parts.contents.load(message)
        for _ in range(2):
            got = await octets(parts.contents, await parts.contents.render(message, source))
            assert got == b"DKIM-Signature: 1\r\n" + text
        got = await octets(parts.contents, await parts.contents.convert(message, source, Step.TO_7BIT))
        assert got.startswith(b"DKIM-Signature: 2\r\n")
        assert got.isascii()
        assert b"Content-Transfer-Encoding" in signed[1]
        await parts.accept(TO, text=text, origin=Origin.TRANSFER)
        message = await first(parts)
        got = await octets(parts.contents, await parts.contents.render(message, await parts.contents.load(message)))
        assert got == text
        assert clock.now_s() == parts.now

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("header", "domain"),
    [
        (b"From: Anna <a@Us.Test>, b@x.test\r\n", "us.test"),
        (b"Subject: x\r\nfrom:\r\n a@us.test\r\n", "us.test"),
        ("From: <a@bücher.test>\r\n".encode(), "xn--bcher-kva.test"),
        (b"From: nobody\r\n", ""),
        (b"Subject: x\r\n", ""),
    ],
)
def test_author_domain(header: bytes, domain: str) -> None:
    assert author_domain(header + b"\r\n") == domain


EIGHT = (
    b"From: <a@us.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n" + b"Gr\xc3\xbc\xc3\x9fe\r\n" * 9000
)


def test_what_was_converted_waits_for_room_and_small_ones_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONVERTED_MAX_BYTES", len(EIGHT) + 1)

    async def test(parts: Parts) -> None:
        contents = Contents(parts.store)
        for text in (EIGHT, EIGHT[:300]):
            await parts.accept(TO, text=text)
        large, small = (await parts.claim("x.test")).messages
        sources = [await contents.load(one) for one in (large, small)]
        async with contents.converted(large, sources[0], Step.TO_7BIT) as made:
            assert isinstance(made, Rendered)
            async with contents.converted(small, sources[1], Step.TO_7BIT) as other:
                assert isinstance(other, Rendered)
            monkeypatch.setattr(module, "ROOM_WAIT_S", 0.0)
            with pytest.raises(NoRoomError):
                async with contents.converted(large, sources[0], Step.TO_7BIT):
                    pass
            monkeypatch.setattr(module, "ROOM_WAIT_S", 20.0)
            waits = asyncio.create_task(_size(contents, large, sources[0]))
            await asyncio.sleep(0)
            assert not waits.done()
        assert await waits == made.size

    run(tmp_path, test)


async def _size(contents: Contents, message: Outgoing, source: Source) -> int:
    async with contents.converted(message, source, Step.TO_7BIT) as made:
        assert isinstance(made, Rendered)
        return made.size
