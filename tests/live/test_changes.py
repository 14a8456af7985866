"""A guest's whole life on a real PVE: made, worked and deleted. Only with PVEMCP_LIVE_CHANGES=1."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pvemcp.call import Effect
from tests.live.place import CHANGES, Place
from tests.scenarios.rig import Caller, ToolFault

pytestmark = [
    pytest.mark.skipif(os.environ.get(CHANGES) != "1", reason=f"set {CHANGES}=1 for this"),
    pytest.mark.timeout(300),
]


@dataclass(frozen=True)
class Made:
    """A VM without disks that the test made."""

    client: Caller
    place: Place
    node: str
    vmid: int

    @property
    def path(self) -> str:
        return f"/nodes/{self.node}/qemu/{self.vmid}"

    async def change(self, method: str, below: str, **params: Any) -> str:
        return await self.client.call(
            "api_change", method=method, path=self.path + below, params=params
        )

    async def destroy(self, method: str, below: str, **params: Any) -> str:
        return await self.client.call(
            "api_destroy", method=method, path=self.path + below, params=params
        )

    async def power(self, action: str) -> str:
        return await self.client.call("guest_power", guests=str(self.vmid), action=action)

    async def state(self) -> str:
        current = await self.place.data(f"{self.path}/status/current")
        return str(current.get("qmpstatus", current["status"]))


@asynccontextmanager
async def a_guest(place: Place) -> AsyncIterator[Made]:
    """Make a small VM, and delete it whatever has become of it."""
    node = next(r["node"] for r in await place.data("/nodes") if r["status"] == "online")
    vmid = int(await place.data("/cluster/nextid"))
    async with place.client(ceiling=Effect.DESTROY) as client:
        made = Made(client, place, node, vmid)
        params = {
            "vmid": vmid, "name": f"pvemcp-test-{vmid}", "memory": 64, "ostype": "other",
            "tags": ["pvemcp", "test"], "description": "Made by a test — may be deleted",
        }  # fmt: skip
        text = await client.call(
            "api_change", method="POST", path=f"/nodes/{node}/qemu", params=params
        )
        assert f"qmcreate {vmid} on {node}: OK" in text
        try:
            yield made
        finally:
            if (await place.raw(f"{made.path}/config"))[0] == 200:
                await made.change("PUT", "/config", protection=False)
                await made.power("stop")
                await made.destroy("DELETE", "")


async def test_a_guest_lives_and_is_deleted(place: Place) -> None:
    async with a_guest(place) as vm:
        for action, state in (
            ("start", "running"), ("suspend", "paused"), ("resume", "running"), ("stop", "stopped"),
        ):  # fmt: skip
            assert ": OK" in await vm.power(action)
            assert await vm.state() == state
        assert "is stopped already" in await vm.power("stop")
        assert ": OK" in await vm.change("POST", "/snapshot", snapname="one", description="ü")
        assert "one" in await vm.client.call("guest_get", guest=str(vm.vmid), parts=["snapshots"])
        assert ": OK" in await vm.destroy("POST", "/snapshot/one/rollback")
        assert ": OK" in await vm.destroy("DELETE", "/snapshot/one")
        assert ": OK" in await vm.destroy("DELETE", "")
        status, reason = await place.raw(f"{vm.path}/config")
        assert status == 500, reason


async def test_a_clone_runs_to_its_end(place: Place) -> None:
    async with a_guest(place) as vm:
        newid = int(await place.data("/cluster/nextid"))
        assert ": OK" in await vm.change("POST", "/clone", newid=newid, name="pvemcp-clone")
        clone = Made(vm.client, place, vm.node, newid)
        assert (await place.data(f"{clone.path}/config"))["name"] == "pvemcp-clone"
        assert ": OK" in await clone.destroy("DELETE", "")


async def test_what_pve_refuses_or_fails_is_an_error_with_its_remedy(place: Place) -> None:
    async with a_guest(place) as vm:
        await vm.change("POST", "/snapshot", snapname="one")
        refused: list[tuple[str, dict[str, Any], str, str]] = [
            ("POST /snapshot", {"snapname": "one"}, "task_failed", "Choose another name"),
            ("POST /snapshot", {"snapname": "no good"}, "invalid", "letters"),
            ("PUT /config", {"digest": "0" * 40, "cores": 2}, "conflict", "Read it again"),
            ("PUT /config", {"coers": 2}, "invalid", "did you mean cores?"),
            ("PUT /config", {"net0": "virtio,bridg=vmbr0"}, "invalid", "did you mean bridge?"),
            ("PUT /config", {"onboot": "maybe"}, "invalid", "true or false"),
            ("PUT /resize", {"disk": "scsi7", "size": "+1G"}, "task_failed", "exist"),
            ("POST /clone", {"newid": vm.vmid}, "conflict", "Choose another"),
            ("POST /snapshot/one/rollback", {}, "invalid", "Call api_destroy"),
        ]
        for what, params, code, remedy in refused:
            method, below = what.split(" ")
            with pytest.raises(ToolFault) as error:
                await vm.change(method, below, **params)
            assert str(error.value).startswith(f"{code}: "), error.value
            assert remedy in str(error.value)
        config = await place.data(f"{vm.path}/config")
        assert not {"cores", "net0", "onboot"} & config.keys()


async def test_protection_and_running_keep_a_guest(place: Place) -> None:
    async with a_guest(place) as vm:
        await vm.change("PUT", "/config", protection=True)
        with pytest.raises(ToolFault, match="protection=0"):
            await vm.destroy("DELETE", "")
        await vm.change("PUT", "/config", protection=False)
        await vm.power("start")
        with pytest.raises(ToolFault, match="Shut it down first"):
            await vm.destroy("DELETE", "")
        await vm.change("PUT", "/config", memory=128)
        assert "memory: 64 -> 128" in await vm.client.call("guest_get", guest=str(vm.vmid))
