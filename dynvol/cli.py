"""The `dynvol` command: argv to one of the three processes.

What a process needs is imported when that process is chosen: the mounter runs once per workload, and must not pay for the
others. What the options mean is the processes' affair.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dynvol.api import names
from dynvol.observe import logs


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status of the process."""
    arguments = vars(_parser().parse_args(argv))
    command = arguments.pop("command")
    logs.configure(level=arguments.pop("log_level"), format=arguments.pop("log_format"))
    try:
        match command:
            case "node":
                from dynvol.app import node

                return node.main(**arguments)
            case "webhook":
                from dynvol.app import webhook

                return webhook.main(**arguments)
            case _:
                from dynvol.app import mounter

                return mounter.main(**arguments)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dynvol", description="Running pods gain and lose external storage.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="PROCESS")
    _node(commands.add_parser("node", help="the process of each node: CSI, controllers", allow_abbrev=False))
    _webhook(commands.add_parser("webhook", help="admission: injection and validation", allow_abbrev=False))
    _mounter(commands.add_parser("mounter", help="the loop inside a mount pod", allow_abbrev=False))
    for command in commands.choices.values():
        command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
        command.add_argument("--log-format", choices=("text", "json"), default="text")
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


if __name__ == "__main__":
    sys.exit(main())
