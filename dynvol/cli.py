"""The `dynvol` command: argv to one of the processes, or to a call to the mounter's service.

What a process needs is imported when that process is chosen: the mounter runs once per workload, and must not pay for the
others. What the options mean is the processes' affair.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import sys
from collections.abc import Sequence
from typing import Final

from dynvol import __version__
from dynvol.api import names
from dynvol.observe import logs

_PROCESSES: Final = ("node", "webhook", "mounter", "mounter serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status of the process."""
    arguments = vars(_parser().parse_args(_joined(sys.argv[1:] if argv is None else argv)))
    command = arguments.pop("command")
    _leave_no_core()
    if command in _PROCESSES:
        logs.configure(level=arguments.pop("log_level"), format=arguments.pop("log_format"))
    try:
        match command:
            case "node":
                from dynvol.app import node

                return node.main(**arguments)
            case "webhook":
                from dynvol.app import webhook

                return webhook.main(**arguments)
            case "mounter":
                from dynvol.app import mounter

                return mounter.main(**arguments)
            case "mounter serve":
                from dynvol.app import mountservice

                return mountservice.main(**arguments)
            case _:
                from dynvol.app import mountclient

                return mountclient.main(command, **arguments)
    except KeyboardInterrupt:
        return 130


def _joined(argv: Sequence[str]) -> list[str]:
    """`mounter serve` is a command of its own: it shares no option with the mounter of a mount pod but by chance."""
    return ["mounter serve", *argv[2:]] if list(argv[:2]) == ["mounter", "serve"] else list(argv)


def _leave_no_core() -> None:
    """These processes have keys in memory, and the clients that they start inherit both settings. The limit is for cores that are
    files; on those that go to a program the kernel sets none, and there the filter leaves nothing to dump (core(5))."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError), open("/proc/self/coredump_filter", "w", encoding="ascii") as file:
        file.write("0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynvol", description="Running pods gain and lose external storage.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"dynvol {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _node(commands.add_parser("node", help="the process of each node: CSI, controllers", allow_abbrev=False))
    _webhook(commands.add_parser("webhook", help="admission: injection and validation", allow_abbrev=False))
    _mounter(commands.add_parser("mounter", help="the loop inside a mount pod", allow_abbrev=False))
    _serve(commands.add_parser("mounter serve", help="the mounter on its own, without Kubernetes", allow_abbrev=False))
    for name in _PROCESSES:
        commands.choices[name].add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
        commands.choices[name].add_argument("--log-format", choices=("text", "json"), default="text")
    _mount(commands.add_parser("mount", help="have `mounter serve` mount something", allow_abbrev=False))
    _umount(commands.add_parser("umount", help="have it unmounted, once all is in the storage", allow_abbrev=False))
    _mounts(commands.add_parser("mounts", help="what is mounted, and how it is", allow_abbrev=False))
    return parser


def _node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--pod-name", required=True, help="of this process' own pod")
    parser.add_argument("--namespace", required=True, help="of this process and of all mount pods")
    parser.add_argument("--kubelet-dir", default=names.KUBELET_DIR)
    parser.add_argument("--state-dir", default=names.STATE_DIR)
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="metrics and health")
    parser.add_argument("--kubeconfig", default="", help="default: the pod's service account")
    parser.add_argument("--mounter-image", default="", help="image of mount pods; default: that of this process' own pod")


def _webhook(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT", help="HTTPS, for the API server")
    parser.add_argument("--metrics-listen", required=True, metavar="ADDRESS:PORT", help="metrics and health")
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--service", required=True, help="the certificate is made out to it")
    parser.add_argument("--secret", required=True, help="holds the certificate, shared by all replicas")
    parser.add_argument("--kubeconfig", default="", help="default: the pod's service account")


def _mounter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", default=names.MOUNTER_ROOT, help="shared with the node: mounts appear below it")
    parser.add_argument("--credentials", default=names.CREDENTIALS_DIR, help="where the Secret's copy is mounted")
    parser.add_argument("--run", default="/run/dynvol", help="in memory: private mounts, and credentials for clients")
    parser.add_argument("--cache", default="/var/cache/dynvol", help="on disk: what clients have not uploaded yet")
    parser.add_argument("--grace", type=float, default=30.0, help="the pod's termination grace period in seconds")
    parser.add_argument("--api-server", default="", metavar="URL", help="default: the cluster that this pod runs in")
    parser.add_argument("--ca-file", default="")
    parser.add_argument("--token-file", default="")


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", required=True, help="shared with other containers: mounts appear below it")
    parser.add_argument("--listen", default=names.MOUNTER_SOCKET, metavar="unix:///PATH", help="default: %(default)s")
    parser.add_argument("--socket-mode", default="0600", help="who may connect may mount; default: %(default)s")
    parser.add_argument("--socket-owner", default="", metavar="USER:GROUP", help="default: who runs this")
    parser.add_argument(
        "--credentials",
        default=names.CREDENTIALS_DIR,
        help="its own: a file for each key, and named sets in directories",
    )
    parser.add_argument("--run", default="/run/dynvol", help="in memory: private mounts, and credentials")
    parser.add_argument("--state", default="/var/lib/dynvol", help="on disk: what is wanted, and what is not uploaded yet")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds for flushing at the end")


def _calling(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("DYNVOL_MOUNTER") or names.MOUNTER_SOCKET
    parser.add_argument("--socket", default=default, metavar="unix:///PATH", help="or $DYNVOL_MOUNTER; now %(default)s")


def _mount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("storage", metavar="s3://BUCKET[/PREFIX]", help="or another provider's name, with --parameter for the rest")
    parser.add_argument("path", help="below the root of the service")
    parser.add_argument("--endpoint", default="", metavar="URL", help="default: Amazon's own")
    parser.add_argument("--region", default="")
    parser.add_argument(
        "--path-style", dest="pathStyle", choices=("true", "false"), default="", help="default: as the endpoint needs"
    )
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--uid", default="", help="owner of the files")
    parser.add_argument("--gid", default="")
    parser.add_argument("--umask", default="", help="default: 0022")
    parser.add_argument("--client", dest="mounter", default="", help="s3fs (the default) or rclone")
    parser.add_argument("--parameter", dest="more", action="append", default=[], metavar="KEY=VALUE", help="of the provider")
    parser.add_argument("--options", default="", metavar="KEY=VALUE,…", help="for the client, of those that it may be given")
    secret = parser.add_mutually_exclusive_group()
    secret.add_argument(
        "--credentials",
        default="",
        metavar="SOURCE",
        help="a directory, a file, - (standard input) or env (AWS_… variables)",
    )
    secret.add_argument("--credentials-name", dest="held", default="", help="a set that the service holds")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds; the service goes on without this command")
    _calling(parser)


def _umount(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="below the root of the service")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds; the service goes on without this command")
    _calling(parser)


def _mounts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--watch", action="store_true", help="the present state, then changes")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    _calling(parser)


if __name__ == "__main__":
    sys.exit(main())
