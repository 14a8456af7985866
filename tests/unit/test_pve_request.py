"""Paths with hostile values: a request never leaves the method that was asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from hypothesis import given, settings
from hypothesis import strategies as st

from pvemcp.errors import Fault
from pvemcp.pve.request import fill, prepare
from tests.unit.pve_tree import description

UPID = "UPID:pve1:0000A1B2:00C3D4E5:65F00000:qmstart:100:ops@pve!mcp:"
PVE = description()


def test_what_was_filled_into_the_path_is_no_parameter_any_more() -> None:
    params: dict[str, Any] = {"node": "pve1", "full": 1}
    assert fill("/nodes/{node}/qemu", params) == "/nodes/pve1/qemu"
    assert params == {"full": 1}


VALUES = st.text() | st.integers() | st.sampled_from(
    ["..", ".", "", "/", "a/b", "%2f", "%2e%2e", "?", "#", "\n", "a?b", "nas:iso/x", "\ud800"]
)  # fmt: skip
NAMES = ["node", "vmid", "storage", "volume", "upid"]
PATHS = [
    "/nodes/{node}/qemu/{vmid}/config",
    "/nodes/{node}/storage/{storage}/content/{volume}",
    "/nodes/{node}/tasks/{upid}/log",
]


@settings(max_examples=300)
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1))
def test_no_value_takes_a_request_out_of_its_template(path: str, given: dict[str, Any]) -> None:
    usable = {"node": "pve1", "vmid": 100, "storage": "nas", "volume": "nas:a", "upid": UPID}
    names = [name for name in usable if f"{{{name}}}" in path]
    params = {name: given.get(name, usable[name]) for name in names}
    try:
        prepared = prepare(PVE, "GET", path, params=params)
    except Fault:
        return
    assert prepared.method.path == path
    wire = prepared.target.removeprefix("/api2/json").split("?")[0]
    assert all(31 < ord(letter) < 127 and letter not in ' #"<>' for letter in wire)
    # PVE decodes the path once and splits it then: that must be the same method again.
    parts = unquote(wire).split("/")
    assert not {"", ".", ".."} & set(parts[1:])
    again = PVE.match("GET", wire)
    assert again.method.path == path
    expected = path.count("/")
    assert len(parts) - 1 == expected or path.endswith("{volume}")


def test_a_secret_in_body_or_query_stays_out_of_the_repr() -> None:
    path = "/nodes/pve1/qemu/100/config"
    prepared = prepare(PVE, "PUT", path, params={"cipassword": "hunter22"})
    assert prepared.body == b"cipassword=hunter22"
    assert "hunter22" not in repr(prepared)
