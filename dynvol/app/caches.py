"""What the node process caches of the API, and under which indexes its controllers find it.

Each cache is as narrow as its readers allow, since every node has one: this node's pods, this node's mount pods. The leader's are
wider, and live for one term.
"""

from __future__ import annotations

import functools
from typing import Final

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.identity import label_value
from dynvol.api.providerclass import StorageProviderClass
from dynvol.api.resources import CLAIMS, CLASSES, NODES, PODS
from dynvol.controllers.claimstatus import LeaderView
from dynvol.controllers.held.volumes import BY_HOLDER, index_holder
from dynvol.controllers.matching import BY_LABEL, BY_NAMESPACE, index_by_label
from dynvol.controllers.view import (
    BY_CLAIM_UID,
    BY_CLASS,
    BY_ENTRY,
    BY_UID,
    BY_WORKLOAD,
    NodeMounts,
    NodeView,
    as_user_of_volumes,
    index_by_claim_uid,
    index_by_class,
    index_by_entry,
    index_by_namespace,
    index_by_uid,
    index_by_workload,
    without_other_nodes,
)
from dynvol.kube.client import KubeClient
from dynvol.runtime.informer import Informer
from dynvol.runtime.metrics import UNMEASURED, InformerMetrics

HOLDERS: Final = "app.kubernetes.io/name=dynvol,app.kubernetes.io/component=holder"
MOUNT_PODS: Final = "app.kubernetes.io/name=dynvol,app.kubernetes.io/component=mount-pod"


def node_view(
    client: KubeClient, mounts: NodeMounts, *, node: str, namespace: str, state_dir: str, metrics: InformerMetrics = UNMEASURED
) -> NodeView:
    """The caches of one node's controllers, yet to be run. `namespace` is the driver's."""
    mine = f"{MOUNT_PODS},{names.NODE_LABEL}={label_value(node)}"
    return NodeView(
        node=node,
        state_dir=state_dir,
        namespace=namespace,
        pods=Informer(
            client.source(PODS, field_selector=f"spec.nodeName={node}"),
            name="pods",
            indexers={BY_WORKLOAD: index_by_workload, BY_NAMESPACE: index_by_namespace, BY_CLASS: index_by_class},
            transform=as_user_of_volumes,
            metrics=metrics,
        ),
        mount_pods=Informer(
            client.source(PODS, namespace=namespace, label_selector=mine),
            name="mount-pods",
            indexers={BY_CLAIM_UID: index_by_claim_uid},
            metrics=metrics,
        ),
        claims=Informer(
            client.source(CLAIMS),
            name="claims",
            indexers={BY_LABEL: index_by_label, BY_UID: index_by_uid, BY_ENTRY: index_by_entry},
            transform=functools.partial(without_other_nodes, node=node),
            metrics=metrics,
        ),
        classes=Informer(client.source(CLASSES), name="classes", metrics=metrics),
        nodes=Informer(client.source(NODES, field_selector=f"metadata.name={node}"), name="node", metrics=metrics),
        mounts=mounts,
    )


def holder_pods(client: KubeClient, *, node: str, metrics: InformerMetrics = UNMEASURED) -> Informer[Pod]:
    """The holder pods of one node, in all namespaces, yet to be run. They are not all among the node's pods: some have no node
    yet."""
    mine = f"{HOLDERS},{names.NODE_LABEL}={label_value(node)}"
    return Informer(client.source(PODS, label_selector=mine), name="holders", indexers={BY_HOLDER: index_holder}, metrics=metrics)


def leader_view(
    client: KubeClient, *, classes: Informer[StorageProviderClass], namespace: str, metrics: InformerMetrics = UNMEASURED
) -> LeaderView:
    """The caches of one term as leader, yet to be run, but for the classes, which every node knows all of."""
    return LeaderView(
        claims=Informer(client.source(CLAIMS), name="all-claims", indexers={BY_LABEL: index_by_label}, metrics=metrics),
        classes=classes,
        pods=Informer(
            client.source(PODS, label_selector=f"{names.INJECTED_LABEL}=true"),
            name="all-injected-pods",
            indexers={BY_NAMESPACE: index_by_namespace, BY_CLASS: index_by_class},
            transform=as_user_of_volumes,
            metrics=metrics,
        ),
        mount_pods=Informer(
            client.source(PODS, namespace=namespace, label_selector=MOUNT_PODS), name="all-mount-pods", metrics=metrics
        ),
        nodes=Informer(client.source(NODES), name="all-nodes", metrics=metrics),
    )
