"""Definitions of storages as the simulator keeps them."""

from __future__ import annotations

import pytest

from pvemcp.sim.world import make_world
from tests.unit.sim_rig import caller, errors, failure, root


async def test_what_is_on_a_storage_outlives_its_definition() -> None:
    api = root()
    there = await api.data("GET", "/nodes/pve1/storage/nas/content")
    definition = await api.data("GET", "/storage/nas")
    await api.data("DELETE", "/storage/nas")
    said = failure(await api.ask("GET", "/storage/nas"))
    assert said == (500, "storage 'nas' does not exist")
    kept = ("storage", "type", "server", "export", "content")
    await api.data("POST", "/storage", **{name: definition[name] for name in kept})
    assert await api.data("GET", "/nodes/pve1/storage/nas/content") == there
    assert await api.data("GET", "/storage/nas") == definition


@pytest.mark.parametrize(("kind", "missing"), [("dir", "path"), ("pbs", "server")])
async def test_a_storage_without_what_its_type_needs_is_refused(kind: str, missing: str) -> None:
    reply = await root().ask("POST", "/storage", storage="new", type=kind)
    assert list(errors(reply)) == [missing]


async def test_a_password_is_never_shown() -> None:
    api = root()
    server = {"server": "192.0.2.7", "datastore": "main", "password": "hunter2"}
    await api.data("POST", "/storage", storage="pbs", type="pbs", **server)
    assert "hunter2" not in str(await api.data("GET", "/storage"))
    assert api.world.storages["pbs"].secrets == {"password": "hunter2"}


async def test_a_backup_does_not_change_the_digest_of_a_definition_but_a_change_does() -> None:
    api = root()
    digest = (await api.data("GET", "/storage/local"))["digest"]
    api.world.storages["local"].volumes.clear()
    await api.data("PUT", "/storage/local", content="iso", digest=digest)
    reply = await api.ask("PUT", "/storage/local", content="vztmpl", digest=digest)
    assert "detected modified configuration" in reply.reason


async def test_only_who_may_allocate_storages_changes_them() -> None:
    bob = caller(make_world("homelab"), storage_local="PVEDatastoreUser")
    said = "Permission check failed (/storage, Datastore.Allocate)"
    assert failure(await bob.ask("PUT", "/storage/local", disable=1)) == (403, said)
