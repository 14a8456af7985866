"""Shared work, kept answers, and large answers decoded in pieces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from pvemcp.errors import Rejected
from pvemcp.pve.decode import LARGE, decode
from pvemcp.pve.sharing import Flights, Kept
from pvemcp.pve.transport import Reply


async def test_kept_answers_expire_and_a_fetch_from_before_a_write_is_not_kept() -> None:
    kept: Kept[int] = Kept(60)
    gate = asyncio.Event()

    async def fetch() -> int:
        await gate.wait()
        return 1

    waiting = asyncio.create_task(kept.share("k", fetch))
    await asyncio.sleep(0)
    kept.forget()
    gate.set()
    assert await waiting == 1
    assert kept.get("k") is None
    short: Kept[int] = Kept(0)
    assert await short.share("k", fetch) == 1
    assert short.get("k") is None


async def test_shared_work_is_cancelled_with_its_last_waiter() -> None:
    flights: Flights[None] = Flights()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiters = [asyncio.create_task(flights.share("k", work)) for _ in range(2)]
    await asyncio.sleep(0)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    async with asyncio.timeout(1):
        await ended.wait()
    assert flights._running == {}


def guests(count: int, **extra: Any) -> list[dict[str, Any]]:
    row = {"name": 'web},{"x', "status": "running", "nics": [{"a": 1}, {"b": 2}], **extra}
    return [{"vmid": number, **row} for number in range(count)]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("count", [1, 10, 20_000])
async def test_a_large_list_is_decoded_in_pieces_to_the_same_value(
    count: int, separators: tuple[str, str]
) -> None:
    body = {"success": 1, "data": guests(count), "total": count}
    text = json.dumps(body, separators=separators).encode()
    assert (len(text) > LARGE) == (count > 10)
    assert await decode(Reply(200, "OK", text)) == body


async def test_decoding_a_large_list_lets_others_run() -> None:
    text = json.dumps({"data": guests(20_000)}, separators=(",", ":")).encode()
    decoding = asyncio.create_task(decode(Reply(200, "OK", text)))
    turns = 0
    while not decoding.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 20
    assert len((await decoding)["data"]) == 20_000


async def test_a_large_answer_of_another_shape_is_decoded_too() -> None:
    for body in ({"data": "x" * LARGE}, {"data": [["},{"] * LARGE]}, ["x" * LARGE]):
        text = json.dumps(body, separators=(",", ":")).encode()
        assert await decode(Reply(200, "OK", text)) == body
    with pytest.raises(Rejected):
        await decode(Reply(200, "OK", b'{"data":[{"a":1},{"a"' + b"x" * LARGE))
