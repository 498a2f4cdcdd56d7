"""Windows cross from the sampling thread to the loop, or their loss does."""

import asyncio
from dataclasses import replace

import pytest

from agent.handover import HANDOVER_FULL, MAX_WINDOWS, Handover
from agent.normalize import NormalizedWindow
from tests.support.windows import window_of


def window() -> NormalizedWindow:
    return window_of({("web", ("server+16",)): 5, ("db", ("engine+32",)): 2})


async def test_windows_arrive_in_order_from_another_thread() -> None:
    """`take` waits for `offer`."""
    handover = Handover(asyncio.get_running_loop())
    taking = asyncio.create_task(handover.take())
    first, second = (replace(window(), start_ns=start) for start in (1, 2))
    await asyncio.to_thread(handover.offer, first)
    await asyncio.to_thread(handover.offer, second)
    assert (await taking).start_ns == 1
    assert (await handover.take()).start_ns == 2


async def test_a_window_without_room_is_told_by_the_next_one() -> None:
    """Nothing is lost silently: taken = carried + lost holds over all windows."""
    handover = Handover(asyncio.get_running_loop())
    offered = [replace(window(), taken=window().taken + 3, lost={"counts_full": 3}) for _ in range(MAX_WINDOWS + 2)]
    for one in offered:
        handover.offer(one)
    taken = [await handover.take() for _ in range(MAX_WINDOWS)]
    handover.offer(window())
    taken.append(await handover.take())
    carried = sum(int(one.row_count.sum()) for one in taken)
    assert sum(one.taken for one in taken) == sum(one.taken for one in offered) + window().taken
    assert sum(one.taken for one in taken) == carried + sum(sum(one.lost.values()) for one in taken)
    assert taken[-1].lost == {HANDOVER_FULL: 2 * int(window().row_count.sum()), "counts_full": 6}


async def test_join_returns_when_nothing_waits() -> None:
    """What the loop has taken is not waited for: it is dealt with in the same step."""
    handover = Handover(asyncio.get_running_loop())
    handover.offer(window())
    joining = asyncio.create_task(handover.join())
    await asyncio.sleep(0)
    assert not joining.done()
    await handover.take()
    await asyncio.wait_for(joining, 5)


@pytest.mark.parametrize("rounds", [50])
async def test_no_wakeup_is_lost(rounds: int) -> None:
    """A thread that offers while the loop goes to sleep wakes it."""
    handover = Handover(asyncio.get_running_loop())
    for _ in range(rounds):
        _, got = await asyncio.gather(asyncio.to_thread(handover.offer, window()), handover.take())
        assert got.taken == window().taken
