"""The limit of things under way: never more than its places, in order, and no place is lost to who gives up."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from roomcast_edge.turnstile import Turnstile


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 6))), min_size=1, max_size=12),
)
def test_places_are_kept_and_never_lost(places: int, visits: list[tuple[int, int | None]]) -> None:
    """Each visitor stays for some turns of the loop; some give up after some turns, wherever they are then."""

    async def run() -> None:
        turnstile, inside, entered = Turnstile(places), 0, []

        async def visit(number: int, turns: int) -> None:
            nonlocal inside
            async with turnstile:
                entered.append(number)
                inside += 1
                assert inside <= places
                try:
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = [asyncio.ensure_future(visit(number, turns)) for number, (turns, _) in enumerate(visits)]
        for turn in range(8):
            for task, (_, gives_up) in zip(tasks, visits, strict=True):
                if gives_up == turn:
                    task.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
            assert entered == sorted(entered), "in the order in which they came"
            for _ in range(places):  # all places are free again: nobody waits
                await asyncio.wait_for(turnstile.__aenter__(), 1)

    asyncio.run(run())
