"""Checks of JetStream and the KV bucket: there, as edges need it, replicated, with room, and on time."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import orjson

from roomcast.doctor.findings import Finding, fail, ok, skip, warn
from roomcast.doctor.patient import Patient
from roomcast.errors import BusTimeout, BusUnavailable

NOT_FOUND = 10059
FULL = 0.8
"""Of its limit, from which on a bucket counts as nearly full."""
SKEW_SECONDS = 1.0
"""By which clocks may differ: times to live are whole seconds, leases 30."""

NEEDED: dict[str, Any] = {
    "allow_msg_ttl": True,
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "max_msgs_per_subject": 1,
    "retention": "limits",
    "discard": "new",
    "storage": "file",
}
"""How the bucket's stream must be configured; edges make it so."""


async def check_bucket(patient: Patient) -> AsyncIterator[Finding]:
    """JetStream answers, the bucket is there and as edges need it, and takes a write that it gives back."""
    info = await patient.ask_json(f"$JS.API.STREAM.INFO.{patient.stream}")
    if info is None:
        yield fail(
            "jetstream",
            "JetStream does not answer",
            "enable it for this account, look whether most nodes live, and see the permissions above",
        )
        return
    error = info.get("error")
    if error and error.get("err_code") == NOT_FOUND:
        yield ok("jetstream", "it answers")
        yield fail("bucket", f"there is no bucket {patient.subjects.prefix}", "start an edge: the first one makes it")
        return
    if error:
        yield fail("jetstream", str(error.get("description")), "see the log of the NATS servers")
        return
    yield ok("jetstream", "it answers")
    for finding in (*_configured(patient, info), *_replicated(patient, info), *_room(info)):
        yield finding
    async for finding in _written(patient):
        yield finding


def _configured(patient: Patient, info: dict[str, Any]) -> list[Finding]:
    config = info["config"]
    wrong = [
        f"{key} is {config.get(key)!r}, not {value!r}" for key, value in NEEDED.items() if config.get(key) != value
    ]
    if config.get("max_age"):
        wrong.append("max_age is set: records would vanish under sockets that live")
    if wrong:
        return [
            fail(
                "bucket",
                f"{patient.stream} is not as edges need it: {'; '.join(wrong)}",
                "it was not made by Roomcast: use another prefix, or delete it and let an edge make it",
            )
        ]
    return [ok("bucket", f"{patient.stream} is as edges need it")]


def _replicated(patient: Patient, info: dict[str, Any]) -> list[Finding]:
    replicas, cluster = info["config"]["num_replicas"], info.get("cluster") or {}
    peers = cluster.get("replicas") or []
    nodes = max(len({server.uri.netloc for server in patient.client._server_pool}), 1 + len(peers))
    wanted = patient.expected.replicas
    found = []
    if wanted and replicas != wanted:
        found.append(
            fail(
                "replicas",
                f"the bucket has {replicas}, wanted are {wanted}",
                f"nats stream update {patient.stream} --replicas {wanted} (edges change no bucket that is there)",
            )
        )
    if replicas == 1 and nodes >= 3:
        found.append(
            warn(
                "replicas",
                f"the bucket has one replica in a cluster of {nodes} nodes: when its node is away, changes are refused",
                f"nats stream update {patient.stream} --replicas 3, and ROOMCAST_KV_REPLICAS=3",
            )
        )
    if max(replicas, wanted) > nodes:
        found.append(
            warn(
                "replicas",
                f"{max(replicas, wanted)} replicas need as many nodes; {nodes} known to this client",
                "start the missing nodes, or let them advertise themselves to clients",
            )
        )
    if replicas > 1 and not cluster.get("leader"):
        found.append(fail("replicas", "the bucket has no leader", "wait 10 s; then look which nodes are away"))
    for peer in peers:
        if peer.get("offline") or not peer.get("current"):
            state = "away" if peer.get("offline") else f"{peer.get('lag', '?')} entries behind"
            found.append(
                fail(
                    "replicas", f"the replica on {peer['name']} is {state}", "look at that node: one more, and it stops"
                )
            )
    return found or [ok("replicas", f"{replicas}, all current")]


def _room(info: dict[str, Any]) -> list[Finding]:
    limit, used = info["config"].get("max_bytes", -1), info["state"]["bytes"]
    if limit > 0 and used > FULL * limit:
        return [
            fail("room", f"the bucket holds {used} of {limit} bytes", "raise max_bytes: a full bucket refuses changes")
        ]
    return [ok("room", f"the bucket holds {used} bytes" + (f" of {limit}" if limit > 0 else ""))]


async def _written(patient: Patient) -> AsyncIterator[Finding]:
    """Write a key that no edge reads and that vanishes by itself; the time that the stream gives it is NATS's clock."""
    key = f"$KV.{patient.subjects.prefix}.doctor.{secrets.token_hex(6)}"
    head = b"NATS/1.0\r\nNats-TTL: 5s\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n"
    before = time.time()
    try:
        answer = await patient.ask(key, b"{}", head)
    except (BusTimeout, BusUnavailable) as error:
        if any(denied.subject == key for denied in patient.denied):
            yield skip(
                "write", f"{patient.expected.role}s do not write to the bucket: see it with the edges' credentials"
            )
            return
        yield fail("write", f"the bucket acknowledges no write: {error}", "look whether most NATS nodes live")
        return
    after = time.time()
    told = orjson.loads(answer) if answer else {"error": {"description": "nobody takes writes for this bucket"}}
    if "error" in told:
        why = told["error"].get("description")
        yield fail(
            "write", f"the bucket refuses a write: {why}", "changes are refused too: free room, or mend what it says"
        )
        return
    yield ok("write", f"acknowledged after {(after - before) * 1000:.1f} ms")
    read = await patient.ask_json(f"$JS.API.STREAM.MSG.GET.{patient.stream}", {"last_by_subj": key})
    message = (read or {}).get("message")
    if message is None:
        yield fail("read", "what was written is not read back", "see the permissions; else see the log of NATS")
        return
    yield ok("read", "what was written is read back")
    stored = datetime.fromisoformat(message["time"][:26].rstrip("Z") + "+00:00").timestamp()
    yield skew("the stream's leader", stored, before, after)


def skew(whose: str, theirs: float, before: float, after: float) -> Finding:
    """Whether a clock that was read between two moments of this one agrees with it."""
    ahead = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(ahead) > SKEW_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        return fail("clock", f"the clock of {whose} is {abs(ahead):.1f} s {way} this one", "run NTP on all machines")
    return ok("clock", f"{whose} agrees with this machine within {max(abs(ahead), (after - before) / 2):.3f} s")
