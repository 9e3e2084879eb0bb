"""The dashboard of membership and NATS: sockets, rooms, records, resumes, and the servers beneath."""

from __future__ import annotations

from typing import Any

from panels import Figure, Panel, choice, edge_choices, make, quantiles, rate, ratio, total

EDGE = "{{instance}}"
BY_NODE = "instance, server_id"
"""An exporter beside each node may call its node what the others call theirs; then its own address tells them apart."""
NODE = "{{instance}} {{server_id}}"
NODES = 'job=~"$nats",server_id=~"$node"'
STREAMS = f'{NODES},stream_name=~"$stream"'

ROWS = {
    "At a glance": [
        Figure("Sockets", "Connected sockets.", "short", {"sockets": total("roomcast_sockets")}),
        Figure(
            "Rooms",
            "Rooms that have members, counted at each edge: one with members at two edges counts twice.",
            "short",
            {"rooms": total("roomcast_rooms")},
        ),
        Figure("Edges ready", "Edges to which new clients may come.", "short", {"ready": total("roomcast_ready")}),
        Figure(
            "Resumes that failed",
            "Share of the clients that came back with a session and were greeted as new.",
            "percentunit",
            {
                "failed": ratio(
                    rate("roomcast_resumes_total", labels='job=~"$job",instance=~"$instance",outcome!="resumed"'),
                    rate("roomcast_resumes_total"),
                )
            },
        ),
        Figure(
            "Edges on NATS",
            "Edges whose connection to NATS stands.",
            "short",
            {"connected": total("roomcast_nats_connected")},
        ),
        Figure(
            "KV failures",
            "Requests to the bucket that failed, retries among them.",
            "cps",
            {"failures": rate("roomcast_kv_failures_total")},
        ),
    ],
    "Sockets": [
        Panel(
            "Sockets by edge",
            "Connected sockets. Edges of one cluster should be about level; a new one fills as clients come.",
            "short",
            {EDGE: total("roomcast_sockets", "instance")},
            width=8,
            stacked=True,
        ),
        Panel(
            "Sockets by dialect",
            "Which protocol the connected sockets speak.",
            "short",
            {"{{dialect}}": total("roomcast_sockets", "dialect")},
            width=8,
            stacked=True,
        ),
        Panel(
            "Connections by edge",
            "TCP connections of clients. Far above the sockets: many are in their handshakes, or never finish them.",
            "short",
            {EDGE: total("roomcast_connections", "instance")},
            width=8,
        ),
        Panel(
            "Handshakes",
            "Requests on the clients' port by how they ended. unavailable: NATS or the bucket is away; shed: more "
            "than connect_rate.",
            "cps",
            {"{{outcome}}": rate("roomcast_handshakes_total", "outcome")},
            width=8,
        ),
        Panel(
            "Opening a session",
            "From the handshake to the greeting: mostly one write to the bucket, and for a resume a few questions.",
            "s",
            quantiles("roomcast_open_seconds"),
            width=8,
        ),
        Panel(
            "Closes by code",
            "Connections that edges closed. 1006: no answer to a ping; 1012: drained; 1013: too slow.",
            "cps",
            {"{{code}}": rate("roomcast_closes_total", "code")},
            width=8,
        ),
    ],
    "Rooms and changes": [
        Panel(
            "Rooms by edge",
            "Rooms that have a member at the edge, each of which costs it up to 1 KiB.",
            "short",
            {EDGE: total("roomcast_rooms", "instance")},
            width=8,
        ),
        Panel(
            "Subscriptions by edge",
            "Rooms that an edge hears from NATS. Equal to its rooms but for moments.",
            "short",
            {EDGE: total("roomcast_subscriptions", "instance")},
            width=8,
        ),
        Panel(
            "Memberships changed",
            "One for each socket and room. Kinds that begin with move_ came by bulk changes.",
            "cps",
            {"{{kind}}": rate("roomcast_changes_total", "kind")},
            width=8,
        ),
        Panel(
            "Moves applied",
            "Bulk changes of the log that each edge has applied: every edge applies all of them.",
            "cps",
            {EDGE: rate("roomcast_move_seconds_count", "instance")},
            width=8,
        ),
        Panel(
            "Applying a move",
            "How long one bulk change takes at an edge. Grows with the members that it concerns there.",
            "s",
            quantiles("roomcast_move_seconds"),
            width=8,
        ),
        Panel(
            "Messages refused",
            "What was dropped or refused, by what was wrong with it. A peak: a faulty client or publisher.",
            "cps",
            {"{{reason}}": rate("roomcast_invalid_total", "reason")},
            width=8,
        ),
    ],
    "Records": [
        Panel(
            "Records written",
            "Records of sockets written to the bucket. The bucket's ceiling is the cluster's for joins and leaves.",
            "wps",
            {EDGE: rate("roomcast_record_write_seconds_count", "instance")},
            width=8,
            stacked=True,
        ),
        Panel(
            "Writing a record",
            "From a change to the bucket's acknowledgement, which is what a join waits for.",
            "s",
            quantiles("roomcast_record_write_seconds"),
            width=8,
        ),
        Panel(
            "Records behind moves",
            "Records that bulk changes touched and that are not rewritten yet; it falls to 0 within a minute.",
            "short",
            {EDGE: total("roomcast_records_lagging", "instance")},
            width=8,
        ),
    ],
    "Resumes and actions": [
        Panel(
            "Resumes",
            "Clients that came back with a session. unknown: later than the resume window; forged: a wrong secret.",
            "cps",
            {"{{outcome}}": rate("roomcast_resumes_total", "outcome")},
            width=8,
        ),
        Panel(
            "Actions",
            "Requests of clients to services, by the code of the answer. no_service: nobody listens.",
            "reqps",
            {"{{outcome}}": rate("roomcast_actions_total", "outcome")},
            width=8,
        ),
        Panel(
            "Answering an action",
            "From a client's request until the service's answer.",
            "s",
            quantiles("roomcast_action_seconds"),
            width=8,
        ),
    ],
    "Edges on NATS": [
        Panel(
            "Connected to NATS",
            "1 while the connection stands.",
            "none",
            {EDGE: total("roomcast_nats_connected", "instance")},
            width=8,
        ),
        Panel(
            "Reconnects",
            "Connections to NATS that were made again, within five minutes. Casts are lost while one is away.",
            "short",
            {EDGE: 'increase(roomcast_nats_reconnects_total{job=~"$job",instance=~"$instance"}[5m])'},
            width=8,
        ),
        Panel(
            "Ready and draining",
            "Ready: new clients may come. Draining: the edge was told to stop.",
            "none",
            {
                "{{instance}} ready": total("roomcast_ready", "instance"),
                "{{instance}} draining": total("roomcast_draining", "instance"),
            },
            width=8,
        ),
        Panel(
            "KV failures",
            "Requests to the bucket that failed, retries among them, by what was asked. An election of the stream's "
            "leader is a peak of some seconds.",
            "cps",
            {"{{operation}}": rate("roomcast_kv_failures_total", "operation")},
            width=8,
        ),
        Panel(
            "Age of the lease",
            "Since an edge last wrote its lease to the bucket: 0 to 5 seconds. It grows while no write succeeds.",
            "s",
            {EDGE: total("roomcast_lease_age_seconds", "instance")},
            width=8,
        ),
        Panel(
            "Requests under way",
            "Requests to NATS that wait for an answer: records, actions, what edges ask each other.",
            "short",
            {EDGE: total("roomcast_requests_under_way", "instance")},
            width=8,
        ),
    ],
    "NATS servers": [
        Panel(
            "Connections",
            "Clients of each node: edges, services, and the nodes' own tools.",
            "short",
            {NODE: total("gnatsd_varz_connections", BY_NODE, NODES)},
            width=8,
        ),
        Panel(
            "Messages",
            "Messages into and out of each node, routes between nodes among them.",
            "cps",
            {
                f"{NODE} in": rate("gnatsd_varz_in_msgs", BY_NODE, NODES),
                f"{NODE} out": rate("gnatsd_varz_out_msgs", BY_NODE, NODES),
            },
            width=8,
        ),
        Panel(
            "Bytes",
            "Bytes of messages into and out of each node.",
            "Bps",
            {
                f"{NODE} in": rate("gnatsd_varz_in_bytes", BY_NODE, NODES),
                f"{NODE} out": rate("gnatsd_varz_out_bytes", BY_NODE, NODES),
            },
            width=8,
        ),
        Panel(
            "Subscriptions",
            "Subscriptions that each node knows: some for each edge, and one for each room at each edge.",
            "short",
            {NODE: total("gnatsd_varz_subscriptions", BY_NODE, NODES)},
            width=8,
        ),
        Panel(
            "Slow consumers",
            "Clients that a node has cut off since they read too slowly, within five minutes. An edge among them has "
            "lost casts.",
            "short",
            {NODE: f"increase(gnatsd_varz_slow_consumers{{{NODES}}}[5m])"},
            width=8,
        ),
        Panel(
            "Routes",
            "Connections of a node to other nodes. It falls when one is away.",
            "short",
            {NODE: total("gnatsd_varz_routes", BY_NODE, NODES)},
            width=8,
        ),
        Panel(
            "Memory",
            "What each node holds in memory.",
            "bytes",
            {NODE: total("gnatsd_varz_mem", BY_NODE, NODES)},
            width=12,
        ),
        Panel(
            "CPU",
            "Share of one core that each node uses, as it says itself.",
            "percent",
            {NODE: total("gnatsd_varz_cpu", BY_NODE, NODES)},
            width=12,
        ),
    ],
    "JetStream": [
        Panel(
            "Keys in the bucket",
            "Records, moves and leases, at each replica. Moves live for about two hours.",
            "short",
            {
                f"{NODE} {{{{stream_name}}}}": total(
                    "jetstream_stream_total_messages", f"{BY_NODE}, stream_name", STREAMS
                )
            },
            width=8,
        ),
        Panel(
            "Writes to the bucket",
            "How fast the stream's sequence grows, at each replica.",
            "wps",
            {f"{NODE} {{{{stream_name}}}}": rate("jetstream_stream_last_seq", f"{BY_NODE}, stream_name", STREAMS)},
            width=8,
        ),
        Panel(
            "Bytes in the bucket",
            "What each replica stores.",
            "bytes",
            {f"{NODE} {{{{stream_name}}}}": total("jetstream_stream_total_bytes", f"{BY_NODE}, stream_name", STREAMS)},
            width=8,
        ),
        Panel(
            "Storage in use",
            "Share of the storage that JetStream may use on each node. Full, it takes no writes.",
            "percentunit",
            {
                NODE: ratio(
                    total("jetstream_server_total_message_bytes", BY_NODE, NODES),
                    total("jetstream_server_max_storage", BY_NODE, NODES),
                )
            },
            width=12,
        ),
        Panel(
            "Streams",
            "Streams on each node.",
            "short",
            {NODE: total("jetstream_server_total_streams", BY_NODE, NODES)},
            width=12,
        ),
    ],
}


def membership() -> Any:
    """The dashboard."""
    return make(
        "roomcast-membership",
        "Roomcast: membership and NATS",
        "Sockets, rooms, records, resumes, and NATS beneath them. docs/metrics.md explains each figure.",
        ROWS,
        [
            *edge_choices(),
            choice("nats", "NATS job", "label_values(gnatsd_varz_connections, job)"),
            choice("node", "NATS node", 'label_values(gnatsd_varz_connections{job=~"$nats"}, server_id)'),
            choice("stream", "Stream", 'label_values(jetstream_stream_total_messages{job=~"$nats"}, stream_name)'),
        ],
    )
