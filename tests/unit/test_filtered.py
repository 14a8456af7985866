"""Which lists PVE filters, and the right that shows all of them."""

from __future__ import annotations

from typing import Any

import pytest

from pvemcp.pve.schema import Method
from pvemcp.tools.filtered import filters, rights


@pytest.mark.parametrize(
    ("path", "permissions", "answer"),
    [
        ("/cluster/resources", {"user": "all"}, True),
        ("/nodes/{node}/storage/{storage}/content", {"check": ["perm", "/x", ["Y"]]}, True),
        ("/cluster/replication", {"user": "all", "description": "Only jobs of …"}, True),
        ("/access/roles", {"user": "all"}, False),
        ("/access/domains", {"user": "world", "description": "Anyone can access that."}, False),
        ("/cluster/backup", {"check": ["perm", "/", ["Sys.Audit"]]}, False),
        ("/cluster/backup-info", None, False),
    ],
)
def test_only_a_list_that_pve_filters_may_be_incomplete(
    path: str, permissions: dict[str, Any] | None, answer: bool
) -> None:
    assert filters(Method(path, "GET", permissions=permissions)) is answer


@pytest.mark.parametrize(
    ("path", "params", "expected"),
    [
        ("/nodes/{node}/qemu", {}, [("/vms", "VM.Audit")]),
        ("/cluster/resources", {"type": "storage"}, [("/storage", "Datastore.Audit")]),
        (
            "/nodes/{node}/storage/{storage}/content",
            {},
            [("/storage/{storage}", "Datastore.Allocate")],
        ),
        ("/cluster/log", {}, [("/", "Sys.Syslog")]),
        ("/nodes", {}, [("/nodes", "Sys.Audit")]),
    ],
)
def test_the_right_that_shows_every_row_is_known(
    path: str, params: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    assert list(rights(Method(path, "GET"), params)) == expected


def test_the_list_of_everything_wants_a_right_for_each_kind() -> None:
    assert {acl for acl, _ in rights(Method("/cluster/resources", "GET"), {})} >= {
        "/vms",
        "/storage",
        "/nodes",
    }
