"""The mounter's decisions in a world of clients that die, mounters that are killed and programs that write: whatever comes in
whatever order, what is wanted shows in the end, nothing else does, and no byte that was written is left behind.

The world is a few lines: what a session, a mount and a cache do, and no word of how it is decided what to do about them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dynvol.api.mounts import Phase, WantedMount
from dynvol.mounter.decide import Action, Hide, Salvage, SessionView, Show, Shown, Start, State, Stop, decide, refusals, reports
from unit.examples import examples

PARAMETERS = {"bucket": "some-bucket"}


@dataclass
class Client:
    """A session, and the program that it runs."""

    mount: WantedMount
    state: State = State.STARTING
    device: tuple[int, int] | None = None
    paths: dict[str, str] = field(default_factory=dict)
    owners: set[str] = field(default_factory=set)
    flushed: bool = False

    @property
    def view(self) -> SessionView:
        return SessionView(
            self.mount.spec_hash,
            self.state,
            self.device,
            paths=dict(self.paths),
            owners=frozenset(self.owners),
            flushed=self.flushed,
        )


def a_mount(claim: str, spec: str, pod: str, place: str, shared: bool) -> WantedMount:
    return WantedMount(
        claim=f"ns/{claim}",
        claim_uid=claim,
        pod_uid=pod,
        path=f"{pod}/{place}",
        provider="s3",
        spec_hash=spec,
        parameters=PARAMETERS,
        client=spec if shared else "",
    )


mounts = st.builds(
    a_mount,
    st.sampled_from("ab"),
    st.sampled_from("12"),
    st.sampled_from(["pod-p", "pod-q"]),
    st.sampled_from(["data", "data/deep", "other"]),
    st.booleans(),
)
choice = st.integers(0, 100)


def changed(mount: WantedMount, spec: str) -> WantedMount:
    return msgspec.structs.replace(mount, spec_hash=spec, client=spec if mount.client else "")


class MounterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[WantedMount] = []
        self.clients: dict[str, Client] = {}
        self.table: dict[str, list[Shown]] = {}
        self.in_hand: dict[str, Show | Hide] = {}
        """Path → what is being done there."""
        self.written: dict[str, set[str]] = {}
        """Source → the keys of those of whom a program has written something that no storage has yet."""
        self.left: dict[str, WantedMount] = {}
        """Caches of earlier mounters."""
        self.devices = itertools.count(1)

    # --- What others do

    @initialize(wanted=st.lists(mounts, min_size=1, max_size=4))
    def some_are_wanted_and_there(self, wanted: list[WantedMount]) -> None:
        self.others_are_wanted(wanted)
        self.all_go_their_way(rounds=4)

    @rule(wanted=st.lists(mounts, max_size=4))
    def others_are_wanted(self, wanted: list[WantedMount]) -> None:
        """One of each claim in each pod, as the node process tells it."""
        self.wanted = list({mount.key: mount for mount in wanted}.values())

    @precondition(lambda self: self.wanted)
    @rule(which=choice)
    def a_claim_is_changed(self, which: int) -> None:
        mount = self.wanted[which % len(self.wanted)]
        spec = "2" if mount.spec_hash == "1" else "1"
        self.wanted = [changed(m, spec) if m.claim_uid == mount.claim_uid else m for m in self.wanted]

    @precondition(lambda self: self.wanted)
    @rule(which=choice)
    def one_is_wanted_no_more(self, which: int) -> None:
        del self.wanted[which % len(self.wanted)]

    @rule(rounds=st.integers(1, 4))
    def all_go_their_way(self, rounds: int) -> None:
        for _ in range(rounds):
            self.it_acts()
            for path in list(self.in_hand):
                self.finish(path)
            for source in [s for s, c in self.clients.items() if c.state is not State.SERVING]:
                self.go_on(source)

    @precondition(lambda self: self.clients)
    @rule(which=choice)
    def a_client_goes_on(self, which: int) -> None:
        self.go_on(sorted(self.clients)[which % len(self.clients)])

    def go_on(self, source: str) -> None:
        client = self.clients[source]
        match client.state:
            case State.STARTING | State.BROKEN:
                client.state, client.device = State.SERVING, (0, next(self.devices))
            case State.SERVING:
                self.written.pop(source, None)
            case State.ENDING if not client.flushed:
                self.written.pop(source, None)
                client.flushed = True
            case State.ENDING:
                del self.clients[source]

    @precondition(lambda self: self.clients)
    @rule(which=choice)
    def a_client_dies(self, which: int) -> None:
        client = self.clients[sorted(self.clients)[which % len(self.clients)]]
        if client.state is State.SERVING:
            client.state, client.device = State.BROKEN, None

    @rule()
    def the_mounter_is_killed(self) -> None:
        """The next one finds the caches, and clears the mounts."""
        unflushed = {source: client for source, client in self.clients.items() if not client.flushed}
        self.left |= {s: msgspec.structs.replace(c.mount, users=tuple(sorted(c.owners))) for s, c in unflushed.items()}
        self.clients.clear()
        self.in_hand.clear()
        self.table.clear()

    # --- What the mounter does

    @property
    def accepted(self) -> list[WantedMount]:
        refused = refusals(self.wanted)
        return [mount for mount in self.wanted if mount.key not in refused]

    def views(self) -> dict[str, SessionView]:
        return {source: client.view for source, client in self.clients.items()}

    def decided(self) -> list[Action]:
        return decide(self.accepted, shown=self.table, sessions=self.views(), busy=set(self.in_hand), left=self.left.values())

    @rule()
    def it_acts(self) -> None:
        for action in self.decided():
            self.act(action)

    def act(self, action: Action) -> None:
        match action:
            case Start(mount):
                stale = [
                    s
                    for s, owners in self.written.items()
                    if s not in self.sources() and mount.claim_uid in {owner.partition("/")[0] for owner in owners}
                ]
                assert not stale, "it would read what is older than what a program wrote"
                client = self.begin(mount)
                for other in self.accepted:
                    if other.source == mount.source:
                        self.admit(client, other)
            case Salvage(mount):
                client = self.begin(mount)
                self.admit(client, mount)
                client.state = State.ENDING
            case Stop(source):
                assert not [p for p, stack in self.table.items() for shown in stack if shown.source == source], "it still shows"
                assert source not in {a.source for a in self.in_hand.values() if isinstance(a, Show)}, "it is about to show"
                self.clients[source].state, self.clients[source].device = State.ENDING, None
            case Show(path) | Hide(path):
                assert not self.is_right(path), "what is right is left alone"
                assert path not in self.in_hand
                self.in_hand[path] = action
                if isinstance(action, Show):
                    (mount,) = (m for m in self.accepted if m.path == path)
                    stale = [s for s, owners in self.written.items() if mount.key in owners and s not in self.sources()]
                    assert not stale, "it would see what is older than what a program wrote"
                    self.admit(self.clients[action.source], mount)

    def admit(self, client: Client, mount: WantedMount) -> None:
        client.paths[mount.path] = mount.claim_uid
        client.owners.add(mount.key)

    def begin(self, mount: WantedMount) -> Client:
        assert mount.source not in self.clients
        left = self.left.pop(mount.source, mount)
        client = self.clients[mount.source] = Client(mount, owners={*mount.owners, *left.owners})
        return client

    @precondition(lambda self: self.in_hand)
    @rule(which=choice)
    def an_act_is_done(self, which: int) -> None:
        self.finish(sorted(self.in_hand)[which % len(self.in_hand)])

    def finish(self, path: str) -> None:
        action = self.in_hand.pop(path)
        client = self.clients.get(action.source)
        if isinstance(action, Hide):
            self.table.pop(path, None)
            if client is not None and action.source in self.sources():
                key = f"{client.paths.pop(path, '')}/{path.partition('/')[0]}"
                # What a client that goes on has yet to upload, is no longer waited for.
                self.written.get(action.source, set()).discard(key)
        elif client is not None and client.device is not None:
            self.table[path] = [Shown(action.source, client.device)]
            # A program that waited for it writes at once.
            self.written.setdefault(action.source, set()).add(f"{client.paths[path]}/{path.partition('/')[0]}")

    # --- What must hold

    def sources(self) -> set[str]:
        return {mount.source for mount in self.accepted}

    def is_right(self, path: str) -> bool:
        stack = self.table.get(path, [])
        client = self.clients.get(stack[-1].source) if stack else None
        wanted = {mount.path: mount.source for mount in self.accepted}
        return client is not None and len(stack) == 1 and stack == [Shown(wanted.get(path, ""), client.device or (0, 0))]

    def is_at_rest(self) -> bool:
        return not self.decided() and not self.in_hand and all(c.state is State.SERVING for c in self.clients.values())

    @invariant()
    def each_mount_that_is_wanted_is_reported_on_once_and_never_as_mounted_where_it_is_not(self) -> None:
        said = reports(self.wanted, refused=refusals(self.wanted), shown=self.table, sessions=self.views(), failures={})
        assert len({report.key for report in said}) == len(said)
        assert {mount.key for mount in self.wanted} <= {report.key for report in said}
        assert all(self.is_right(report.path) for report in said if report.phase is Phase.MOUNTED)

    def teardown(self) -> None:
        """Nothing dies any more, and everybody goes on: soon there is nothing left to do, and all is right."""
        for _ in range(60):
            if self.is_at_rest():
                break
            self.all_go_their_way(rounds=1)
        assert self.is_at_rest(), f"still {self.decided()}, {self.clients}"
        assert {path: stack[-1].source for path, stack in self.table.items()} == {m.path: m.source for m in self.accepted}
        assert all(map(self.is_right, self.table))
        assert set(self.clients) == self.sources() and not self.left.keys() - self.sources()
        assert not self.written.keys() - self.sources(), "what a program wrote was left behind"


TestMounterModel = MounterMachine.TestCase
TestMounterModel.settings = examples(100, stateful_step_count=40)
