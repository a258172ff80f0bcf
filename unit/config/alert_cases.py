"""For every alert a story, in promtool's notation, in which it must be quiet at first and fire later.

Series have one sample a minute: `1x5` is 1, and five more of it; `0+2x10` rises by 2 ten times. A story may be quiet because
what is wrong has not lasted long enough, or is of a harmless kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NODE: Final = 'job="dynvol",component="node",node="a",pod="dynvol-node-a"'
WEBHOOK: Final = 'job="dynvol",component="webhook",node="a",pod="dynvol-webhook-a"'
CSI: Final = f'{NODE},driver_name="dynamicvolume.csi.cloudnative101.net",method_name="/csi.v1.Node/NodePublishVolume"'


@dataclass(frozen=True, slots=True)
class Case:
    alert: str
    series: dict[str, str]
    quiet_at: str
    fires_at: str


def _slow(metric: str, labels: str) -> dict[str, str]:
    """A histogram in which everything is quick for half an hour, and everything slow from then on."""
    return {
        f'{metric}_bucket{{{labels},le="0.1"}}': "0+60x30 1800x90",
        f'{metric}_bucket{{{labels},le="30"}}': "0+60x120",
        f'{metric}_bucket{{{labels},le="+Inf"}}': "0+60x120",
    }


CASES: Final = (
    Case(
        "DynvolNodeProcessesAbsent",
        {f"up{{{NODE}}}": "0x30 _x60", f"up{{{WEBHOOK}}}": "1x90"},
        quiet_at="40m",
        fires_at="55m",
    ),
    Case("DynvolNodeProcessDown", {f"up{{{NODE}}}": "1x9 0x20"}, quiet_at="14m", fires_at="16m"),
    Case("DynvolNotReady", {f"dynvol_ready{{{NODE}}}": "1x9 0x20"}, quiet_at="19m", fires_at="21m"),
    Case(
        "DynvolProcessRestarts",
        {f"process_start_time_seconds{{{NODE}}}": "100x10 700x5 1100x20 2500x20"},
        quiet_at="20m",
        fires_at="40m",
    ),
    Case(
        "DynvolEventLoopLag", {f"dynvol_event_loop_lag_seconds{{{NODE}}}": "0.01x9 3x1 0.01x9 2x20"}, quiet_at="25m", fires_at="38m"
    ),
    Case(
        "DynvolMountsFailed",
        {f'dynvol_mounts{{{NODE},phase="Failed"}}': "0x4 2x9 0x4 2x20", f'dynvol_mounts{{{NODE},phase="Conflict"}}': "1x60"},
        quiet_at="30m",
        fires_at="36m",
    ),
    Case(
        "DynvolMountsPending",
        {f'dynvol_mounts{{{NODE},phase="Pending"}}': "1x9 0x40", f'dynvol_mounts{{{NODE},phase="Mounting"}}': "0x9 1x40"},
        quiet_at="14m",
        fires_at="16m",
    ),
    Case("DynvolUnmountsStuck", {f'dynvol_mounts{{{NODE},phase="Unmounting"}}': "3x60"}, quiet_at="14m", fires_at="16m"),
    Case("DynvolClientsRestart", {f"dynvol_client_restarts_total{{{NODE}}}": "0x10 2x20 2+1x20"}, quiet_at="25m", fires_at="40m"),
    Case("DynvolMountsSlow", _slow("dynvol_mount_duration_seconds", NODE), quiet_at="44m", fires_at="60m"),
    Case(
        "DynvolReconcileErrors",
        {
            f'controller_runtime_reconcile_total{{{NODE},controller="mount-pod",result="success"}}': "0+10x60 600x60",
            f'controller_runtime_reconcile_total{{{NODE},controller="mount-pod",result="error"}}': "0+1x60 60+9x60",
            f'controller_runtime_reconcile_errors_total{{{NODE},controller="mount-pod"}}': "0+1x60 60+9x60",
        },
        quiet_at="72m",
        fires_at="90m",
    ),
    Case(
        "DynvolQueueStuck",
        {f'workqueue_longest_running_processor_seconds{{{NODE},name="mount-pod"}}': "0+60x20"},
        quiet_at="6m",
        fires_at="8m",
    ),
    Case("DynvolQueueSlow", _slow("workqueue_queue_duration_seconds", f'{NODE},name="mount-pod"'), quiet_at="44m", fires_at="50m"),
    Case(
        "DynvolNoLeader",
        {
            f'leader_election_master_status{{{NODE},name="dynvol-leader"}}': "1x9 0x60",
            'leader_election_master_status{job="other",name="dynvol-leader"}': "1x60",
        },
        quiet_at="14m",
        fires_at="16m",
    ),
    Case(
        "DynvolInformerFailures",
        {
            f'dynvol_informer_failures_total{{{NODE},name="pods",reason="Expired"}}': "0+10x60",
            f'dynvol_informer_failures_total{{{NODE},name="pods",reason="Unavailable"}}': "0x30 0+2x60",
        },
        quiet_at="40m",
        fires_at="55m",
    ),
    Case(
        "DynvolApiRequestsFail",
        {
            f'rest_client_requests_total{{{NODE},code="200",method="GET"}}': "0+10x120",
            f'rest_client_requests_total{{{NODE},code="404",method="GET"}}': "0+10x120",
            f'rest_client_requests_total{{{NODE},code="503",method="GET"}}': "0x30 0+5x90",
            f'rest_client_requests_total{{{NODE},code="<error>",method="GET"}}': "0x30 0+5x90",
        },
        quiet_at="44m",
        fires_at="60m",
    ),
    Case(
        "DynvolCsiErrors",
        {
            f'csi_operations_seconds_count{{{CSI},grpc_status_code="OK"}}': "0+10x60",
            f'csi_operations_seconds_count{{{CSI},grpc_status_code="Unimplemented"}}': "0+10x60",
            f'csi_operations_seconds_count{{{CSI},grpc_status_code="Internal"}}': "0x20 0+1x40",
        },
        quiet_at="30m",
        fires_at="45m",
    ),
    Case("DynvolCsiSlow", _slow("csi_operations_seconds", f'{CSI},grpc_status_code="OK"'), quiet_at="44m", fires_at="50m"),
    Case("DynvolWebhookGone", {f"up{{{WEBHOOK}}}": "1x9 0x60", f"up{{{NODE}}}": "1x60"}, quiet_at="14m", fires_at="16m"),
    Case("DynvolWebhookReplicaDown", {f"up{{{WEBHOOK}}}": "1x9 0x60"}, quiet_at="24m", fires_at="26m"),
    Case(
        "DynvolWebhookErrors",
        {
            f'dynvol_admission_duration_seconds_count{{{WEBHOOK},path="/mutate-pods",outcome="patched"}}': "0+10x60",
            f'dynvol_admission_duration_seconds_count{{{WEBHOOK},path="/mutate-pods",outcome="denied"}}': "0+10x60",
            f'dynvol_admission_duration_seconds_count{{{WEBHOOK},path="/mutate-pods",outcome="failed"}}': "0x20 0+1x40",
        },
        quiet_at="28m",
        fires_at="40m",
    ),
    Case(
        "DynvolWebhookSlow",
        _slow("dynvol_admission_duration_seconds", f'{WEBHOOK},path="/mutate-pods",outcome="patched"'),
        quiet_at="44m",
        fires_at="50m",
    ),
    Case(
        "DynvolCertificateNotRenewed",
        # promtool's clock begins at 0: this certificate ends on day 22, and a day later nothing has happened.
        {f"dynvol_certificate_expiry_timestamp_seconds{{{WEBHOOK}}}": f"{22 * 86400}x1600"},
        quiet_at="24h30m",
        fires_at="26h",
    ),
)

IN_TROUBLE: Final = {
    "Calls that failed": {f'csi_operations_seconds_count{{{CSI},grpc_status_code="Internal"}}': "0+1x10"},
    "Lists and watches that failed": {f'dynvol_informer_failures_total{{{NODE},name="pods",reason="Unavailable"}}': "0+1x10"},
}
"""The dashboard's panels that are empty so long as all is well → series of which they show something."""
