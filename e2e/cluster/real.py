"""A real kube-apiserver and etcd in place of the local API server: the same kubelet and controllers on the real thing.

The programs are looked for where controller-runtime's envtest has them. They get the local cluster's own keys, so all
that the other parts know (kubeconfigs, certificates, the address) is the same for either.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from e2e.cluster.apiserver import pki

USUAL_PLACE = Path("/usr/local/kubebuilder/bin")
MISSING = f"no kube-apiserver and etcd, in $KUBEBUILDER_ASSETS or {USUAL_PLACE}"


def programs(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that holds both programs, if there is one."""
    folder = Path(environment.get("KUBEBUILDER_ASSETS") or USUAL_PLACE)
    return folder if all(os.access(folder / name, os.X_OK) for name in ("etcd", "kube-apiserver")) else None


def etcd(folder: Path, state: Path, *, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        str(folder / "etcd"),
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(folder: Path, files: pki.Files, *, port: int, etcd_port: int, second: int) -> list[str]:
    """Nodes are held to what the Node authorizer allows. Services get loopback addresses, which the proxy listens on."""
    return [
        str(folder / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--tls-cert-file={files.server.certificate}",
        f"--tls-private-key-file={files.server.key}",
        f"--client-ca-file={files.ca.certificate}",
        f"--service-account-signing-key-file={files.signing_key}",
        f"--service-account-key-file={files.verifying_key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range=127.{second}.240.0/20",
        f"--kubelet-client-certificate={files.admin.certificate}",
        f"--kubelet-client-key={files.admin.key}",
        f"--kubelet-certificate-authority={files.ca.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
        "--feature-gates=TranslateStreamCloseWebsocketRequests=false",  # before 1.36: no SPDY to our kubelet
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--cert-dir={files.state / 'pki'}",
    ]
