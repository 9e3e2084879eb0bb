"""What waits to be written: casts in runs, an outbox per socket, one write per socket at the end of the loop's pass.

Casts to the same members that follow each other are one run, whose frames are joined once and written to every
member. Alone, a message waits for nothing; under load the runs grow by themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from socket import SOCK_NONBLOCK, SocketType

from roomcast_edge.dialects import Dialect
from roomcast_edge.metrics import Metrics


class Outbox:
    """The outgoing side of one socket. Its bytes are those that wait here and those in the transport's buffer."""

    __slots__ = (
        "_kernel",
        "_transport",
        "backlog",
        "backlog_bytes",
        "blocked",
        "dialect",
        "direct",
        "due",
        "limit",
        "on_slow",
        "plain",
        "send",
        "waiting",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        dialect: Dialect,
        limit: int,
        on_slow: Callable[[], None],
        plain: bool = True,
    ) -> None:
        self.dialect = dialect
        self.limit = limit
        self.on_slow = on_slow
        self._transport = transport
        # A plain TCP socket whose transport holds nothing back is written to at once, past the transport.
        # (send() on a socket costs the kernel up to a tenth less than write() on its descriptor.)
        self.plain = plain
        self._kernel: SocketType | None = None
        self.direct = False
        self.blocked = False
        # Runs and frames of this pass, in order.
        self.waiting: list[Run | bytes] = []
        self.due = False
        # Joined bytes that wait for a socket that takes no more.
        self.backlog: list[bytes] = []
        self.backlog_bytes = 0

    def open(self) -> None:
        """Write past the transport from now on. :meth:`close` must follow: who forgets the descriptor closes it."""
        if self.plain:
            tcp = self._transport.get_extra_info("socket")
            self._kernel = SocketType(tcp.family, tcp.type | SOCK_NONBLOCK, tcp.proto, tcp.fileno())
            self.send = self._kernel.send
            self.direct = not self.blocked

    def write(self, data: bytes) -> None:
        """Write to the kernel what it takes; the rest waits, up to the limit."""
        if self.direct:
            try:
                taken = self.send(data)
            except (BlockingIOError, InterruptedError):
                taken = 0
            except OSError:
                self.abort()
                return
            if taken == len(data):
                return
            self.hand_over(data[taken:])
        elif self.blocked:
            self.backlog.append(data)
            self.backlog_bytes += len(data)
            if self.backlog_bytes + self._transport.get_write_buffer_size() > self.limit:
                self.on_slow()
        else:
            self.hand_over(data)

    def hand_over(self, data: bytes) -> None:
        """Leave to the transport what the kernel does not take now."""
        if not self._transport.is_closing():
            self._transport.write(data)  # calls pause() at once when the kernel takes no more
            if self._transport.get_write_buffer_size() > self.limit:
                self.on_slow()

    def pause(self) -> None:
        """The transport holds bytes back."""
        self.blocked, self.direct = True, False

    def resume(self) -> None:
        """The transport has nothing left."""
        self.blocked, self.direct = False, self._kernel is not None
        if self.backlog:
            data = b"".join(self.backlog)
            self.drop_backlog()
            self.write(data)

    def drop_backlog(self) -> None:
        """Forget what has not reached the transport; it ends at a frame's end."""
        self.backlog.clear()
        self.backlog_bytes = 0

    def pending_bytes(self) -> int:
        """Bytes that wait for this socket."""
        return self.backlog_bytes + (self._transport.get_write_buffer_size() if self.blocked else 0)

    def close(self) -> None:
        """Nothing is written past the transport any more: its descriptor may soon be another's."""
        self.direct = False
        if self._kernel is not None:
            self._kernel.detach()  # the transport closes it
            self._kernel = None

    def abort(self) -> None:
        """End the connection now, whatever waits."""
        self.close()
        self._transport.abort()


class Run:
    """Casts that follow each other to the same members."""

    __slots__ = ("_frames", "casts", "members")

    def __init__(self, members: Collection[Outbox]) -> None:
        self.members = members
        self.casts: list[tuple[str, bytes]] = []
        # By dialect; most runs have one.
        self._frames: tuple[tuple[Dialect, bytes], ...] = ()

    def frames(self, dialect: Dialect) -> bytes:
        """All frames of this run in one dialect, joined; encoded once."""
        for known, data in self._frames:
            if known is dialect:
                return data
        cast, casts = dialect.cast, self.casts
        data = cast(*casts[0]) if len(casts) == 1 else b"".join([cast(*each) for each in casts])
        self._frames += ((dialect, data),)
        return data


class FanOut:
    """Takes casts, and writes each socket once at the end of the pass."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._runs: list[Run] = []
        self._dirty: list[Outbox] = []
        self._due = False
        # Of this pass: when its first cast arrived, how many came, when those that say so were sent.
        self._began = 0.0
        self._casts = 0
        self._sent: list[int] = []

    def cast(self, members: Collection[Outbox], event: str, payload: bytes, sent_ns: int) -> None:
        """Send a cast to these members. They must not change before :meth:`settle` or the end of the pass."""
        runs = self._runs
        if runs and runs[-1].members is members:
            run = runs[-1]
        else:
            run = Run(members)
            runs.append(run)
            self._schedule()
        run.casts.append((event, payload))
        if not self._casts:
            self._began = time.perf_counter()
        self._casts += 1
        if sent_ns:
            self._sent.append(sent_ns)

    def send(self, box: Outbox, frame: bytes) -> None:
        """Send one frame to one socket, behind all that was cast before."""
        self.settle()
        box.waiting.append(frame)
        self._mark(box)

    def settle(self) -> None:
        """Put what was cast into the outboxes of the members that it has now: membership is about to change."""
        if not self._runs:
            return
        runs, self._runs = self._runs, []
        dirty = self._dirty
        for run in runs:
            for box in run.members:
                box.waiting.append(run)
                if not box.due:
                    box.due = True
                    dirty.append(box)
            self._metrics.deliveries += len(run.members) * len(run.casts)
        self._schedule()

    def flush(self) -> None:
        """The end of the pass: write every socket that has something waiting, once."""
        if len(self._runs) == 1 and not self._dirty:
            self._write_run(self._runs.pop())
        else:
            self.settle()
            dirty, self._dirty = self._dirty, []
            joined: dict[tuple[str, tuple[int, ...]], bytes] = {}
            sent = 0
            for box in dirty:
                data = self._join(box, joined)
                sent += len(data)
                box.write(data)
            self._metrics.sent_bytes += sent
            self._metrics.socket_writes += len(dirty)
        if self._casts:
            self._observe()
        self._due = False
        if self._dirty or self._runs:  # a write closed a socket as too slow, which says so in a frame
            self._schedule()

    def _join(self, box: Outbox, joined: dict[tuple[str, tuple[int, ...]], bytes]) -> bytes:
        waiting = box.waiting
        box.due = False
        if len(waiting) == 1:
            only = waiting.pop()
            return only if isinstance(only, bytes) else only.frames(box.dialect)
        box.waiting = []
        key = (box.dialect.name, tuple(map(id, waiting)))
        data = joined.get(key)
        if data is None:
            data = b"".join([part if isinstance(part, bytes) else part.frames(box.dialect) for part in waiting])
            joined[key] = data
        return data

    def _write_run(self, run: Run) -> None:
        dialect: Dialect | None = None
        data = b""
        size = sent = 0
        for box in tuple(run.members):
            if box.dialect is not dialect:
                dialect = box.dialect
                data = run.frames(dialect)
                size = len(data)
            sent += size
            if box.direct:  # as Outbox.write does, without the call: this is where an edge spends its time
                try:
                    taken = box.send(data)
                except (BlockingIOError, InterruptedError):
                    taken = 0
                except OSError:
                    box.abort()
                    continue
                if taken != size:
                    box.hand_over(data[taken:])
            else:
                box.write(data)
        self._metrics.sent_bytes += sent
        self._metrics.socket_writes += len(run.members)
        self._metrics.deliveries += len(run.members) * len(run.casts)

    def _observe(self) -> None:
        """All casts of this pass are written: once for all, how long that took since the first of them came."""
        metrics = self._metrics
        took = time.perf_counter() - self._began
        metrics.fanout.observe(took, self._casts)
        self._casts = 0
        if not self._sent:
            return
        sent, self._sent = self._sent, []
        now = time.time_ns()
        if len(sent) == 1 and sent[0] <= now:
            latency = (now - sent[0]) * 1e-9
            metrics.publish_to_write.observe(latency)
            metrics.transit.observe(latency - took if latency > took else 0.0)
            return
        latencies = [(now - at) * 1e-9 for at in sent]
        if min(latencies) < 0:  # the publisher's clock is ahead of ours
            metrics.negative_skew += sum(latency < 0 for latency in latencies)
            latencies = [max(0.0, latency) for latency in latencies]
        metrics.publish_to_write.observe_all(latencies)
        metrics.transit.observe_all([latency - took if latency > took else 0.0 for latency in latencies])

    def _mark(self, box: Outbox) -> None:
        if not box.due:
            box.due = True
            self._dirty.append(box)
        self._schedule()

    def _schedule(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.flush)
