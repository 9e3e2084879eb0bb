"""An edge opens as many files as it may, whatever its shell or container has set for the start."""

from __future__ import annotations

import resource


async def test_an_edge_raises_its_own_limit(nats, start_edge):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2 if hard > 0 else 1024, hard))
    try:
        edge = await start_edge(nats.urls)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await edge.metric("process_max_fds") == (hard if hard > 0 else 1 << 20)
