"""Slots: bounded in all and for each holder, passed on in order, and never lost."""

from __future__ import annotations

import asyncio
import random

from pvemcp.slots import Pool, Slots, part

NAMES = (("a", 1),)


async def test_one_holder_leaves_room_for_others() -> None:
    slots, inside = Slots(8), [0, 0]
    release = asyncio.Event()

    async def use(number: int) -> None:
        async with slots.hold(f"holder{number}"):
            inside[number] += 1
            await release.wait()

    tasks = [asyncio.create_task(use(0)) for _ in range(20)]
    await asyncio.sleep(0)
    assert inside == [part(8), 0] == [7, 0]
    tasks.append(asyncio.create_task(use(1)))
    await asyncio.sleep(0)
    assert inside == [7, 1]
    release.set()
    await asyncio.gather(*tasks)
    assert inside == [20, 1]
    assert len(slots._pool) == 0


async def test_a_turn_is_passed_on_in_order_and_before_anybody_new() -> None:
    pool, order = Pool(), list[int]()
    assert pool.take(NAMES)

    async def queue(number: int) -> None:
        await pool.wait(NAMES)
        order.append(number)

    tasks = [asyncio.create_task(queue(number)) for number in range(3)]
    await asyncio.sleep(0)
    pool.give(NAMES)
    assert not pool.take(NAMES)
    for _ in range(2):
        await asyncio.sleep(0)
        pool.give(NAMES)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


async def test_a_waiter_that_is_cancelled_in_its_moment_gives_its_slot_back() -> None:
    pool = Pool()
    assert pool.take(NAMES)
    waiting = asyncio.create_task(pool.wait(NAMES))
    await asyncio.sleep(0)
    pool.give(NAMES)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert pool.take(NAMES)


async def test_no_slot_is_lost_whoever_is_cancelled_when() -> None:
    slots, chance, most, now = Slots(4), random.Random(7), 0, 0  # noqa: S311

    async def use(holder: str) -> None:
        nonlocal most, now
        async with slots.hold(holder):
            now += 1
            most = max(most, now)
            try:
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)
            finally:
                now -= 1

    tasks = [asyncio.create_task(use(chance.choice("abc"))) for _ in range(300)]
    while not all(task.done() for task in tasks):
        chance.choice(tasks).cancel()
        await asyncio.sleep(0)
    assert most == 4
    assert now == len(slots._pool) == 0
    assert any(not task.cancelled() for task in tasks)
