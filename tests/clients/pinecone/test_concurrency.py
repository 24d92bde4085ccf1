"""Many requests at once: by coroutines, and by the threads that ``async_req`` has kept from older versions."""

from __future__ import annotations

import asyncio

from pinecone import AsyncPinecone, Pinecone
from stack import KEY, SPEC, URL


async def test_coroutines_at_once_are_each_answered_by_their_own_answer() -> None:
    async with AsyncPinecone(api_key=KEY, host=URL) as pc:
        await pc.create_index(name="coroutines", dimension=2, spec=SPEC)
        async with await pc.index("coroutines") as index:
            await asyncio.gather(*(index.upsert(vectors=[(f"id-{n}", [1.0, n])]) for n in range(20)))
            answers = await asyncio.gather(*(index.query(id=f"id-{n}", top_k=1) for n in range(20)))
            assert [answer.matches[0].id for answer in answers] == [f"id-{n}" for n in range(20)]
        await pc.delete_index("coroutines")


def test_requests_in_the_background_give_the_same_answers() -> None:
    pc = Pinecone(api_key=KEY, host=URL, pool_threads=4)
    pc.create_index(name="threads", dimension=2, spec=SPEC)
    with pc.Index("threads") as index:
        pending = [index.upsert(vectors=[(f"id-{n}", [1.0, n])], async_req=True) for n in range(20)]
        assert sum(one.get().upserted_count for one in pending) == 20
        found = [index.query(id=f"id-{n}", top_k=1, async_req=True) for n in range(20)]
        assert [one.get().matches[0].id for one in found] == [f"id-{n}" for n in range(20)]
    pc.delete_index("threads")
