"""Checks of NATS itself: its limits, its nodes, and what these credentials may do."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

from roomcast.doctor.findings import Finding, fail, ok, warn
from roomcast.doctor.patient import Patient
from roomcast.errors import BusTimeout, BusUnavailable
from roomcast.names import encode_event

HEADERS_ALLOWED = 4096
"""Bytes that the headers of a cast may take beside its data."""


async def check_server(patient: Patient) -> AsyncIterator[Finding]:
    """The node that answered, and whether it takes the largest cast."""
    client = patient.client
    info = client._server_info
    nodes = len({server.uri.netloc for server in client._server_pool})
    yield ok("nats", f"{info.get('server_name')} answers, version {info.get('version')}; {nodes} known")
    if info.get("ldm"):
        yield warn("nats", "this node goes away (lame duck)", "nothing, if you are restarting it")
    wanted = patient.expected.cast_limit + HEADERS_ALLOWED
    if client.max_payload < wanted:
        yield fail(
            "max_payload",
            f"NATS takes {client.max_payload} bytes, a cast may have {patient.expected.cast_limit} and headers",
            f"set max_payload to {wanted} or more on every NATS node, or lower ROOMCAST_CAST_LIMIT",
        )
    else:
        yield ok("max_payload", f"{client.max_payload} bytes, a cast may have {patient.expected.cast_limit}")


async def check_permissions(patient: Patient) -> AsyncIterator[Finding]:
    """What the role needs is tried, on names that nobody uses; what NATS refuses is told."""
    mark = f"doctor-{secrets.token_hex(4)}"
    inbox = patient.client.new_inbox()
    heard, said = _needed(patient, mark, f"d{secrets.token_hex(3)}0")
    own = [patient.client.subscribe_light(subject, _ignore) for subject in [*heard, inbox]]
    await patient.settle()
    for sub in own:
        patient.client.unsubscribe_light(sub)
    for subject in said:
        with contextlib.suppress(BusTimeout, BusUnavailable, ValueError):
            if subject.startswith("$KV."):
                # No place in the stream has this number: nothing is ever written.
                head = b"NATS/1.0\r\nNats-TTL: 5s\r\nNats-Expected-Last-Sequence: 18446744073709551615\r\n\r\n"
                patient.client.send(subject, b"{}", inbox, head)
            else:
                patient.client.send(subject, b"", inbox)
    await patient.settle()
    who = f"the {patient.expected.role}s' user"
    seen = set()
    for denied in patient.denied:
        what = f"{denied.operation} {denied.subject}"
        if what not in seen:
            seen.add(what)
            yield fail(
                "permissions",
                f"may not {what}",
                f"allow {who} to {denied.operation} it (docs/operations.md has the list)",
            )
    if not seen:
        yield ok("permissions", f"{len(heard)} subscriptions and {len(said)} publications of {who} were taken")


def _needed(patient: Patient, mark: str, edge: str) -> tuple[list[str], list[str]]:
    """What a role subscribes to and publishes on, with names that nobody uses."""
    prefix, stream = patient.subjects.prefix, patient.stream
    reading = [f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}", f"$JS.API.DIRECT.GET.{stream}"]
    if patient.expected.role == "edge":
        own = [f"room.{mark}.*", f"room.{edge}.*.*", "blast.*", f"socket.{edge}.*", f"edge.{edge}", "moved", "alive"]
        heard = [f"{prefix}.{subject}" for subject in own] + [patient.subjects.api("count"), "$SRV.PING.roomcast"]
        said = [f"{prefix}.{subject}" for subject in (f"action.{mark}", f"route.GET.{mark}", f"edge.{edge}", "moved")]
        return heard, [*said, *reading, f"$KV.{prefix}.doctor.{mark}"]
    if patient.expected.role == "service":
        heard = [f"{prefix}.action.{mark}", f"{prefix}.route.GET.{mark}", f"{prefix}.alive", "$SRV.PING"]
        cast = patient.subjects.room(mark, encode_event("doctor"))
        return heard, [cast, f"{prefix}.socket.{edge}.doctor", patient.subjects.api("count")]
    heard = [f"{prefix}.room.{mark}.*", f"{prefix}.blast.*"]
    return heard, ["$SRV.INFO", patient.subjects.api("count"), f"{prefix}.edge.{edge}", *reading]


def _ignore(*_: object) -> None:
    """What comes meanwhile is for others."""
