"""The dashboard of the fan-out: how fast casts reach sockets, how many, and who is too slow for them."""

from __future__ import annotations

from typing import Any

from panels import EDGES, Figure, Panel, edge_choices, make, quantile, quantiles, rate, ratio, total

EDGE = "{{instance}}"

ROWS = {
    "At a glance": [
        Figure("Sockets", "Connected sockets.", "short", {"sockets": total("roomcast_sockets")}),
        Figure("Casts", "Casts taken from NATS.", "cps", {"casts": rate("roomcast_casts_received_total")}),
        Figure(
            "Deliveries",
            "Casts handed to sockets: a cast to a room of a thousand is a thousand.",
            "cps",
            {"deliveries": rate("roomcast_deliveries_total")},
        ),
        Figure(
            "Publish to write, p99",
            "Of a hundred casts one takes longer, from its publisher until its last socket is written.",
            "s",
            {"p99": quantile("p99", "roomcast_publish_to_write_seconds")},
        ),
        Figure(
            "Slow sockets",
            "Sockets whose clients take less than is sent to them, now.",
            "short",
            {"slow": total("roomcast_slow_sockets")},
        ),
        Figure("Edges ready", "Edges to which new clients may come.", "short", {"ready": total("roomcast_ready")}),
    ],
    "Latency by stage, all edges": [
        Panel(
            "Transit",
            "From the publisher (Roomcast-Sent) until the cast is at the edge: NATS, the network, and an edge that "
            "reads late. Clocks that differ show here.",
            "s",
            quantiles("roomcast_transit_seconds"),
            width=8,
        ),
        Panel(
            "Fan-out",
            "From a cast's arrival at the edge until its last socket is written. Grows with the members of a room and "
            "with what else comes in the same moment. The target for p99 is 250 ms.",
            "s",
            quantiles("roomcast_fanout_seconds"),
            width=8,
        ),
        Panel(
            "Publish to write",
            "Both stages together, for casts that say when they were sent, as the SDK's do.",
            "s",
            quantiles("roomcast_publish_to_write_seconds"),
            width=8,
        ),
    ],
    "Latency by edge": [
        Panel(
            f"{title}, {which}",
            text,
            "s",
            {EDGE: quantile(which, histogram, "instance")},
            width=8,
        )
        for which, text in (
            ("p50", "Half of the casts are faster. One edge above the others has more members or less of a machine."),
            ("p99", "One cast in a hundred is slower. An edge that stands out is where to look first."),
            ("p999", "One cast in a thousand is slower: pauses, bursts, and garbage collection are seen here."),
        )
        for title, histogram in (
            ("Transit", "roomcast_transit_seconds"),
            ("Fan-out", "roomcast_fanout_seconds"),
            ("Publish to write", "roomcast_publish_to_write_seconds"),
        )
    ],
    "Deliveries and batches": [
        Panel(
            "Deliveries by edge",
            "Casts handed to sockets. The height of the pile is all edges together.",
            "cps",
            {EDGE: rate("roomcast_deliveries_total", "instance")},
            stacked=True,
        ),
        Panel(
            "Casts by kind",
            "Casts taken from NATS, counted at each edge that hears them: to a room, to one socket, or to everyone.",
            "cps",
            {"{{kind}}": rate("roomcast_casts_received_total", "kind")},
            stacked=True,
        ),
        Panel(
            "Batches",
            "Frames in one write to a socket. 1 while an edge is at ease; it grows under load, and that is what keeps "
            "latency down.",
            "none",
            {
                EDGE: ratio(
                    rate("roomcast_deliveries_total", "instance"), rate("roomcast_socket_writes_total", "instance")
                )
            },
            width=8,
        ),
        Panel(
            "Sockets a cast reaches",
            "Deliveries by casts, at each edge. Near 0: most casts meet no member there.",
            "none",
            {
                EDGE: ratio(
                    rate("roomcast_deliveries_total", "instance"), rate("roomcast_casts_received_total", "instance")
                )
            },
            width=8,
        ),
        Panel(
            "Bytes sent",
            "Bytes of frames handed to sockets, without the headers of TCP and TLS.",
            "Bps",
            {EDGE: rate("roomcast_sent_bytes_total", "instance")},
            width=8,
            stacked=True,
        ),
    ],
    "Slow consumers and lost casts": [
        Panel(
            "Slow sockets",
            "Sockets for which something waits, now. A few are usual: phones in tunnels.",
            "short",
            {EDGE: total("roomcast_slow_sockets", "instance")},
            width=8,
        ),
        Panel(
            "Bytes that wait",
            "What waits for slow sockets in an edge's memory. Bounded for each socket by outbox_limit.",
            "bytes",
            {EDGE: total("roomcast_outbox_bytes", "instance")},
            width=8,
        ),
        Panel(
            "Slow sockets closed",
            "Sockets closed with 1013 since more waited for them than may.",
            "cps",
            {EDGE: rate("roomcast_slow_sockets_closed_total", "instance")},
            width=8,
        ),
        Panel(
            "Casts held back",
            "Casts that waited after a reconnect to NATS until the edge had caught up; they are delivered then.",
            "cps",
            {EDGE: rate("roomcast_casts_held_total", "instance")},
            width=8,
        ),
        Panel(
            "Casts dropped",
            "Casts that were held back too long or were too many, and are lost for this edge's sockets.",
            "cps",
            {"{{instance}} {{reason}}": rate("roomcast_casts_dropped_total", "instance, reason")},
            width=8,
        ),
        Panel(
            "Casts from the future",
            "Share of casts whose Roomcast-Sent is later than the edge's clock: the publisher's clock is ahead.",
            "percentunit",
            {
                EDGE: ratio(
                    rate("roomcast_publish_to_write_skewed_total", "instance"),
                    rate("roomcast_publish_to_write_seconds_count", "instance"),
                )
            },
            width=8,
        ),
    ],
    "The edges' machines": [
        Panel(
            "CPU",
            "Cores in use. An edge is one process with one loop: near 1 it is full.",
            "none",
            {EDGE: rate("process_cpu_seconds_total", "instance")},
            width=8,
        ),
        Panel(
            "CPU time of a delivery",
            "CPU time by deliveries. It falls as batches grow; while few casts come it says little.",
            "s",
            {EDGE: ratio(rate("process_cpu_seconds_total", "instance"), rate("roomcast_deliveries_total", "instance"))},
            width=8,
        ),
        Panel(
            "Loop lag, p99",
            "How late the event loop runs a timer. Everything at this edge waits for so long.",
            "s",
            {EDGE: quantile("p99", "roomcast_loop_lag_seconds", "instance")},
            width=8,
        ),
        Panel(
            "Loop silent",
            "Since the loop last turned. Above 1 second it is stuck now; at 60 /healthz fails.",
            "s",
            {EDGE: total("roomcast_loop_silent_seconds", "instance")},
            width=8,
        ),
        Panel(
            "Memory",
            "What the process holds in memory: some 8 KiB for each socket, and what waits for slow ones.",
            "bytes",
            {EDGE: total("process_resident_memory_bytes", "instance")},
            width=8,
        ),
        Panel(
            "Open files",
            "Share of the files that the process may open; each connection is one.",
            "percentunit",
            {EDGE: f"process_open_fds{{{EDGES}}} / process_max_fds{{{EDGES}}}"},
            width=8,
        ),
    ],
}


def fanout() -> Any:
    """The dashboard."""
    return make(
        "roomcast-fanout",
        "Roomcast: fan-out",
        "How fast casts reach sockets, how many, and who is too slow for them. docs/metrics.md explains each figure.",
        ROWS,
        edge_choices(),
    )
