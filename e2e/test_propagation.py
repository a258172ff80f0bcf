"""The page on mount propagation: each line of its tables, as real containers see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import manifests
from e2e.cluster.kubelet.oci import Propagation
from e2e.conftest import World
from e2e.dockerlines import Machine, machine
from e2e.manifests import ROOT

PAGE = Path(__file__).resolve().parents[1] / "dynvol" / "mount" / "README.md"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
KINDS = tuple(Propagation)
HEADER, *TABLE = [row for row in ROWS if len(row) == 4]
NAMES = HEADER[1:]
VOLUME = {row[0]: row[1] for row in ROWS if len(row) == 2 and row[1]}


class Shared:
    """A directory of the host that containers get: who sees which mounts below it."""

    def __init__(self, host: Machine, kind: Propagation, *, shared: bool = True) -> None:
        self._host = host
        self._kind = kind
        self._root = f"/srv/{kind.value}-{shared}"
        host.must(f"mkdir -p {self._root}/before {self._root}/later {self._root}/own")
        host.must(f"mount --bind {self._root} {self._root}")
        host.must(f"mount --make-{'shared' if shared else 'private'} {self._root}")

    def start(self, name: str, kind: Propagation) -> None:
        bind = f"type=bind,src={self._root},dst=/mnt,bind-propagation={kind.option}"
        self._host.must(f"docker run -d --name {name} --privileged --mount {bind} debian:12-slim sleep infinity")

    def mount(self, at: str) -> None:
        self._host.must(f"mount -t tmpfs tmpfs {self._root}/{at}")

    def unmount(self, at: str) -> None:
        self._host.must(f"umount {self._root}/{at}")

    def mounted(self, at: str) -> bool:
        return self._host.do(f"mountpoint -q {self._root}/{at}").code == 0

    def seen(self, name: str, at: str) -> bool:
        return self._host.do(f"docker exec {name} mountpoint -q /mnt/{at}").code == 0

    def life(self) -> dict[str, bool]:
        """A container's life, in which everything in the table happens once."""
        subject, witness = f"subject-{self._root[5:]}", f"witness-{self._root[5:]}"
        self.mount("before")
        self.start(subject, self._kind)
        self.start(witness, Propagation.HOST_TO_CONTAINER)
        found = {"the container sees what was mounted before it started": self.seen(subject, "before")}
        self.mount("later")
        found["the container sees what the host mounts while it runs"] = self.seen(subject, "later")
        self.unmount("before")
        found["what the host unmounts goes from the container"] = not self.seen(subject, "before")
        self._host.must(f"docker exec {subject} mount -t tmpfs tmpfs /mnt/own")
        found["the host sees what the container mounts"] = self.mounted("own")
        found["containers that receive see what the container mounts"] = self.seen(witness, "own")
        self._host.do(f"docker kill {subject}")
        found["what the container mounted is there when it has ended"] = self.mounted("own")
        return found


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("propagation") / "machine") as made:
        yield made


@pytest.fixture(scope="module")
def lives(host: Machine) -> dict[str, dict[str, bool]]:
    found = {kind.value: Shared(host, kind).life() for kind in KINDS}
    for kind in KINDS:
        bare = Shared(host, kind, shared=False)
        bare.start(f"bare-{kind.value}", kind)
        bare.mount("later")
        statement = "the container sees what the host mounts in a directory that is not shared"
        found[kind.value][statement] = bare.seen(f"bare-{kind.value}", "later")
    return found


def answers(cells: list[str]) -> list[bool]:
    assert set(cells) <= {"yes", "no"}
    return [cell == "yes" for cell in cells]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_what_is_seen_where(lives: dict[str, dict[str, bool]], row: list[str]) -> None:
    statement, *cells = row
    assert [lives[name][statement] for name in NAMES] == answers(cells)


def test_the_page_has_a_line_for_all_that_was_tried(lives: dict[str, dict[str, bool]]) -> None:
    assert [kind.value for kind in KINDS] == NAMES
    assert {statement for life in lives.values() for statement in life} == {row[0] for row in TABLE}


def test_what_a_container_can_do_to_a_dynamic_volume(world: World) -> None:
    """One pod that may do everything to its own mounts, and one beside it that would see it if that went anywhere."""
    container = {"name": "app", "image": manifests.IMAGE, "command": ["sleep", "infinity"], "securityContext": {"privileged": True}}
    (pod,) = world.deploy(spec=manifests.pod_spec(containers=[container]))
    world.kubectl.apply(world.claim("data", world.bucket(readme="hello")))
    world.ready("data")

    def does(*command: str) -> bool:
        return world.kubectl.exec(pod, *command).code == 0

    def outside() -> list[str]:
        return sorted(world.ground.mounts(f"xvols/{world.provider_class}/"))

    found = {
        "a file can be made where nothing is mounted": does("touch", f"{ROOT}/stray"),
        "a file can be made in a bucket": does("touch", f"{ROOT}/data/new"),
        "a bucket that comes while it runs is there": world.read(pod, "/data/readme") == "hello",
    }
    before = outside()
    assert does("mount", "-t", "tmpfs", "tmpfs", f"{ROOT}/data")
    found["what a privileged container mounts over a bucket shows outside"] = outside() != before
    assert does("umount", f"{ROOT}/data") and does("umount", f"{ROOT}/data")
    assert not does("mountpoint", "-q", f"{ROOT}/data")
    found["what a privileged container unmounts goes elsewhere too"] = outside() != before
    assert found == dict(zip(VOLUME, answers(list(VOLUME.values())), strict=True))
