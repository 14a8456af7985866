"""Parameters: what is refused, with which words, and how values are written for PVE."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import Invalid
from pvemcp.pve import formats, patterns
from pvemcp.pve.schema import Method, Parameter, parameter_of
from pvemcp.pve.schema import method_of as read
from pvemcp.pve.validate import validate
from tests.unit.pve_tree import method_of

CONFIG = method_of("PUT", "/nodes/{node}/qemu/{vmid}/config")
HERE = {"node": "pve1", "vmid": 100}


def rendered(name: str, value: Any) -> Any:
    return validate(CONFIG, {**HERE, name: value})[name]


def problem(name: str, value: Any) -> str:
    with pytest.raises(Invalid) as caught:
        validate(CONFIG, {**HERE, name: value})
    assert list(caught.value.detail) == [name]
    return caught.value.detail[name]


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("onboot", True, 1), ("onboot", False, 0), ("onboot", "1", 1), ("onboot", 0, 0),
        ("cores", 4, 4), ("cores", "4", 4), ("cores", 4.0, 4), ("cpulimit", 0.5, 0.5),
        ("cpulimit", "1.5", "1.5"), ("name", "web-01", "web-01"), ("ostype", "l26", "l26"),
        ("tags", ["prod", "web"], "prod,web"), ("tags", "prod;web", "prod;web"),
        ("delete", ["net1", "scsi2"], "net1,scsi2"), ("startdate", "now", "now"),
        ("net0", "virtio,bridge=vmbr0", "virtio,bridge=vmbr0"),
        ("net31", "virtio=BC:24:11:00:00:01,firewall=on", "virtio=BC:24:11:00:00:01,firewall=on"),
        ("net0", {"model": "virtio", "firewall": True, "tag": 5, "bridge": None},
         "model=virtio,firewall=1,tag=5"),
        ("sshkeys", "ssh-ed25519%20AAAA", "ssh-ed25519%20AAAA"),
    ],
)  # fmt: skip
def test_a_right_value_is_written_as_pve_wants_it(name: str, value: Any, written: Any) -> None:
    assert rendered(name, value) == written


@pytest.mark.parametrize(
    ("schema", "value", "written"),
    [
        ({"format": "prune-backups"}, {"keep-last": 3, "keep-all": False},
         "keep-last=3,keep-all=0"),
        ({"format": "pve-startup-order"}, {"order": 3}, "order=3"),
        ({"type": "integer", "minimum": 0}, False, 0),
        ({"type": "number", "minimum": "0"}, 1.5, 1.5),
        ({"format": {"clone": {"type": "number", "minimum": "0"}}}, "clone=100", "clone=100"),
    ],
)  # fmt: skip
def test_a_right_value_of_a_described_parameter_is_taken(
    schema: dict[str, Any], value: Any, written: Any
) -> None:
    method = Method("/x", "PUT", parameters=(parameter_of("it", schema),))
    assert validate(method, {"it": value}) == {"it": written}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("onboot", "true", "true or false (1 or 0), not 'true'"),
        ("onboot", 2, "1 or 0"),
        ("cores", 0, "at least 1, not '0'"),
        ("cores", "four", "whole number, not 'four'"),
        ("cores", 1.5, "whole number"),
        ("cores", True, "whole number"),
        ("cpulimit", 129, "from 0 to 128"),
        ("cpulimit", float("nan"), "must be a number"),
        ("name", "bad_name!", "DNS name"),
        ("name", "ümlaut", "DNS name"),
        ("name", "a\nb", "DNS name"),
        ("name", "a\0b", "control character"),
        ("name", "\ud800", "Unicode"),
        ("name", ["a"], "not a list"),
        ("name", {"a": 1}, "must be a text"),
        ("ostype", "linux", "one of l26, win11"),
        ("tags", ["a b"], "separator"),
        ("tags", "ok,-no", "each element must be a tag"),
        ("digest", "x" * 41, "at most 40 characters"),
        ("startdate", "soon", "must match"),
        ("sshkeys", "ssh-ed25519 AAAA", "percent-encoded"),
        ("net0", "virtio,bridg=vmbr0", "unknown key 'bridg' (did you mean bridge?)"),
        ("net0", "virtio,tag=9999", "tag: must be from 1 to 4094"),
        ("net0", "virtio,firewall=maybe", "firewall: must be 1 or 0"),
        ("net0", "bridge=vmbr0", "key model is missing"),
        ("net0", "virtio,virtio", "key model is given twice"),
        ("net0", "virtio=BC:24:11:00:00:01,model=e1000", "given twice"),
        ("net0", "virtio,trunks=1", "key trunks needs key bridge"),
        ("net0", "virtio,bridge=", "key bridge has no value"),
        ("net0", "rtl", "model: must be one of virtio, e1000"),
        ("force", True, "needs delete too"),
        ("memry", 1, "unknown parameter"),
        ("nmae", "x", "did you mean name?"),
        ("nett3", "x", "did you mean net3?"),
        ("cipassword", "abc", "at least 5 characters"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_the_right_form(name: str, value: Any, words: str) -> None:
    assert words in problem(name, value)


def test_every_wrong_parameter_is_named_at_once() -> None:
    with pytest.raises(Invalid, match="4 parameters are wrong") as caught:
        validate(CONFIG, {"node": "b@d", "cores": "x", "colour": "red"})
    assert sorted(caught.value.detail) == ["colour", "cores", "node", "vmid"]
    assert "is missing" in caught.value.detail["vmid"]
    assert "cipassword" in caught.value.hint


def test_a_secret_is_never_repeated_in_the_refusal() -> None:
    assert "hunt" not in problem("cipassword", "hunt")


def test_none_means_not_given_and_the_cache_breaker_is_dropped() -> None:
    assert validate(CONFIG, {**HERE, "name": None, "_dc": 17}) == {"node": "pve1", "vmid": 100}


def test_a_list_stays_a_list_for_an_array_parameter() -> None:
    method = method_of("POST", "/nodes/{node}/qemu/{vmid}/agent/exec")
    assert validate(method, {**HERE, "command": ["ls", "-l"]})["command"] == ["ls", "-l"]
    assert validate(method, {**HERE, "command": "ls"})["command"] == ["ls"]


def test_nul_is_accepted_only_where_the_pattern_names_it() -> None:
    env = Parameter("env", pattern=r"(?^:\w+=[a-z]*(?:\0\w+=[a-z]*)*)")
    method = Method("/x", "PUT", parameters=(env,))
    assert validate(method, {"env": "A=b\0C=d"}) == {"env": "A=b\0C=d"}
    with pytest.raises(Invalid):
        validate(method, {"env": "A=b\x01"})


def test_names_outside_the_description_pass_where_pve_lets_them() -> None:
    method = Method("/x", "POST", extra_parameters=True)
    assert validate(method, {"any": "thing", "number": 5}) == {"any": "thing", "number": "5"}
    with pytest.raises(Invalid):
        validate(method, {"any": {"a": 1}})


@pytest.mark.parametrize(
    ("pattern", "value", "result"),
    [
        (r"(?^i:[a-z]+)", "ABC", True),
        (r"[A-Za-z0-9\-_\s]{,8}", "too long to fit", False),
        (r"([A-Fa-f0-9]{2}:){3}[A-Fa-f0-9]{2}", "AA:bb:00:11", True),
        (r"net\d+=\d+(,net\d+=\d+)*", "net0=1,net1=2", True),
        (r"(a+)+", "aaaa!", None),
        (r"(a|a)*", "aaaa!", None),
        (r"([a-z]+[-]*)+", "aaaa!", None),
        (r"(;[;a]*)*", ";;;;!", None),
        (r"(,.*)*", ",,,,!", None),
        (r"(a?){40}", "aaaa!", None),
        (r"[", "x", None),
        (r"\p{L}", "x", None),
        (r"[a-z]+", "x" * 5000, None),
    ],
)
def test_a_perl_pattern_is_applied_only_where_it_is_safe(
    pattern: str, value: str, result: bool | None
) -> None:
    assert patterns.matches(pattern, value) is result


def rendered_or_refused(params: dict[str, Any]) -> dict[str, Any]:
    try:
        return validate(CONFIG, {**HERE, **params})
    except Invalid:
        return {}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("ip", ["10.0.0.1", "2001:db8::1"], ["10.0.0.256", "x", ""]),
        ("ipv4", ["10.0.0.1"], ["2001:db8::1"]),
        ("ipv6", ["::1"], ["10.0.0.1"]),
        ("CIDR", ["10.0.0.0/8", "2001:db8::/32", "10.0.0.1/24"], ["10.0.0.0", "10.0.0.0/33"]),
        ("CIDRv4", ["10.0.0.0/8"], ["2001:db8::/32"]),
        ("CIDRv6", ["2001:db8::/32"], ["10.0.0.0/8"]),
        ("IPorCIDR", ["10.0.0.1", "10.0.0.0/8"], ["host"]),
        ("address", ["10.0.0.1", "pve1.lab.example"], ["a_b", "-a"]),
        ("dns-name-list", ["a.b,c d;e", ""], ["a,b_c"]),
        ("mac-addr", ["BC:24:11:00:00:01"], ["BD:24:11:00:00:01", "BC-24-11-00-00-01"]),
        ("ip-opt", ["", "10.0.0.1"], ["x"]),
        ("pve-vmid", ["100", "999999999"], ["99", "0100", "1000000000"]),
        ("pve-node", ["pve1", "a"], ["-a", "a_b", ""]),
        ("pve-storage-id", ["nas", "a1", "a.b_c-d1"], ["x", "1a", "nas-", "a/b"]),
        ("pve-poolid", ["a", "a/b/c"], ["a/b/c/d", "/a", "a//b"]),
        ("pve-userid", ["root@pam", "jürgen@ad-1"], ["root", "a b@pam", "a@b@"]),
        ("pve-volume-id", ["nas:iso/x.iso"], ["iso/x.iso", ":x"]),
        ("pve-replication-job-id", ["100-0"], ["100", "x-0"]),
        ("a-format-nobody-knows", ["anything", ""], []),
        ("unknown-list", ["a,b"], []),
    ],
)  # fmt: skip
def test_well_known_formats(name: str, right: list[str], wrong: list[str]) -> None:
    assert [value for value in right if formats.problem(name, value)] == []
    assert [value for value in wrong if not formats.problem(name, value)] == []


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*(p.name for p in CONFIG.parameters), "net0"]) | st.text(),
                       ANY, max_size=6))  # fmt: skip
def test_any_parameters_are_rendered_or_refused(params: dict[str, Any]) -> None:
    clean = rendered_or_refused(params)
    assert all(isinstance(value, (str, int, float, list)) for value in clean.values())


@given(st.text(alphabet="virtio=,e1000bridge:ABC0 \t"))
def test_any_property_string_is_rendered_or_refused(text: str) -> None:
    assert rendered_or_refused({"net0": text}).get("net0", text) == text


def test_hostile_sizes_do_not_hang_the_judgement() -> None:
    for value in ("virtio," * 200_000, "a" * 2_000_000, 10**5000, "1" * 100_000):
        for name in ("net0", "name", "cores", "startdate", "x" * 100_000):
            with contextlib.suppress(Invalid):
                validate(CONFIG, {**HERE, name: value})


NAME = {"properties": {"rule": {"type": "string"}}, "additionalProperties": 0}
KINDS = {
    "type-property": "type",
    "type-property-schema": {"type": "string", "enum": ["node", "guest"]},
    "oneOf": [
        {
            "instance-type": kind,
            "additionalProperties": 0,
            "properties": {"guests": {"type": "string"}, f"{kind}s": {"type": "string"}},
        }
        for kind in ("node", "zone")
    ],
}


def test_a_method_that_pve_composes_of_kinds_has_the_parameters_of_all() -> None:
    """As PVE 9.2 describes the rules of high availability."""
    method = read("/rules", "POST", {"parameters": {"allOf": [NAME, KINDS]}})
    needed = {parameter.name: not parameter.optional for parameter in method.parameters}
    assert needed == {"rule": True, "type": True, "guests": True, "nodes": False, "zones": False}
    given = {"rule": "a", "type": "node", "guests": "vm:100"}
    assert validate(method, {**given, "nodes": "pve1"}) == {**given, "nodes": "pve1"}
    with pytest.raises(Invalid, match="other"):
        validate(method, {**given, "other": 1})
    with pytest.raises(Invalid, match="guests"):
        validate(method, {"rule": "a", "type": "node"})
