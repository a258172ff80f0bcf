"""Runs the story from its beginning to its end, or keeps what it made, or ends what was kept. hack/quickstart starts this."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from e2e.cluster.lifecycle import ClusterError
from e2e.quickstart import samples, stage
from e2e.quickstart.arguments import PROJECT, STATE, Arguments, parse
from e2e.quickstart.samples import FILE, NAMESPACE, WORKLOAD
from e2e.quickstart.stage import Busy, Stage
from e2e.quickstart.story import Story, Untrue
from e2e.quickstart.terminal import CommandFailed, Terminal

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)
    place = Stage(arguments.state, cpu_limit="" if arguments.as_written else samples.CPU_LIMIT)
    try:
        with place.locked():
            return down(place) if arguments.down else up(place, arguments)
    except (Busy, ClusterError, CommandFailed, Untrue, TimeoutError) as problem:
        print(f"hack/quickstart: {str(problem) or 'it took too long'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def up(place: Stage, arguments: Arguments) -> int:
    if place.kept:
        print("An earlier quickstart was kept, and still runs.")
        print(usage(place, arguments))
        return 0 if arguments.keep else 1
    if place.exists:
        print("An earlier quickstart did not come to its end: clearing what it left.", flush=True)
        report(place, quiet=True)
    place.claim_folder()
    terminal = Terminal(PROJECT, environment(place))
    began = time.monotonic() - arguments.prepared
    terminal.steps.append(("Prepare this machine", arguments.prepared))
    before = stage.mount_points()
    with ended_unless_kept(place, terminal) as kept:
        story = set_out(place, terminal, as_written=arguments.as_written)
        story.tell(to_the_end=not arguments.keep)
        if arguments.keep:
            place.keep()
            kept()
    if more := stage.mount_points() - before:
        raise Untrue(f"mounts are left on this machine: {', '.join(sorted(more))}")
    terminal.table("Seconds", [(title, f"{took:.1f}") for title, took in (*terminal.steps, ("all", time.monotonic() - began))])
    terminal.table("Latency, seconds", [(what, f"{took:.2f}") for what, took in story.latencies])
    if arguments.keep:
        print(usage(place, arguments))
    return 0


def set_out(place: Stage, terminal: Terminal, *, as_written: bool) -> Story:
    with terminal.step("Start a local cluster"):
        terminal.say("an API server, controllers, and a node whose pods are real containers (runc)")
        place.start_cluster()
        terminal.run("kubectl", "get", "nodes", "-o", "wide")
    with terminal.step("Start an S3 server with two buckets"):
        place.start_store()
        terminal.say(f"{place.store.endpoint}, which checks signatures")
        for bucket, objects in samples.OBJECTS.items():
            terminal.say(f"{bucket}: {', '.join(objects)}")
    return Story(terminal, place, as_written=as_written)


@contextlib.contextmanager
def ended_unless_kept(place: Stage, terminal: Terminal) -> Iterator[Callable[[], None]]:
    """Whatever happens in the block, it is all taken down after it, unless the block said to keep it."""
    keep = False

    def kept() -> None:
        nonlocal keep
        keep = True

    try:
        yield kept
    except KeyboardInterrupt:
        with deaf():
            print("\ninterrupted; taking it all down")
            report(place, quiet=False)
        raise
    except BaseException:
        with deaf():
            last_words(place, terminal)
            report(place, quiet=False)
        raise
    if not keep:
        with deaf(), terminal.step("Take it all down"):
            report(place, quiet=False)


def report(place: Stage, *, quiet: bool) -> None:
    if left := place.down():
        raise Untrue(f"not everything could be taken down: {left}")
    if not quiet:
        print(f"   All {left.ended} processes have ended; no mount, control group or file is left.", flush=True)


def down(place: Stage) -> int:
    if not place.exists:
        print("Nothing is up.")
        return 0
    with deaf():
        report(place, quiet=False)
    return 0


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Taking down is not interrupted: half of it would be worse."""
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def last_words(place: Stage, terminal: Terminal) -> None:
    """What helps to see why it failed, while it is still there."""
    if not place.cluster.kubeconfig.exists():
        return
    logs = [str(log) for log in place.logs() if log.stat().st_size]
    for command in (
        ("tail", "-n", "5", *logs),
        ("kubectl", "get", "pods", "-A"),
        ("kubectl", "-n", NAMESPACE, "describe", "dvc"),
        ("kubectl", "-n", "dynvol-system", "logs", "daemonset/dynvol-node", "--tail=20"),
    ):
        with contextlib.suppress(CommandFailed):
            terminal.run(*command, limit=10)


def environment(place: Stage) -> dict[str, str]:
    """kubectl speaks to this cluster, and remembers what it found there in this folder."""
    return {**os.environ, "KUBECONFIG": str(place.cluster.kubeconfig), "KUBECACHEDIR": str(place.state / "kubectl-cache")}


def usage(place: Stage, arguments: Arguments) -> str:
    chosen = "" if arguments.state == STATE else f" --state {arguments.state}"
    second = PROJECT / place.samples.second_claim
    bucket = place.state / "s3" / samples.BUCKET
    return f"""
It is up. To use it:

    export KUBECONFIG={place.cluster.kubeconfig}{path_to_kubectl()}
    kubectl -n {NAMESPACE} get dvc,pods
    kubectl -n {NAMESPACE} exec deploy/{WORKLOAD} -- cat {FILE}

A second bucket, and away with it:

    kubectl apply -f {second}
    kubectl delete -f {second}

The S3 server's buckets are folders:

    echo new > {bucket}/new.txt
    kubectl -n {NAMESPACE} exec deploy/{WORKLOAD} -- ls {Path(FILE).parent}

The S3 server: {place.store.endpoint}
    access key {place.store.access_key}, secret key {place.store.secret_key}, path style; buckets {" and ".join(samples.OBJECTS)}
The kubelet's log: {place.cluster.node_directory("node-1") / "kubelet.log"}

To end it:

    hack/quickstart --down{chosen}"""


def path_to_kubectl() -> str:
    """What the person's shell needs if kubectl is in the virtual environment only."""
    own = Path(sys.executable).parent
    return f" PATH={own}:$PATH" if (own / "kubectl").exists() else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
