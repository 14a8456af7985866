"""The description: what a path means, and what is said when it means nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Fault, Invalid, Misconfigured
from pvemcp.pve.description import Description, segments_of
from tests.unit.pve_tree import TEXT, description

PVE = description()


def test_apidoc_js_and_the_bare_array_in_it_are_the_same_description() -> None:
    bare = TEXT[TEXT.index("[") : TEXT.rindex("]") + 1]
    assert Description.parse(bare).digest == PVE.digest
    assert len(Description.parse(bare)) == len(PVE) == len(list(PVE.methods()))


@pytest.mark.parametrize(
    "text", ["", "no bracket", "[", "[]", "[1]", '[{"path": "/x"}]', "[" * 9999]
)
def test_a_text_without_a_description_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="no PVE API description"):
        Description.parse(text)


@pytest.mark.parametrize(
    ("path", "template", "values"),
    [
        ("/version", "/version", {}),
        ("/api2/json/version/", "/version", {}),
        ("version", "/version", {}),
        ("/nodes/pve1/qemu/100/config", "/nodes/{node}/qemu/{vmid}/config",
         {"node": "pve1", "vmid": "100"}),
        ("/nodes/pve1/storage/nas/content/nas:iso/a.iso",
         "/nodes/{node}/storage/{storage}/content/{volume}",
         {"node": "pve1", "storage": "nas", "volume": "nas:iso/a.iso"}),
        ("/nodes/pve1/storage/nas/content/nas%3Aiso%2Fa%20b.iso",
         "/nodes/{node}/storage/{storage}/content/{volume}",
         {"node": "pve1", "storage": "nas", "volume": "nas:iso/a b.iso"}),
    ],
)  # fmt: skip
def test_a_path_matches_its_template(path: str, template: str, values: dict[str, str]) -> None:
    match = PVE.match("GET", path)
    assert (match.method.path, match.values) == (template, values)
    assert PVE.match("GET", path) is match


@pytest.mark.parametrize(
    "path",
    [
        "/nodes/pve1/../../access/acl", "/nodes/pve1/%2e%2e/qemu", "/nodes//qemu", "/nodes/./qemu",
        "/nodes/pve1%2Fqemu", "/nodes/pve1/qemu/100%2Fconfig", "/nodes/pve1%2F..%2F..%2Faccess",
        "/nodes/pve1/storage/nas/content/nas:iso/../../../status", "/version?x=1", "/version#x",
        "/nodes/pve1/storage/nas/content/a%2F..%2Fb", "/nodes/\x00", "/nodes/%00", "/nodes/%ff",
        "/nodes/" + "x" * 3000, "/nodes/\ud800",
    ],
)  # fmt: skip
def test_a_path_that_could_leave_its_template_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        PVE.match("GET", path)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/nodes/pve1/qemu/100/confg", "/nodes/{node}/qemu/{vmid}/config"),
        ("/cluster/resource", "/cluster/resources"),
        ("/qemu/100/config", "/nodes/{node}/qemu/{vmid}/config"),
        ("/node", "/nodes"),
    ],
)
def test_an_unknown_path_names_the_nearest_one(path: str, nearest: str) -> None:
    with pytest.raises(Invalid, match="no path") as caught:
        PVE.match("GET", path)
    assert nearest in caught.value.hint.split(": ", 1)[1].split(", ")[0]


def test_a_verb_that_a_path_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(Invalid, match="/version has no PUT") as caught:
        PVE.match("PUT", "/version")
    assert "GET" in caught.value.hint


def test_a_path_without_methods_names_what_is_below_it() -> None:
    with pytest.raises(Invalid) as caught:
        PVE.match("GET", "/")
    assert "cluster" in caught.value.hint
    assert "nodes" in caught.value.hint


def test_an_unknown_verb_is_refused() -> None:
    with pytest.raises(Invalid, match="not a verb"):
        PVE.match("PATCH", "/version")


@pytest.mark.parametrize(
    ("words", "best"),
    [
        ("vm snapshots", "GET /nodes/{node}/qemu/{vmid}/snapshot"),
        ("create snapshot", "POST /nodes/{node}/qemu/{vmid}/snapshot"),
        ("delete vm", "DELETE /nodes/{node}/qemu/{vmid}"),
        ("next free id", "GET /cluster/nextid"),
        ("storage content", "GET /nodes/{node}/storage/{storage}/content"),
        ("restore", "POST /nodes/{node}/qemu"),
        ("which power has the host", "GET /nodes/{node}/status"),
    ],
)
def test_words_find_a_method(words: str, best: str) -> None:
    found = PVE.search(words, 5)
    assert f"{found[0].verb} {found[0].path}" == best


def test_words_that_nothing_has_find_nothing() -> None:
    assert PVE.search("zzz qqq") == []
    assert PVE.search("") == []
    assert len(PVE.search(["vm"], 3)) == 3


@given(st.text(), st.sampled_from(["GET", "PUT", "get", "?", ""]))
def test_any_text_as_a_path_is_a_match_or_a_fault(path: str, verb: str) -> None:
    try:
        match = PVE.match(verb, path)
    except Fault:
        return
    assert match.method.verb == verb.upper()


@given(st.lists(st.sampled_from(
    ["nodes", "pve1", "qemu", "100", "..", ".", "", "%2e%2e", "%2F", "a%2Fb", "storage", "content",
     "nas:iso", "{node}", "%", "config"]), max_size=9))  # fmt: skip
def test_a_match_never_covers_other_segments_than_its_own(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        match = PVE.match("GET", path)
    except Fault:
        return
    rebuilt = match.method.path
    for name, value in match.values.items():
        assert ".." not in value.split("/")
        assert "/" not in value or name == "volume"
        rebuilt = rebuilt.replace(f"{{{name}}}", value, 1)
    assert rebuilt.strip("/").split("/") == "/".join(segments_of(path)).split("/")
