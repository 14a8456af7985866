"""The simulator's declarations against the API description that PVE 9.1 publishes.

That description is no part of this project; without it these tests are skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pvemcp.pve.schema import Method
from pvemcp.sim.apidoc import describe
from pvemcp.sim.catalogue import ENDPOINTS

APIDATA = Path(__file__).parents[2].parent / "shared" / "pve" / "apidata.json"


def _real_methods() -> dict[tuple[str, str], dict[str, Any]]:
    def walk(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for node in nodes:
            yield node
            yield from walk(node.get("children", []))

    if not APIDATA.exists():
        return {}
    tree = json.loads(APIDATA.read_text())
    return {
        (verb, node["path"]): info
        for node in walk(tree)
        for verb, info in node.get("info", {}).items()
    }


REAL = _real_methods()
needs_description = pytest.mark.skipif(not REAL, reason="no PVE description beside the project")
_RARE = frozenset(
    """
    allow-ksm amd-sev audio0 hugepages intel-tdx ivshmem keephugepages migrate_downtime
    migrate_speed numa[n] parallel[n] smp spice_enhancements startdate tdf virtiofs[n]
    """.split()
)
_RARE_STORES = frozenset(
    """
    authsupported base blocksize comstar_hg comstar_tg content-dirs fs-name fuse iscsiprovider
    lio_tpg mountpoint nocow nowritecache portal skip-cert-verification subdir tagged_only target
    zfs-base-path
    """.split()
)
_RARE_OPTIONS = frozenset(
    """
    bwlimit consent-text crs email_from fencing ha keyboard language mac_prefix
    migration_unsecure next-id notify replication tag-style u2f user-tag-access webauthn
    """.split()
)
_RARE_METRICS = frozenset(
    """
    api-path-prefix bucket influxdbproto max-body-size mtu organization otel-compression
    otel-headers otel-max-body-size otel-path otel-protocol otel-resource-attributes otel-timeout
    otel-verify-ssl proto timeout token verify-certificate
    """.split()
)
_FIXED_STORES = frozenset({"authsupported", "base", "iscsiprovider", "portal", "target"})
OMITTED: Mapping[tuple[str, str], frozenset[str]] = {
    ("PUT", "/cluster/options"): _RARE_OPTIONS,
    ("POST", "/cluster/metrics/server/{id}"): _RARE_METRICS,
    ("PUT", "/cluster/metrics/server/{id}"): _RARE_METRICS,
    ("POST", "/storage"): _RARE_STORES,
    ("PUT", "/storage/{storage}"): _RARE_STORES - _FIXED_STORES,
    ("POST", "/nodes/{node}/qemu"): _RARE,
    ("PUT", "/nodes/{node}/qemu/{vmid}/config"): _RARE,
    ("POST", "/nodes/{node}/qemu/{vmid}/config"): _RARE | {"import-working-storage"},
}
"""Settings that hardly anybody uses are not simulated."""
_CHECKED = ("type", "optional", "format", "pattern", "minimum", "maximum", "minLength",
            "maxLength", "enum", "requires")  # fmt: skip


@needs_description
@pytest.mark.parametrize(
    "method",
    [entry.method for entry in ENDPOINTS if entry.method.path != "/"],
    ids=lambda method: f"{method.verb} {method.path}",
)
def test_a_declared_method_is_the_real_one(method: Method) -> None:
    real, ours = REAL[method.verb, method.path], describe(method)
    theirs = real["parameters"].get("properties", {})
    mine = ours["parameters"].get("properties", {})
    omitted = OMITTED.get((method.verb, method.path), frozenset())
    assert mine.keys() - theirs.keys() == set()
    assert theirs.keys() - mine.keys() == omitted
    for name, declared in mine.items():
        for key in _CHECKED:
            if isinstance(theirs[name].get(key), dict):
                assert set(declared["format"]) == set(theirs[name]["format"]), name
                continue
            if key == "optional" and not theirs[name].get(key):
                assert not declared.get(key), name
                continue
            assert _plain(declared.get(key)) == _plain(theirs[name].get(key)), (name, key)
    for key in ("allowtoken", "protected"):
        assert bool(ours.get(key)) == bool(real.get(key)), key
    assert _checks(ours) == _checks(real)
    if "firewall" not in method.path:
        assert ours.get("proxyto", "") == (real.get("proxyto") or "")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [str(item) for item in value]
    if value is None or value == "" or value is False:
        return None
    return str(value)


def _checks(described: dict[str, Any]) -> Any:
    permissions = described.get("permissions")
    if permissions is None:
        return None
    return {key: value for key, value in permissions.items() if key != "description"}
