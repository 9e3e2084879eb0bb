"""The life of a session over several edges: the pure pieces against a naive model, with edges that die and lie behind.

The edges here are as simple as can be: each call runs to its end, and a cut-off edge neither reads the log nor writes.
What they decide they decide by the pieces that the real ones use.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from roomcast.membership import Change
from roomcast_edge.closing import CloseCode
from roomcast_edge.movelog import MoveLog
from roomcast_edge.records import Move, Record, new_session, secret_hash, split_session
from roomcast_edge.session_state import Event, Fate, closed_with, obstacle, overtaken

# -- the table by itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "fate"),
    [
        (Event.LOST, Fate.AWAY),
        (Event.LEFT, Fate.GONE),
        (Event.ENDED, Fate.GONE),
        (Event.KICKED, Fate.GONE),
        (Event.TAKEN, Fate.RELEASED),
        (Event.EXPIRED, Fate.AWAY),
    ],
)
def test_what_ends_the_stay_of_a_connected_session(event: Event, fate: Fate):
    assert Fate.HERE.after(event) is fate


def test_a_session_that_is_away_may_still_be_kicked_taken_and_expire():
    after = {event: Fate.AWAY.after(event) for event in Event}
    assert after.pop(Event.KICKED) is after.pop(Event.EXPIRED) is Fate.GONE
    assert after.pop(Event.TAKEN) is Fate.RELEASED
    assert set(after.values()) == {Fate.AWAY}


@pytest.mark.parametrize("fate", [Fate.GONE, Fate.RELEASED])
def test_what_is_over_here_stays_so(fate: Fate):
    assert {fate.after(event) for event in Event} == {fate}


@pytest.mark.parametrize("code", CloseCode)
def test_a_close_code_leaves_a_session_to_resume_unless_it_ends_it(code: CloseCode):
    fate = Fate.HERE.after(closed_with(code))
    assert (fate is Fate.GONE) == code.ends_session
    assert (fate is Fate.RELEASED) == (code is CloseCode.REPLACED)


# -- a bucket and its edges ----------------------------------------------------------------------------------------


class WrongRevision(Exception):
    """As the bucket's."""


class Store:
    """The records with their revisions, and the log of moves: one sequence over both."""

    def __init__(self) -> None:
        self.sequence = 0
        self.records: dict[str, tuple[bytes | None, int]] = {}
        self.moves: list[Move] = []

    def put(self, name: str, value: bytes | None, expect: int) -> int:
        if self.records.get(name, (None, 0))[1] != expect:
            raise WrongRevision
        self.sequence += 1
        self.records[name] = (value, self.sequence)
        return self.sequence

    def get(self, name: str) -> tuple[Record | None, int]:
        value, revision = self.records.get(name, (None, 0))
        return None if value is None else Record.from_json(value), revision

    def log(self, source: str, change: Change, owner: str = "") -> None:
        self.sequence += 1
        value = Move(f"m{self.sequence}", source, change, owner=owner).to_json()
        self.moves.append(Move.from_json(f"m{self.sequence}", value, self.sequence))

    def expire(self, name: str) -> None:
        self.sequence += 1
        self.records[name] = (None, self.sequence)


@dataclass
class Held:
    """A session on one edge."""

    id: str
    hash: str
    rooms: set[str]
    applied: int
    revision: int
    fate: Fate = Fate.HERE


class Edge:
    """One edge. Cut off, it believes what it knew, and its writes wait until it is back."""

    def __init__(self, name: str, store: Store) -> None:
        self.name, self.store = name, store
        self.head = store.sequence
        self.log = MoveLog(self.head)
        self.held: dict[str, Held] = {}
        self.cut = False
        self.lease_lost = False
        self.unwritten: list[Held] = []

    def read_log(self) -> None:
        for move in self.store.moves:
            if move.sequence <= self.head:
                continue
            self.log.append(move)
            self.head = move.sequence
            for held in list(self.held.values()):
                if move.source == held.id or move.source in held.rooms:
                    self.apply_move(held, move)

    def apply_move(self, held: Held, move: Move) -> None:
        if move.owner:
            if move.owner != self.name:
                self.end(held, closed_with(CloseCode.REPLACED))
            return
        self.apply(held, move.change)
        if move.change.disconnect is not None:
            self.end(held, closed_with(CloseCode.KICKED))

    def apply(self, held: Held, change: Change) -> None:
        joined, left = change.delta(held.rooms, held.id)
        held.rooms.difference_update(left)
        held.rooms.update(joined)

    def end(self, held: Held, event: Event) -> None:
        held.fate = held.fate.after(event)
        held.applied = self.head
        self.held.pop(held.id, None)
        self.write(held)

    def write(self, held: Held) -> bool:
        """Say in the record what the session is now; whether it says so."""
        if self.cut:
            self.unwritten.append(held)
            return False
        for _ in range(3):
            if held.fate is Fate.RELEASED:
                return False
            here = held.fate is Fate.HERE
            applied = self.head if here else held.applied
            record = Record(self.name if here else None, held.rooms, applied, held.hash)
            try:
                if held.fate is not Fate.GONE:
                    held.revision = self.store.put(held.id, record.to_json(), held.revision)
                elif held.revision:
                    held.revision = self.store.put(held.id, None, held.revision)
                return True
            except WrongRevision:
                if not self.merge(held):
                    return False
        raise AssertionError("a write is either done after a merge or given up")

    def merge(self, held: Held) -> bool:
        """Learn who wrote the record since; whether there is still something for this edge to write."""
        record, revision = self.store.get(held.id)
        event = overtaken(record, held.hash, self.name)
        if event is None:
            assert record is not None, "an expired one is an event"
            held.revision = revision
            if held.fate is Fate.HERE and record.owner is None:
                self.replay(held.id, record)
                held.rooms = record.rooms
            return True
        again = event is Event.EXPIRED and held.fate is not Fate.HERE
        held.revision = 0
        self.held.pop(held.id, None)
        held.fate = held.fate.after(event)
        return again

    def replay(self, name: str, record: Record) -> None:
        """Bring a record up to date; the log reaches back as far as it must."""
        if record.applied < self.log.since:
            older = [move for move in self.store.moves if record.applied < move.sequence <= self.log.since]
            self.log.prepend(older, record.applied)
        self.log.replay(name, record, self.head)

    def resume(self, session: str, release: dict[str, Edge]) -> str:
        """Take a session up; why not, where it is not to be had. ``WrongRevision``: another edge was faster."""
        take = self.look(session, release)
        return take if isinstance(take, str) else self.take(*take)

    def look(self, session: str, release: dict[str, Edge]) -> tuple[str, Record, int, bool] | str:
        """The first half: what the record says once its owner has let go of it."""
        name, secret = split_session(session)
        record, revision = self.store.get(name)
        if record is None:
            return "unknown"
        if why := obstacle(record, secret, None):
            return why
        owner = release.get(record.owner or "")
        silent = owner is not None and owner.cut and not owner.lease_lost
        if owner is not None and not owner.cut and name in owner.held:
            owner.end(owner.held[name], closed_with(CloseCode.REPLACED))
        self.read_log()
        self.replay(name, record)
        return obstacle(record, secret, None) or (name, record, revision, silent)

    def take(self, name: str, record: Record, revision: int, silent: bool) -> str:
        """The second half: become the owner in the record, leave a note for one that has its lease, then hold it."""
        record.owner = self.name
        revision = self.store.put(name, record.to_json(), revision)
        if silent:
            self.store.log(name, Change(), owner=self.name)
        self.replay(name, record)
        self.held[name] = Held(name, record.hash, record.rooms, self.head, revision)
        return ""

    def come_back(self) -> None:
        """The log first, then what is unwritten, and the claims of all records where the lease was lost."""
        claimed = list(self.held) if self.lease_lost else []
        self.cut = self.lease_lost = False
        self.read_log()
        unwritten, self.unwritten = self.unwritten, []
        for held in unwritten:
            self.write(held)
        for name in claimed:
            if name in self.held:
                self.write(self.held[name])


# -- the model -----------------------------------------------------------------------------------------------------


@dataclass
class Client:
    """What is true of one session: nothing but its rooms and whether it may come back."""

    id: str
    session: str
    rooms: set[str]
    over: bool = False
    at: str = ""
    """The edge to which its connection goes; empty while it has none."""


EDGES = ["edge-aa1", "edge-bb2", "edge-cc3"]
ROOMS = ["a", "b", "c", "d"]
edges = st.sampled_from(EDGES)
some = st.integers(0, 1000)
rooms = st.lists(st.sampled_from(ROOMS), unique=True, max_size=2)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Any change but a disconnect."""
    join = draw(rooms)
    leave = [room for room in draw(rooms) if room not in join]
    return Change(tuple(join), tuple(leave), draw(st.sampled_from([False, False, False, True])))


class SessionsOverEdges(RuleBasedStateMachine):
    """Clients come, change, vanish and return, while edges are cut off, lie behind or die."""

    @initialize()
    def start(self) -> None:
        self.store = Store()
        self.edges = {name: Edge(name, self.store) for name in EDGES}
        self.clients: list[Client] = []

    def client(self, number: int) -> Client:
        return self.clients[number % len(self.clients)]

    def reachable(self) -> list[Edge]:
        return [edge for edge in self.edges.values() if not edge.cut]

    def told(self, client: Client, change: Change) -> None:
        """What a change does to the truth."""
        if change.leave_all:
            client.rooms.clear()
        client.rooms.difference_update(change.leave)
        client.rooms.update(change.join)
        if change.disconnect is not None:
            client.over, client.at = True, ""

    def holder(self, client: Client) -> Edge | None:
        """The edge that holds the session and can be reached, as its record says."""
        record, _ = self.store.get(client.id)
        edge = self.edges.get(record.owner or "") if record is not None else None
        return edge if edge is not None and not edge.cut and client.id in edge.held else None

    def put_move(self, source: str, change: Change) -> None:
        self.store.log(source, change)
        for client in self.clients:
            if not client.over and (source == client.id or source in client.rooms):
                self.told(client, change)

    # -- what happens --------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 2 and self.reachable())
    @rule(number=some, first=rooms)
    def connect(self, number: int, first: list[str]) -> None:
        edge = self.reachable()[number % len(self.reachable())]
        edge.read_log()
        socket_id, secret = new_session(edge.name)
        held = Held(socket_id, secret_hash(secret), set(first), edge.head, 0)
        assert edge.write(held), "nobody knows its id yet"
        edge.held[socket_id] = held
        self.clients.append(Client(socket_id, f"{socket_id}.{secret}", set(held.rooms), at=edge.name))

    @precondition(lambda self: self.clients)
    @rule(number=some, change=changes(), kick=st.sampled_from([False, False, False, False, True]))
    def single_change(self, number: int, change: Change, kick: bool) -> None:
        client = self.client(number)
        change = Change(disconnect="out") if kick else change
        edge = self.holder(client)
        if edge is not None:
            edge.read_log()
        edge = self.holder(client)
        if edge is None:  # it is away, or its edge is silent
            if self.store.get(client.id)[0] is not None:
                self.put_move(client.id, change)
            return
        held = edge.held[client.id]
        edge.apply(held, change)
        if kick:
            edge.end(held, closed_with(CloseCode.KICKED))
        elif not edge.write(held):
            return
        self.told(client, change)

    @rule(source=st.sampled_from(ROOMS), change=changes())
    def bulk_move(self, source: str, change: Change) -> None:
        self.put_move(source, change)

    @rule(source=st.sampled_from(ROOMS))
    def kicked_by_a_move(self, source: str) -> None:
        self.put_move(source, Change(disconnect="out"))

    @precondition(lambda self: self.reachable())
    @rule(number=some)
    def reads_the_log(self, number: int) -> None:
        self.reachable()[number % len(self.reachable())].read_log()

    @precondition(lambda self: self.clients)
    @rule(number=some, event=st.sampled_from([Event.LOST, Event.LEFT]))
    def the_connection_ends(self, number: int, event: Event) -> None:
        """A loss is known at once where the edge notices; what the client says in leaving, too."""
        client = self.client(number)
        edge = self.edges.get(client.at)
        client.at = ""
        if edge is None or client.id not in edge.held:
            return
        edge.end(edge.held[client.id], event)
        if event is Event.LEFT and not edge.cut:
            client.over = True
        elif event is Event.LEFT:
            self.clients.remove(client)  # whether its leaving is ever known is open

    @precondition(lambda self: self.clients and self.reachable())
    @rule(number=some, where=some)
    def resume(self, number: int, where: int) -> None:
        """The edge before may believe in the old connection still, be cut off, or dead."""
        client, edge = self.client(number), self.reachable()[where % len(self.reachable())]
        self.judge(client, edge, edge.resume(client.session, self.edges))

    def judge(self, client: Client, edge: Edge, why: str) -> None:
        if why:
            assert client.over, f"a session that may come back was refused: {why}"
            return
        client.at = edge.name
        edge.read_log()
        assert (client.id in edge.held) != client.over, "who is over is held no longer than the log is unread"
        if not client.over:
            assert edge.held[client.id].rooms == client.rooms, "a resume brings back the rooms, no more and no less"

    @precondition(lambda self: self.clients and len(self.reachable()) > 1)
    @rule(number=some)
    def two_edges_race(self, number: int) -> None:
        client = self.client(number)
        takes = {edge.name: edge.look(client.session, self.edges) for edge in self.reachable()[:2]}
        won = []
        for name, take in takes.items():
            if isinstance(take, str):
                continue
            try:
                assert self.edges[name].take(*take) == ""
            except WrongRevision:
                continue
            won.append(name)
        assert len(won) <= 1, "one of two wins, never both"
        for name in won:
            self.judge(client, self.edges[name], "")

    @precondition(lambda self: self.clients and self.reachable())
    @rule(number=some)
    def a_forged_session(self, number: int) -> None:
        client, edge = self.client(number), self.reachable()[0]
        assert edge.resume(f"{client.id}.{new_session(edge.name)[1]}", self.edges) in ("forged", "unknown")

    @precondition(lambda self: self.clients)
    @rule(number=some, lease_lost=st.booleans())
    def its_edge_is_cut_off(self, number: int, lease_lost: bool) -> None:
        """For longer than its lease, or not."""
        edge = self.edges.get(self.client(number).at)
        if edge is not None:
            edge.cut, edge.lease_lost = True, edge.lease_lost or lease_lost

    @precondition(lambda self: len(self.reachable()) < len(EDGES))
    @rule(number=some)
    def an_edge_comes_back(self, number: int) -> None:
        cut = [edge for edge in self.edges.values() if edge.cut]
        cut[number % len(cut)].come_back()

    @rule(name=edges)
    def is_killed(self, name: str) -> None:
        """Another process takes its place; its name is another one in truth, but nobody else has it here."""
        self.edges[name] = Edge(name, self.store)
        for client in self.clients:
            if client.at == name:
                client.at = ""

    @precondition(lambda self: self.clients)
    @rule(number=some)
    def its_time_is_over(self, number: int) -> None:
        """The resume window, or the life of a record whose edge is not there to refresh it."""
        client = self.client(number)
        record, _ = self.store.get(client.id)
        if record is not None and self.holder(client) is None:
            self.store.expire(client.id)
            client.over, client.at = True, ""

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def one_edge_holds_a_session_and_the_record_names_it(self) -> None:
        for client in self.clients:
            record, _ = self.store.get(client.id)
            sure = [edge.name for edge in self.edges.values() if self.believes(edge, client)]
            assert len(sure) <= 1, "two edges that are not cut off hold it"
            if sure and record is not None:
                assert record.owner == sure[0]

    def believes(self, edge: Edge, client: Client) -> bool:
        """Whether an edge that has read the whole log holds the session."""
        last = self.store.moves[-1].sequence if self.store.moves else 0
        return not edge.cut and edge.head >= last and client.id in edge.held

    @invariant()
    def memory_at_the_end_of_the_log_and_replayed_records_tell_the_truth(self) -> None:
        for client in self.clients:
            record, _ = self.store.get(client.id)
            if record is not None:
                record.replay(client.id, self.store.moves)
                assert (record.disconnect is not None) == client.over, "who was kicked may not come back, others may"
                assert client.over or record.rooms == client.rooms
            else:
                assert client.over, "a session that may come back has a record"
            for edge in self.edges.values():
                if self.believes(edge, client) and record is not None:
                    assert edge.held[client.id].rooms == client.rooms


TestSessionsOverEdges = SessionsOverEdges.TestCase
TestSessionsOverEdges.settings = settings(max_examples=500, stateful_step_count=30, deadline=None)
