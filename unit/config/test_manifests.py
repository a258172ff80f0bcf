"""What is installed fits together, and fits the programs that are in it."""

from __future__ import annotations

import argparse
import re
from typing import Any

import msgspec
import pytest

from dynvol.api import names
from dynvol.api.claim import DynamicVolumeClaim
from dynvol.api.providerclass import StorageProviderClass
from dynvol.cli import _parser
from dynvol.controllers.mountpodspec import Installation
from dynvol.webhook.rules.claims import review_claim
from dynvol.webhook.rules.classes import review_class

from .manifests import CONFIG, Manifest, needs_kubectl, one, rendered

pytestmark = needs_kubectl


def workload(kind: str, name: str) -> Manifest:
    found: Manifest = one("default", kind, name)["spec"]["template"]["spec"]
    return found


NODE, WEBHOOK = ("DaemonSet", "dynvol-node"), ("Deployment", "dynvol-webhook")


@pytest.mark.parametrize(
    "base", ["crd", "rbac", "node", "webhook", "prometheus", "samples", "samples/nfs", "samples/pvc", "default"]
)
def test_every_base_renders(base: str) -> None:
    assert rendered(base)


@pytest.mark.parametrize("which", [NODE, WEBHOOK])
def test_the_command_lines_are_ones_that_dynvol_takes(which: tuple[str, str]) -> None:
    (container,) = workload(*which)["containers"]
    command = [str(part) for part in (*container["command"], *container["args"])]
    assert command[0] == "dynvol"
    _parser().parse_args(command[1:])


@pytest.mark.parametrize("which", [NODE, WEBHOOK])
def test_variables_of_the_command_lines_are_set(which: tuple[str, str]) -> None:
    (container,) = workload(*which)["containers"]
    used = set(re.findall(r"\$\((\w+)\)", " ".join(container["args"])))
    assert used == {variable["name"] for variable in container["env"]}


@pytest.mark.parametrize("which", [NODE, WEBHOOK])
def test_probes_and_scrapes_go_to_the_port_that_is_listened_on(which: tuple[str, str]) -> None:
    template = one("default", *which)["spec"]["template"]
    (container,) = template["spec"]["containers"]
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    assert any(argument.endswith(f"$(POD_IP):{ports['metrics']}") for argument in container["args"])
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"


def test_mounts_made_by_the_node_process_reach_the_host() -> None:
    (container,) = workload(*NODE)["containers"]
    propagation = {m["mountPath"]: m.get("mountPropagation") for m in container["volumeMounts"]}
    assert container["securityContext"] == {"privileged": True}
    assert propagation[names.STATE_DIR] == propagation[f"{names.KUBELET_DIR}/pods"] == "Bidirectional"
    assert f"{names.KUBELET_DIR}/plugins/{names.DRIVER}" in propagation
    assert f"{names.KUBELET_DIR}/plugins_registry" in propagation


def test_host_paths_are_the_same_inside_and_outside() -> None:
    """Kubelet and the node process speak of the same paths."""
    spec = workload(*NODE)
    inside = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    assert inside == {v["name"]: v["hostPath"]["path"] for v in spec["volumes"]}


def test_nodes_are_served_whatever_their_taints() -> None:
    spec = workload(*NODE)
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"


@pytest.mark.parametrize("which", [NODE, WEBHOOK])
def test_a_pod_that_is_deleted_while_it_starts_does_not_outstay_its_grace_period(which: tuple[str, str]) -> None:
    """Linux keeps from process 1 of a PID namespace every signal that it has no handler for (pid_namespaces(7))."""
    assert workload(*which)["shareProcessNamespace"]


def test_the_webhook_runs_with_no_rights_on_its_node() -> None:
    spec = workload(*WEBHOOK)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_one_line_says_which_image_all_of_it_runs() -> None:
    images = {workload(*which)["containers"][0]["image"] for which in (NODE, WEBHOOK)}
    assert len(images) == 1
    (text,) = [line for line in (CONFIG / "default" / "kustomization.yaml").read_text().splitlines() if "newName" in line]
    assert images.pop().startswith(text.split()[-1])


def test_the_driver_is_registered_as_the_contract_says() -> None:
    driver = one("default", "CSIDriver")
    assert driver["metadata"]["name"] == names.DRIVER
    assert driver["spec"] == {
        "volumeLifecycleModes": ["Ephemeral"],
        "podInfoOnMount": True,
        "attachRequired": False,
        "fsGroupPolicy": "None",
        "requiresRepublish": False,
    }


def hooks(kind: str) -> list[Manifest]:
    found: list[Manifest] = one("default", kind)["webhooks"]
    return found


ROUTES = {"/mutate-pods", "/mutate-claims", "/validate-claims", "/validate-classes"}


def test_webhooks_call_the_service_at_paths_that_are_served() -> None:
    service = one("default", "Service", "dynvol-webhook")
    kinds = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
    called = [hook["clientConfig"]["service"] for kind in kinds for hook in hooks(kind)]
    assert {c["path"] for c in called} == ROUTES
    assert {(c["name"], c["namespace"], c["port"]) for c in called} == {
        (service["metadata"]["name"], service["metadata"]["namespace"], service["spec"]["ports"][0]["port"])
    }


def test_a_pod_that_opted_in_never_starts_without_its_volume_and_no_other_pod_ever_waits() -> None:
    *for_pods, _ = hooks("MutatingWebhookConfiguration")
    for hook in for_pods:
        assert hook["failurePolicy"] == "Fail"
        assert hook["reinvocationPolicy"] == "IfNeeded"
        assert hook["matchConditions"]
        (never,) = hook["namespaceSelector"]["matchExpressions"]
        assert never["operator"] == "NotIn"
        assert set(never["values"]) == {"kube-system", names.NAMESPACE}


def test_claims_are_made_with_and_without_the_webhook() -> None:
    *_, hook = hooks("MutatingWebhookConfiguration")
    assert (hook["rules"][0]["resources"], hook["rules"][0]["operations"]) == (["dynamicvolumeclaims"], ["CREATE"])
    assert hook["failurePolicy"] == "Ignore"


def test_removal_never_waits_for_the_webhook() -> None:
    for hook in hooks("ValidatingWebhookConfiguration"):
        assert hook["failurePolicy"] == "Ignore"
        assert "deletionTimestamp" in hook["matchConditions"][0]["expression"]
        assert "DELETE" not in hook["rules"][0]["operations"]


def test_conditions_and_selectors_use_the_names_of_the_api_package() -> None:
    text = (CONFIG / "webhook" / "mutating.yaml").read_text()
    known = {names.CLASS_ANNOTATION, names.ROOT_ANNOTATION, names.INJECT}
    assert set(re.findall(rf"{re.escape(names.GROUP)}/[a-z-]+", text)) == known


def test_the_policy_of_mount_pods_names_their_account_and_their_annotation() -> None:
    policy = (CONFIG / "rbac" / "mount-policy.yaml").read_text()
    account = Installation(names.NAMESPACE, "image", names.STATE_DIR).service_account
    assert f"system:serviceaccount:{names.NAMESPACE}:{account}" in policy
    assert names.REPORT_ANNOTATION in policy
    assert one("default", "ServiceAccount", account)


def test_the_policy_of_node_processes_names_their_account_and_the_startup_taint() -> None:
    policy = (CONFIG / "rbac" / "node-policy.yaml").read_text()
    assert f"system:serviceaccount:{names.NAMESPACE}:{workload(*NODE)['serviceAccountName']}'" in policy
    assert names.STARTUP_TAINT in policy


Right = tuple[str, str, str, str]
"""Role, scope, resource, verb."""


def granted() -> set[Right]:
    """Everything that the three accounts may do."""
    roles = [m for m in rendered("default") if m["kind"] in ("Role", "ClusterRole") and not m["metadata"].get("labels")]
    return {right for role in roles for rule in role["rules"] for right in _rights(role, rule)}


def _rights(role: Manifest, rule: Manifest) -> set[Right]:
    scope = "own namespace" if role["kind"] == "Role" else "cluster"
    return {(role["metadata"]["name"], scope, resource, verb) for resource in rule["resources"] for verb in rule["verbs"]}


def test_every_right_has_its_reason_in_the_readme_and_the_readme_names_no_other() -> None:
    lines = [line for line in _readme().splitlines() if line.startswith("| `dynvol-")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    explained = {
        (role, scope, resource, verb)
        for role, scope, resources, verbs, _ in rows
        for resource in re.findall(r"[a-z/]+", resources)
        for verb in re.findall(r"[a-z]+", verbs)
    }
    assert explained == granted()
    assert all(len(reason) > 20 for *_, reason in rows)


def _readme() -> str:
    return (CONFIG / "README.md").read_text()


PARSERS: dict[str, argparse.ArgumentParser] = next(
    a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)
).choices
EVERY_PROCESS = {"--log-level", "--log-format", "--help", "-h"}


@pytest.mark.parametrize("process", ["node", "webhook", "mounter"])
def test_the_readme_lists_the_flags_of_a_process_and_no_others(process: str) -> None:
    flags = {option for action in PARSERS[process]._actions for option in action.option_strings}
    assert set(_documented(f"### `dynvol {process}`")) == flags - EVERY_PROCESS
    assert set(_documented("### Every process")) < flags


@pytest.mark.parametrize("process", ["node", "webhook", "mounter"])
def test_the_readme_says_what_flags_default_to(process: str) -> None:
    documented = _documented(f"### `dynvol {process}`") | _documented("### Every process")
    for action in PARSERS[process]._actions:
        for option in set(action.option_strings) & set(documented):
            if action.required:
                assert documented[option] == "required"
            elif action.default:
                assert documented[option] == f"{action.default:g}" if isinstance(action.default, float) else str(action.default)


def _documented(heading: str) -> dict[str, str]:
    """Flag → default, of the table below a heading."""
    section = _readme().partition(f"\n{heading}\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| `--")]
    return {flag: row[-1].strip("`") for row in rows for flag in re.findall(r"`(--[a-z-]+)`", row[0])}


def _users_table(heading: str) -> set[str]:
    """What stands in the first column of a table in the project's README."""
    text = (CONFIG.parent / "README.md").read_text()
    section = text.partition(f"\n### {heading}")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {key for row in rows for key in re.findall(r"`([a-z-]+)`", row)}


def test_the_readme_lists_the_parameters_of_a_class_and_no_others() -> None:
    known = {value for name, value in vars(names).items() if name.endswith("_PARAMETER")}
    assert {f"{names.GROUP}/{key}" for key in _users_table("Parameters of a class")} == known


def test_the_readme_lists_the_annotations_of_a_pod_and_no_others() -> None:
    known = {names.CLASS_ANNOTATION, names.ROOT_ANNOTATION, names.POLICY_ANNOTATION, names.CONTAINERS_ANNOTATION, names.INJECT}
    assert {f"{names.GROUP}/{key}" for key in _users_table("Annotations of a pod")} == known


def test_no_right_is_a_wildcard() -> None:
    assert not any("*" in part for right in granted() for part in right)


def sample(kind: str) -> Manifest:
    return one("samples", kind)


def decoded(kind: str, type_: type[Any]) -> Any:
    return msgspec.convert(sample(kind), type_)


def test_the_samples_pass_the_webhooks_own_rules() -> None:
    claim, provider_class = decoded("DynamicVolumeClaim", DynamicVolumeClaim), decoded("StorageProviderClass", StorageProviderClass)
    assert review_class(provider_class.spec).allowed
    verdict = review_claim(
        claim.spec, name="x", namespace="ns", neighbours=(), classes={provider_class.metadata.name: provider_class}
    )
    assert (verdict.problems, verdict.warnings) == ((), ())


def test_the_samples_belong_together() -> None:
    claim, deployment, secret = (sample(kind) for kind in ("DynamicVolumeClaim", "Deployment", "Secret"))
    provider_class = sample("StorageProviderClass")
    template = deployment["spec"]["template"]["metadata"]
    assert template["annotations"][names.CLASS_ANNOTATION] == provider_class["metadata"]["name"]
    assert claim["spec"]["selector"]["matchLabels"].items() <= template["labels"].items()
    assert claim["metadata"]["namespace"] == deployment["metadata"]["namespace"] == sample("Namespace")["metadata"]["name"]
    parameters = provider_class["spec"]["parameters"]
    assert parameters[names.SECRET_NAME_PARAMETER] == secret["metadata"]["name"]
    assert parameters[names.SECRET_NAMESPACE_PARAMETER] == secret["metadata"]["namespace"]
    assert set(secret["stringData"]) == {names.ACCESS_KEY, names.SECRET_KEY}
