"""The first process of a node: a machine within the machine, with mounts, process ids and a host name of its own.

    python -m e2e.cluster.machine --directory DIR --name NAME -- KUBELET COMMAND…

All processes of the node are its descendants in one process-id namespace, and all mounts of the node are in one mount
namespace. So killing this process, even with -9, ends every container and removes every mount: the kernel does it.
Nothing of it can be seen, or be left behind, on the machine around it; `nsenter --target PID --mount --pid` looks in.

It is to the kubelet what systemd is on a real node: it starts it, and starts it again when it dies.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import mounts
from e2e.cluster.children import clean_environment
from e2e.cluster.processes import Process, start_time

RESTART_DELAY = 0.5  # seconds before a kubelet that died is started again
HOLD = "kubelet.hold"  # while this file is there, the kubelet is not started

# What a node has at fixed places, and where it really lies, below the node's directory.
DISK = "dynamic"
HOST_DIRECTORIES = {"kubelet": Path("/var/lib/kubelet"), DISK: Path("/var/lib/dynamic")}


def main(argv: Sequence[str] | None = None) -> int:
    """Make a process 1 in namespaces of its own, write down who it is, and end.

    1. A new process-id namespace; the next child is process 1 in it. The other namespaces are for the child to leave: the
       parent must go on seeing the machine's own /proc.
    2. The parent writes machine.json, by which `down` finds the node. Only then the child may begin: should the parent die
       before, the child ends too, and there is no node that nobody knows of.
    3. The parent waits until the child is set up.
    """
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster.machine", description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("kubelet", nargs="+", help="the kubelet's command line, after --")
    options = parser.parse_args(argv)
    mounts.unshare(mounts.CLONE_NEWPID)
    receive, report = os.pipe()
    recorded, tell_recorded = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        os.close(tell_recorded)
        if os.read(recorded, 1):
            run(options.directory, options.name, options.kubelet, ready=report)
        os._exit(0)
    os.close(report)
    Process(child, start_time(child)).record(options.directory / "machine.json")
    os.write(tell_recorded, b"y")
    return 0 if os.read(receive, 16) == b"ready" else 1


def run(directory: Path, name: str, kubelet: Sequence[str], *, ready: int) -> None:
    """Process 1: set the node up, then keep the kubelet running until SIGTERM."""
    os.setsid()
    mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWUTS)
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    socket.sethostname(name)
    set_up(directory)
    os.write(ready, b"ready")
    os.close(ready)
    Supervisor(directory, kubelet).run()


def set_up(directory: Path) -> None:
    """The node's mounts. What was running before (a node that went down hard) is forgotten, as a reboot would.

    1. Cut all ties of mount propagation with the machine around.
    2. /var/lib becomes an overlay, so that mount points can be made in it and leave no trace.
    3. kubelet's and dynvol's directories are bound to where a real node has them.
    4. As systemd does on a real node, make all of it shared.
    """
    shutil.rmtree(directory / "runc", ignore_errors=True)
    mounts.make_private(Path("/"), recursive=True)
    mounts.mount("proc", Path("/proc"), filesystem="proc", flags=mounts.MS_NOSUID | mounts.MS_NOEXEC | mounts.MS_NODEV)
    overlay_var_lib(directory)
    for source, target in HOST_DIRECTORIES.items():
        (directory / source).mkdir(exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        mounts.bind(directory / source, target)
    mounts.make_shared(Path("/"), recursive=True)


def overlay_var_lib(directory: Path) -> None:
    """An overlay over /var/lib; the node's own directory, should it lie in there, is bound back over its path."""
    upper, work = directory / "var-lib" / "upper", directory / "var-lib" / "work"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    own = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    mounts.overlay(Path("/var/lib"), lower=Path("/var/lib"), upper=upper, work=work)
    if directory.is_relative_to("/var/lib"):
        mounts.bind(Path(f"/proc/self/fd/{own}"), directory)
    os.close(own)


_WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP}


class Supervisor:
    """Starts the kubelet, reaps orphans, and ends with SIGTERM. SIGHUP makes it look at the hold file again."""

    def __init__(self, directory: Path, command: Sequence[str]) -> None:
        self._directory = directory
        self._command = command
        self._kubelet = 0
        self._start_at = 0.0

    def run(self) -> None:
        while True:
            self._start_if_due()
            received = signal.sigtimedwait(_WATCHED, self._patience())
            if received is None:
                continue
            if received.si_signo == signal.SIGTERM:
                return
            self._reap()

    def _patience(self) -> float:
        waiting = not self._kubelet and not self._held()
        return max(0.0, self._start_at - time.monotonic()) if waiting else 3600.0

    def _held(self) -> bool:
        return (self._directory / HOLD).exists()

    def _start_if_due(self) -> None:
        if self._kubelet or self._held() or time.monotonic() < self._start_at:
            return
        with (self._directory / "kubelet.log").open("ab") as log:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment(),
                cwd=Path(__file__).resolve().parents[2],
                preexec_fn=_unblock,
            )
        self._kubelet = process.pid
        process.returncode = 0  # reaped below, with all others: Popen must not wait for it
        (self._directory / "kubelet.pid").write_text(str(process.pid))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                ended, _ = os.waitpid(-1, os.WNOHANG)
                if ended == 0:
                    return
                if ended == self._kubelet:
                    self._kubelet = 0
                    self._start_at = time.monotonic() + RESTART_DELAY


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)


if __name__ == "__main__":
    raise SystemExit(main())
