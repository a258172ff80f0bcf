"""What node process and mount pod tell each other: read back as written, and never a surprise, whatever stands there.

A mount pod that was taken over writes its own report, and with it what every node process of its node reads.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynvol.api import names
from dynvol.api.core import Pod
from dynvol.api.identity import Workload
from dynvol.api.meta import ObjectMeta
from dynvol.api.mounts import (
    MalformedAnnotation,
    MountReport,
    Phase,
    WantedMount,
    decode_reports,
    decode_wanted,
    encode,
)
from dynvol.controllers.view import index_by_claim_uid, index_mount_pod, reported, served_workload, told
from unit.examples import examples

texts = st.text(max_size=20)
wanted_mounts = st.builds(
    WantedMount,
    claim=texts,
    claim_uid=texts,
    pod_uid=texts,
    path=texts,
    provider=texts,
    spec_hash=texts,
    read_only=st.booleans(),
    parameters=st.dictionaries(texts, texts, max_size=3),
)
reports = st.builds(
    MountReport,
    claim_uid=texts,
    pod_uid=texts,
    path=texts,
    spec_hash=texts,
    phase=st.sampled_from(Phase),
    reason=texts,
    message=texts,
    time=texts,
    restarts=st.integers(0, 2**40),
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
known_keys = st.sampled_from(["claim", "claimUid", "podUid", "path", "provider", "specHash", "phase", "parameters", "restarts"])
crooked = (
    st.text(max_size=60)
    | json_values.map(json.dumps)
    | st.lists(st.dictionaries(known_keys, json_values, max_size=8), max_size=3).map(json.dumps)
    | st.sampled_from(["[" * 100_000, '[{"x":' * 20_000, '["\\ud800"]', "[{}]", "null", "[null]", '[{"phase":"Unheard"}]', "1e999"])
)


def text_of(entry: WantedMount | MountReport) -> str:
    return encode([entry])  # type: ignore[arg-type]  # a list of one is of one kind


@examples(50)
@given(st.lists(wanted_mounts, max_size=3))
def test_what_is_wanted_is_read_back(mounts: list[WantedMount]) -> None:
    assert sorted(decode_wanted(encode(mounts)), key=text_of) == sorted(mounts, key=text_of)


@examples(50)
@given(st.lists(reports, max_size=3))
def test_what_is_reported_is_read_back(entries: list[MountReport]) -> None:
    assert sorted(decode_reports(encode(entries)), key=text_of) == sorted(entries, key=text_of)


@examples(50)
@given(st.lists(reports, max_size=4), st.randoms(use_true_random=False))
def test_equal_content_is_an_equal_text(entries: list[MountReport], shuffler: Any) -> None:
    distinct = list({(e.path, e.claim_uid): e for e in entries}.values())
    shuffled = distinct[:]
    shuffler.shuffle(shuffled)
    assert encode(shuffled) == encode(distinct)


@examples(100)
@given(crooked)
def test_any_other_text_is_malformed_and_nothing_worse(text: str) -> None:
    for decode in (decode_wanted, decode_reports):
        try:
            decode(text)
        except MalformedAnnotation as problem:
            assert len(str(problem)) < 1000


@pytest.mark.parametrize("field", ["reason", "message"])
def test_a_report_of_any_length_fits_into_a_status(field: str) -> None:
    """Conditions have limits, and a status that breaks one cannot be written at all."""
    entry = {"claimUid": "c", "podUid": "p", "path": "p/x", "specHash": "h", "phase": "Failed", field: "é" * 100_000}
    (found,) = decode_reports(json.dumps([entry]))
    assert 0 < len(getattr(found, field).encode()) <= 4096


@examples(100)
@given(st.dictionaries(st.sampled_from([names.WANTED_ANNOTATION, names.REPORT_ANNOTATION, names.WORKLOAD_ANNOTATION]), crooked))
def test_no_annotation_of_a_mount_pod_keeps_it_from_being_filed(annotations: dict[str, str]) -> None:
    """The caches ask these of every pod that comes; one that raised would take all others with it."""
    pod = Pod(metadata=ObjectMeta(name="x", annotations=annotations, labels={names.MOUNT_POD_LABEL: "u"}))
    told(pod), reported(pod), list(index_by_claim_uid(pod)), list(index_mount_pod(pod))
    assert served_workload(pod, node="n") is None


@given(st.text(max_size=80) | st.lists(texts, min_size=3, max_size=5).map("/".join))
def test_a_workload_is_one_or_is_not(text: str) -> None:
    try:
        found = Workload.from_annotation(text, node="n")
    except ValueError:
        return
    assert Workload.from_annotation(found.annotation, node="n") == found
    assert found.policy in (names.INDEPENDENT, names.SHARED)


words = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,20}[a-z0-9])?\Z")


@given(words, words, st.sampled_from([names.INDEPENDENT, names.SHARED]), words)
def test_a_workload_is_read_back(namespace: str, provider_class: str, policy: str, pod_uid: str) -> None:
    one = Workload.of(node="n", namespace=namespace, provider_class=provider_class, policy=policy, pod_uid=pod_uid)
    assert Workload.from_annotation(one.annotation, node="n") == one


@pytest.mark.parametrize(
    "other", [{"namespace": "b"}, {"provider_class": "b"}, {"policy": "shared"}, {"pod_uid": "b"}, {"node": "b"}]
)
def test_different_workloads_have_different_directories(other: dict[str, str]) -> None:
    given = {"node": "a", "namespace": "a", "provider_class": "a", "policy": "independent", "pod_uid": "a"}
    assert Workload.of(**given).root("/s") != Workload.of(**(given | other)).root("/s")
