"""The names that dynvol shares with the outside: API group, driver, keys of labels and annotations, paths.

Everything that a user, kubelet or another process of ours may see by name is here and only here. What a value means is
said where it is used; how a name is derived from others (mount pod, root directory) is in `identity`.
"""

from typing import Final

GROUP: Final = "dynamicvolume.csi.cloudnative101.net"
VERSION: Final = "v1alpha1"
DRIVER: Final = GROUP
"""The CSI driver's name. The same string as the API group, by design."""

CLAIM_KIND: Final = "DynamicVolumeClaim"
CLASS_KIND: Final = "StorageProviderClass"

# --- Annotations by which a workload (or its namespace) opts in. Values may be comma-separated lists of equal length.
CLASS_ANNOTATION: Final = f"{GROUP}/storage-provider-class"
ROOT_ANNOTATION: Final = f"{GROUP}/volume-mount-path-root"
POLICY_ANNOTATION: Final = f"{GROUP}/mount-pod-dispatch-policy"
CONTAINERS_ANNOTATION: Final = f"{GROUP}/containers"
INJECT: Final = f"{GROUP}/inject"
"""As an annotation of a pod: `"false"` opts out. As a label of a namespace: `enabled` makes its annotations defaults."""
INJECTED_LABEL: Final = f"{GROUP}/injected"

NFS: Final = "nfs"
PVC: Final = "pvc"
"""The one provider without mount pods: node processes bring its volumes, which holder pods keep mounted."""

# --- What the webhook injects, and what a pod author may write by hand.
VOLUME_NAME: Final = "dynamic-volume-root-path"
CLASS_ATTRIBUTE: Final = "storageProviderClass"
POLICY_ATTRIBUTE: Final = "mountPodDispatchPolicy"
INDEPENDENT: Final = "independent"
SHARED: Final = "shared"

# --- Parameters of a class.
SECRET_NAME_PARAMETER: Final = f"{GROUP}/storage-provider-secret-name"
SECRET_NAMESPACE_PARAMETER: Final = f"{GROUP}/storage-provider-secret-namespace"
CPU_REQUEST_PARAMETER: Final = f"{GROUP}/mount-cpu-request"
MEMORY_REQUEST_PARAMETER: Final = f"{GROUP}/mount-memory-request"
CPU_LIMIT_PARAMETER: Final = f"{GROUP}/mount-cpu-limit"
MEMORY_LIMIT_PARAMETER: Final = f"{GROUP}/mount-memory-limit"
MOUNTER_PARAMETER: Final = f"{GROUP}/mounter"
OPTIONS_PARAMETER: Final = f"{GROUP}/mount-options"
ALLOWED_NAMESPACES_PARAMETER: Final = f"{GROUP}/allowed-namespaces"
ALLOWED_ENDPOINTS_PARAMETER: Final = f"{GROUP}/allowed-endpoints"
ALLOWED_BUCKETS_PARAMETER: Final = f"{GROUP}/allowed-buckets"
RCLONE_OPTIONS_PARAMETER: Final = f"{GROUP}/allowed-rclone-options"
CLAIM_SECRETS_PARAMETER: Final = f"{GROUP}/allowed-claim-secrets"
"""Unlike the other lists of what is allowed, this one allows nothing where it is missing."""
MOUNT_POD_PARAMETER: Final = f"{GROUP}/mount-pod"
ON_DEMAND: Final = "on-demand"
"""A mount pod is made with the first claim, and goes with the last. The default."""
PREPARED: Final = "prepared"
"""It is made as soon as a pod has a volume, and stays as long as one has."""

NOT_ALLOWED: Final = "NotAllowed"
"""The reason of a mount that one of a class's `allowed-` parameters refuses."""

ACCESS_KEY: Final = "access-key-id"
SECRET_KEY: Final = "secret-access-key"
SESSION_TOKEN: Final = "session-token"
CA_CERTIFICATE: Final = "ca.crt"
"""Optional: authorities that the storage's own certificate may come from."""

# --- Finalizers.
CLAIM_FINALIZER: Final = f"{GROUP}/mounted"
CLASS_FINALIZER: Final = f"{GROUP}/in-use"
GUARD_FINALIZER: Final = f"{GROUP}/needed-for-removal"
"""On what our own rights rest on, while there are claims or classes."""

# --- On a mount pod.
MOUNT_POD_LABEL: Final = f"{GROUP}/mount-pod"
"""Value: the uuid of the mount pod's root directory."""
HOLDER_LABEL: Final = f"{GROUP}/holder"
"""On a holder pod. Value: the uuid of what it holds (`identity.Holding`)."""
NODE_LABEL: Final = f"{GROUP}/node"
"""Value: `identity.label_value(node name)`, since a node's name may be longer than a label's value."""
WANTED_ANNOTATION: Final = f"{GROUP}/wanted-mounts"
REPORT_ANNOTATION: Final = f"{GROUP}/mount-report"
WORKLOAD_ANNOTATION: Final = f"{GROUP}/workload"
"""`namespace/class/policy/pod uid` of the workload that a mount pod serves (pod uid empty if shared)."""
RELEASE_ANNOTATION: Final = f"{GROUP}/release"
"""Set on a mount pod that is being deleted while its workload stays: do not wait, flush and leave, a successor follows."""
OVERDUE_ANNOTATION: Final = f"{GROUP}/overdue-pods"
"""Of a mount pod that several pods share: the uids, with commas between them, of those that should have ended long ago. They have
lost their mounts, but their programs may still wait in one that others use."""

ANNOTATION_LIMIT: Final = 256 * 1024
"""Bytes that all annotations of one object may take, keys and values together (apimachinery TotalAnnotationSizeLimitB)."""

# --- On a node.
STARTUP_TAINT: Final = f"{GROUP}/agent-not-ready"
"""Put on by whoever makes nodes, with any effect; taken off by the node process when pods can be served there."""

# --- Paths.
STATE_DIR: Final = "/var/lib/dynamic"
KUBELET_DIR: Final = "/var/lib/kubelet"
MOUNTER_ROOT: Final = "/xvols"
MOUNTER_SOCKET: Final = "unix:///run/dynvol.sock"
"""Where the mounter's service listens, unless told otherwise."""
CREDENTIALS_DIR: Final = "/etc/dynvol/credentials"
NAMESPACE: Final = "dynvol-system"
LEADER_LEASE: Final = "dynvol-leader"
NODE_ACCOUNT: Final = "dynvol-node"
MOUNT_ACCOUNT: Final = "dynvol-mount"
"""The service accounts of node processes and of mount pods. Their roles and bindings have the same names."""
