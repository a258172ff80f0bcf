"""hack/quickstart keeps its promises: what it shows, what it refuses, and that nothing is left of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.cluster import mounts
from e2e.quickstart.arguments import PROJECT
from e2e.quickstart.stage import Stage

QUICKSTART = str(PROJECT / "hack" / "quickstart")


@pytest.fixture
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder for it. Afterwards it must be gone, and with it every mount and every process that knew it."""
    if request.config.option.kubeconfig:
        pytest.skip("it has a cluster of its own, which is tested where the suite's is a local one too")
    before = mount_points()
    folder = tmp_path / "quickstart"
    yield folder
    if folder.exists():
        quickstart("--down", "--state", str(folder))
        pytest.fail("the folder was left")
    assert mount_points() == before
    assert not [command for command in command_lines() if str(folder) in command]


def test_it_shows_a_bucket_appear_change_and_vanish_in_a_running_container(state: Path) -> None:
    shown = quickstart("--yes", "--state", str(state))
    for fact in (
        r"node-1 +Ready",
        r'daemon set "dynvol-node" successfully rolled out',
        r"After [0-9.]+ s it read: hello from my-bucket",
        r"externalvolume-s3-sample +s3 +/data +2/2 +True",
        r"Reason: +Mounted",
        r"hello again, from a changed object",
        r"After [0-9.]+ s it read: 0\.1 0\.2 0\.3",
        r'"second-bucket" deleted',
        r"could not be read for [0-9.]+ s, and then again",
        r"Warning +MountLost",
        r"No resources found in dynvol-system namespace",
        r"On the node: no mount, no directory",
        r"All \d+ processes have ended; no mount, control group or file is left",
        r"claim applied to file readable: the first .* [0-9.]+\n",
    ):
        assert re.search(fact, shown), f"{fact} is not in\n{shown}"
    assert set(re.findall(r"app-4-s3-\S+ +1/1 +Running +(\d+)", shown)) == {"0"}


def test_interrupted_in_the_middle_it_takes_all_down(state: Path) -> None:
    command = [QUICKSTART, "--yes", "--state", str(state)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        assert any("kubectl apply -k" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert "All " in rest and "processes have ended" in rest and "Traceback" not in rest


def test_what_was_kept_is_pointed_to_until_it_is_ended(state: Path) -> None:
    set_up(state, kept=True)
    assert f"KUBECONFIG={state}/admin.kubeconfig" in quickstart("--keep", "--state", str(state))
    assert "hack/quickstart --down" in quickstart("--state", str(state), code=1)
    assert "processes have ended" in quickstart("--down", "--state", str(state))
    assert quickstart("--down", "--state", str(state)) == "Nothing is up.\n"


def test_what_an_earlier_run_left_can_be_cleared(state: Path) -> None:
    set_up(state, kept=False)
    assert "processes have ended" in quickstart("--down", "--state", str(state))


def test_without_the_right_to_mount_it_says_so_in_one_line(state: Path) -> None:
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    command = [*without, QUICKSTART, "--state", str(state)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("hack/quickstart: this machine lets no namespaces and mounts be made")


def test_a_folder_that_is_not_its_own_is_left_as_it_is(state: Path) -> None:
    state.mkdir()
    (state / "precious").touch()
    assert "was not made by hack/quickstart" in quickstart("--state", str(state), code=1)
    (state / "precious").unlink()
    state.rmdir()


def set_up(state: Path, *, kept: bool) -> None:
    """The cluster and the S3 server, without the story."""

    def start() -> None:
        place = Stage(state)
        place.claim_folder()
        place.start_cluster()
        place.start_store()
        if kept:
            place.keep()

    # In a thread, for asyncio.run would take the main thread's event loop from pytest's plugins.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(start).result()


def quickstart(*arguments: str, code: int = 0) -> str:
    """What it says on both streams; it must end with `code`."""
    command = [QUICKSTART, *arguments]
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == code, done.stdout
    return done.stdout


def environment() -> dict[str, str]:
    """The suite's own virtual environment is good enough for it."""
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "DYNVOL_VENV": sys.prefix}


def mount_points() -> list[Path]:
    return sorted(mount.mount_point for mount in mounts.table())


def command_lines() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_text(errors="replace"))
        except OSError:
            continue
    return found
