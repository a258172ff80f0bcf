"""What is decided, without anything being mounted."""

from __future__ import annotations

import msgspec

from dynvol.api.mounts import Phase, WantedMount
from dynvol.mount.providers.contract import Finding
from dynvol.mounter.decide import Hide, Salvage, SessionView, Show, Shown, Start, State, Stop, decide, refusals, reports

DEVICE, DEAD = (0, 7), (0, 6)
PARAMETERS = {"bucket": "some-bucket"}


def mount(claim: str = "a", *, at: str = "data", spec: str = "1", pod: str = "pod") -> WantedMount:
    return WantedMount(
        claim=f"ns/{claim}", claim_uid=claim, pod_uid=pod, path=f"{pod}/{at}", provider="s3", spec_hash=spec, parameters=PARAMETERS
    )


def session(of: WantedMount, state: State = State.SERVING, *, finding: Finding | None = None, flushed: bool = False) -> SessionView:
    device = DEVICE if state is State.SERVING else None
    return SessionView(of.spec_hash, state, device, finding, paths={of.path: of.claim_uid}, owners=of.owners, flushed=flushed)


A = mount()
SERVED = {A.source: session(A)}
SHOWN = {A.path: [Shown(A.source, DEVICE)]}


def test_nothing_is_done_when_all_is_as_it_should_be() -> None:
    assert decide([A], shown=SHOWN, sessions=SERVED) == []
    assert decide([], shown={}, sessions={}) == []


def test_a_mount_is_started_then_shown() -> None:
    assert decide([A], shown={}, sessions={}) == [Start(A)]
    assert decide([A], shown={}, sessions={A.source: session(A, State.STARTING)}) == []
    assert decide([A], shown={}, sessions=SERVED) == [Show(A.path, A.source, read_only=False)]


def test_a_path_that_is_being_worked_on_is_left_alone() -> None:
    assert decide([A], shown={}, sessions=SERVED, busy={A.path}) == []
    assert decide([], shown=SHOWN, sessions=SERVED, busy={A.path}) == []


def test_what_is_not_wanted_is_hidden_before_its_session_is_stopped() -> None:
    assert decide([], shown=SHOWN, sessions=SERVED) == [Hide(A.path, A.source, gently=True)]
    assert decide([], shown={}, sessions=SERVED) == [Stop(A.source)]


def test_a_session_that_is_ending_is_not_told_again() -> None:
    assert decide([], shown={}, sessions={A.source: session(A, State.ENDING)}) == []


def test_what_no_session_stands_behind_is_hidden_at_once() -> None:
    assert decide([], shown=SHOWN, sessions={}) == [Hide(A.path, A.source, gently=False)]


def test_a_dead_mount_stays_until_its_successor_serves_and_is_replaced_then() -> None:
    dead = {A.path: [Shown(A.source, DEAD)]}
    assert decide([A], shown=dead, sessions={A.source: session(A, State.BROKEN)}) == []
    assert decide([A], shown=dead, sessions=SERVED) == [Show(A.path, A.source, read_only=False)]


def test_mounts_on_top_of_one_another_become_one() -> None:
    stack = {A.path: [Shown(A.source, DEAD), Shown(A.source, DEVICE)]}
    assert decide([A], shown=stack, sessions=SERVED) == [Show(A.path, A.source, read_only=False)]


def test_a_changed_spec_waits_for_the_old_data_but_not_for_open_files() -> None:
    new = mount(spec="2")
    assert decide([new], shown=SHOWN, sessions=SERVED) == [Hide(A.path, A.source, gently=True)]
    assert decide([new], shown={}, sessions=SERVED) == [Stop(A.source)]
    assert decide([new], shown={}, sessions={A.source: session(A, State.ENDING)}) == []
    assert decide([new], shown={}, sessions={A.source: session(A, State.ENDING, flushed=True)}) == [Start(new)]


def test_two_pods_of_one_claim_share_a_session() -> None:
    other = mount(pod="other")
    assert decide([A, other], shown={}, sessions={}) == [Start(A)]
    assert decide([A, other], shown=SHOWN, sessions=SERVED) == [Show(other.path, A.source, read_only=False)]
    both = {**SHOWN, other.path: [Shown(A.source, DEVICE)]}
    assert decide([A], shown=both, sessions=SERVED) == [Hide(other.path, A.source, gently=True)]


def test_claims_with_one_client_share_a_session_and_lose_their_own_place_only() -> None:
    one, two = (msgspec.structs.replace(mount(claim, at=claim), client="c") for claim in "ab")
    assert decide([one, two], shown={}, sessions={}) == [Start(one)]
    both = {m.path: [Shown(m.source, DEVICE)] for m in (one, two)}
    served = {one.source: msgspec.structs.replace(session(one), paths={one.path: "a", two.path: "b"})}
    assert decide([one, two], shown=both, sessions=served) == []
    assert decide([two], shown=both, sessions=served) == [Hide(one.path, one.source, gently=True)]
    assert decide([two], shown={two.path: both[two.path]}, sessions=served) == []
    assert phases([two], sessions=served, shown=both) == [("1", "Mounted", ""), ("1", "Unmounting", "")]
    assert decide([], shown={}, sessions=served) == [Stop(one.source)]


def test_a_claim_joins_a_client_when_what_it_wrote_elsewhere_is_in_the_storage() -> None:
    shared = msgspec.structs.replace(mount("b", at="b", spec="2"), client="c")
    joining = msgspec.structs.replace(mount("a", spec="2"), client="c")
    serving = {shared.source: session(shared)}
    shown = {shared.path: [Shown(shared.source, DEVICE)]}
    show = [Show(joining.path, joining.source, read_only=False)]
    before = session(A, State.ENDING, finding=Finding("UnflushedData", "1 file is"))
    both = [shared, joining]
    assert decide(both, shown=shown, sessions={**serving, A.source: before}) == []
    assert ("2", "Mounting", "UnflushedData") in phases(both, sessions={**serving, A.source: before}, shown=shown)
    assert decide(both, shown=shown, sessions={**serving, A.source: msgspec.structs.replace(before, flushed=True)}) == show
    assert decide([joining], shown={}, sessions={}, left=[A]) == [Salvage(A)]
    together = msgspec.structs.replace(mount("z"), client="d", users=("a/pod", "z/pod"))
    assert decide(both, shown=shown, sessions=serving, left=[together]) == [Salvage(together)]
    assert decide(both, shown=shown, sessions=serving) == show


def test_overlapping_malformed_and_foreign_paths_are_refused() -> None:
    wanted = [
        A,
        mount("below", at="data/deep"),
        mount("above-none", at="database"),
        mount("climbing", at="../x"),
        mount("empty", at=""),
        msgspec.structs.replace(mount("foreign"), path="other/data"),
        msgspec.structs.replace(mount("unknown", at="u"), provider="floppy"),
    ]
    found = {r.claim_uid: (r.phase, r.reason) for r in refusals(wanted).values()}
    assert found == {
        "below": (Phase.CONFLICT, "MountpointTaken"),
        "climbing": (Phase.FAILED, "InvalidMountpoint"),
        "empty": (Phase.FAILED, "InvalidMountpoint"),
        "foreign": (Phase.FAILED, "InvalidMountpoint"),
        "unknown": (Phase.FAILED, "InvalidParameters"),
    }


def test_where_there_are_no_pods_any_path_below_the_root_will_do() -> None:
    places = {"a": "data", "b": "deep/er", "c": "data/in", "d": ".."}
    wanted = [msgspec.structs.replace(mount(claim, pod=""), path=path) for claim, path in places.items()]
    found = {r.claim_uid: (r.phase, r.reason) for r in refusals(wanted, for_pods=False).values()}
    assert found == {"c": (Phase.CONFLICT, "MountpointTaken"), "d": (Phase.FAILED, "InvalidMountpoint")}
    assert {r.reason for r in refusals(wanted).values()} == {"InvalidMountpoint"}


def test_a_set_of_credentials_has_a_name_and_no_path() -> None:
    wanted = [msgspec.structs.replace(A, credentials=name) for name in ("..", ".", "a/b", "/etc")]
    assert [r.reason for m in wanted for r in refusals([m]).values()] == ["InvalidParameters"] * 4
    assert refusals([msgspec.structs.replace(A, credentials="team-a")]) == {}


def phases(
    wanted: list[WantedMount],
    *,
    shown: dict[str, list[Shown]] | None = None,
    sessions: dict[str, SessionView] | None = None,
    failures: dict[str, Finding] | None = None,
) -> list[tuple[str, str, str]]:
    found = reports(wanted, refused={}, shown=shown or {}, sessions=sessions or {}, failures=failures or {})
    return [(r.spec_hash, r.phase.value, r.reason) for r in found]


def test_a_mount_is_reported_mounted_only_while_the_table_shows_it() -> None:
    assert phases([A]) == [("1", "Pending", "")]
    assert phases([A], sessions={A.source: session(A, State.STARTING)}) == [("1", "Mounting", "")]
    assert phases([A], sessions=SERVED) == [("1", "Mounting", "")]
    assert phases([A], sessions=SERVED, shown=SHOWN) == [("1", "Mounted", "")]
    assert phases([A], sessions=SERVED, shown={A.path: [Shown(A.source, DEAD)]}) == [("1", "Mounting", "")]


def test_a_reason_is_reported_with_the_failure() -> None:
    why = Finding("NoSuchBucket", "no")
    assert phases([A], sessions={A.source: session(A, State.BROKEN, finding=why)}) == [("1", "Failed", "NoSuchBucket")]
    assert phases([A], sessions=SERVED, failures={A.path: why}) == [("1", "Failed", "NoSuchBucket")]


def test_what_is_on_its_way_out_is_reported_until_its_session_has_ended() -> None:
    kept = Finding("UnflushedData", "two files")
    assert phases([], sessions=SERVED, shown=SHOWN) == [("1", "Unmounting", "")]
    assert phases([], sessions={A.source: session(A, State.ENDING, finding=kept)}) == [("1", "Unmounting", "UnflushedData")]
    assert phases([]) == []


def test_a_changed_spec_is_reported_as_such_while_the_old_one_goes() -> None:
    new = mount(spec="2")
    assert phases([new], sessions={A.source: session(A, State.ENDING)}) == [("2", "Mounting", "Changing")]
    assert phases([new], sessions={A.source: session(A, State.BROKEN, finding=Finding("Old", ""))}) == [
        ("2", "Mounting", "Changing")
    ]


def test_a_pod_that_lost_a_shared_mount_is_done_when_it_shows_no_more() -> None:
    other = mount(pod="other")
    shared = msgspec.structs.replace(session(A), paths={A.path: A.claim_uid, other.path: other.claim_uid})
    both = {**SHOWN, other.path: [Shown(A.source, DEVICE)]}
    assert phases([A], sessions={A.source: shared}, shown=both) == [("1", "Mounted", ""), ("1", "Unmounting", "")]
    assert phases([A], sessions={A.source: shared}, shown=SHOWN) == [("1", "Mounted", "")]
