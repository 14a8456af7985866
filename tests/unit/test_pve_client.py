"""The client: what is sent, shared, kept, permitted and noted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from pvemcp.call import ApiToken, Effect, Verdict
from pvemcp.errors import Conflict, Denied, Invalid, Missing, Rejected, Unavailable, Uncertain
from pvemcp.pve.client import Answer
from tests.unit.pve_server import TOKEN, Handler, Request, answer, client_of, new_call, raw
from tests.unit.pve_tree import description

GUEST = "/nodes/pve1/qemu/100"
UPID = "UPID:pve1:0000A1B2:00C3D4E5:65F00000:qmstart:100:ops@pve!mcp:"
PVE = description()


def always(data: Any, **more: Any) -> Handler:
    async def handler(request: Request) -> bytes:
        return answer(data, **more)

    return handler


async def test_placeholders_are_filled_validated_and_quoted() -> None:
    async with client_of(always([])) as (client, server):
        pve = client.bind(new_call())
        await pve.get("/nodes/{node}/qemu/{vmid}/config", node="pve1", vmid=100)
        await pve.get(
            "/nodes/pve1/storage/{storage}/content/{volume}",
            storage="nas",
            volume="nas:iso/a b%.iso",
        )
        await pve.get(f"/nodes/{{node}}/tasks/{UPID}/log", node="pve1", limit=5, start=None)
        assert server.asked == [
            f"GET /api2/json{GUEST}/config",
            "GET /api2/json/nodes/pve1/storage/nas/content/nas:iso%2Fa%20b%25.iso",
            f"GET /api2/json/nodes/pve1/tasks/{UPID}/log?limit=5",
        ]


async def test_a_form_is_sent_unless_an_array_needs_json() -> None:
    async with client_of(always(UPID)) as (client, server):
        pve = client.bind(new_call())
        await pve.put(f"{GUEST}/config", name="web", onboot=True, tags=["a", "b"], cores="2")
        await pve.post(f"{GUEST}/agent/exec", command=["echo", "ü x"])
        await pve.post(f"{GUEST}/status/start")
        form, array, empty = server.requests[1:]
        assert form.body == b"name=web&onboot=1&tags=a%2Cb&cores=2"
        assert form.headers["content-type"] == "application/x-www-form-urlencoded"
        assert json.loads(array.body) == {"command": ["echo", "ü x"]}
        assert array.headers["content-type"] == "application/json"
        assert empty.body == b""
        assert empty.headers["content-length"] == "0"


async def test_a_read_and_a_delete_carry_no_body() -> None:
    async with client_of(always(None)) as (client, server):
        pve = client.bind(new_call())
        await pve.get("/nodes/pve1/qemu", full=True)
        await pve.delete(GUEST)
        assert server.asked == [
            "GET /api2/json/nodes/pve1/qemu?full=1",
            f"DELETE /api2/json{GUEST}",
        ]
        assert all(request.body == b"" for request in server.requests)
        assert "transfer-encoding" not in server.requests[-1].headers


async def test_an_answer_brings_its_total_and_upid() -> None:
    async with client_of(always(UPID)) as (client, _):
        pve = client.bind(new_call())
        assert await pve.request("POST", f"{GUEST}/status/start") == Answer(UPID, None, UPID)
    async with client_of(always({"upid": UPID, "port": 1}, total=7)) as (client, _):
        found = await client.bind(new_call()).request("POST", f"{GUEST}/status/start")
        assert (found.total, found.upid) == (7, UPID)


@pytest.mark.parametrize(
    ("verb", "path", "params", "words"),
    [
        ("GET", "/nodes/{node}/qemu", {}, "needs a value for node"),
        ("GET", "/nodes/{node}/qemu", {"node": ["a"]}, "needs a value for node"),
        ("GET", "/nodes/{node}/qemu", {"node": "../access"}, "empty part, . or .."),
        ("GET", "/nodes/{node}/qemu", {"node": "a/b"}, "holds a slash"),
        ("GET", "/nodes/{node}/qemu", {"node": ""}, "needs a value for node"),
        ("DELETE", "/nodes/{node}/qemu/{vmid}", {"node": "pve1", "vmid": True}, "value for vmid"),
        ("DELETE", "/nodes/pve1/qemu/100/", {}, "ends in a slash"),
        ("GET", "/nodes/{node}/qemu", {"node": "b@d"}, "node"),
        ("GET", "/nodes/pve1/qemu", {"node": "pve2"}, "contradicts the path"),
        ("GET", "/nodes/pve1/qemu", {"colour": "red"}, "colour"),
        ("GET", f"{GUEST}/vncwebsocket", {}, "web interface"),
        ("GET", f"/nodes/pve1/tasks/{UPID}/log", {"download": 1}, "limit=0"),
        ("PUT", f"{GUEST}/config", {"scsi0": "x" * 600_000}, "PVE accepts 524288"),
        ("GET", f"/nodes/pve1/tasks/{'x' * 3000}/log", {}, "longer than"),
    ],
)
async def test_a_wrong_request_is_refused_before_anything_is_sent(
    verb: str, path: str, params: dict[str, Any], words: str
) -> None:
    async with client_of(always(None)) as (client, server):
        call = new_call()
        with pytest.raises(Invalid) as caught:
            await client.bind(call).request(verb, path, params)
        assert words in str(caught.value)
        assert server.asked == []
        assert call.steps == []


async def test_what_is_forbidden_is_denied_to_everyone() -> None:
    async with client_of(always(None)) as (client, server):
        pve = client.bind(new_call())
        for verb, path, params in (
            ("POST", "/nodes/pve1/execute", {"commands": "[]"}),
            ("PUT", "/access/acl", {"path": "/"}),
        ):
            with pytest.raises(Denied, match="closed to every client") as caught:
                await pve.request(verb, path, params)
            assert "Because" in caught.value.hint
        assert server.asked == []


async def test_the_policy_is_asked_with_the_effect_and_its_refusal_is_noted() -> None:
    async with client_of(always(UPID)) as (client, server):
        call = new_call(ceiling=Effect.CHANGE)
        pve = client.bind(call)
        await pve.put(f"{GUEST}/config", delete="net1")
        with pytest.raises(Denied, match="destroy"):
            await pve.put(f"{GUEST}/config", delete="scsi1")
        assert len(server.asked) == 1
        assert [(s.effect, s.verdict, s.status) for s in call.steps] == [
            (Effect.CHANGE, Verdict.ALLOW, 200), (Effect.DESTROY, Verdict.DENY, 0)]  # fmt: skip


async def test_a_policy_that_answers_deny_is_obeyed() -> None:
    async with client_of(always(1), permit=lambda *_: Verdict.DENY) as (client, server):
        with pytest.raises(Denied):
            await client.bind(new_call()).get("/version")
        assert server.asked == []


async def test_every_request_leaves_a_step_with_status_and_upid() -> None:
    async def handler(request: Request) -> bytes:
        if request.verb == "POST":
            return answer(UPID)
        return raw(b"", status=500, reason="boom")

    async with client_of(handler) as (client, _):
        call = new_call()
        pve = client.bind(call)
        await pve.post(f"{GUEST}/status/start")
        with pytest.raises(Rejected, match="boom"):
            await pve.get("/version")
        assert [(s.method, s.path, s.status, s.upid) for s in call.steps] == [
            ("POST", f"{GUEST}/status/start", 200, UPID), ("GET", "/version", 500, "")]  # fmt: skip
        assert all(step.ms > 0 for step in call.steps)


class Gate:
    """Answers only when it is opened; tells when it was asked."""

    def __init__(self, data: Any = "x") -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.data = data

    async def __call__(self, _: Request) -> bytes:
        self.asked.set()
        await self.open.wait()
        return answer(self.data)


@pytest.mark.parametrize(("verb", "times"), [("GET", 2), ("POST", 1)])
async def test_only_a_read_is_repeated_when_pve_had_a_stale_connection(
    verb: str, times: int
) -> None:
    broken = [raw(b"", status=596, reason="Broken pipe")]

    async def handler(request: Request) -> bytes:
        return broken.pop() if broken else answer({})

    async with client_of(handler) as (client, server):
        path = f"{GUEST}/config" if verb == "GET" else f"{GUEST}/status/start"
        with contextlib.suppress(Uncertain):
            await client.bind(new_call()).request(verb, path)
        assert server.asked == [f"{verb} /api2/json{path}"] * times


async def test_identical_reads_under_way_share_one_request() -> None:
    gate = Gate()
    async with client_of(gate) as (client, server):
        calls = [new_call() for _ in range(10)]
        waiting = [asyncio.create_task(client.bind(c).get("/version")) for c in calls]
        await gate.asked.wait()
        gate.open.set()
        assert await asyncio.gather(*waiting) == ["x"] * 10
        assert server.asked == ["GET /api2/json/version"]
        assert all(len(call.steps) == 1 for call in calls)


async def test_reads_of_different_principals_are_never_shared() -> None:
    gate = Gate()
    async with client_of(gate) as (client, server):
        await client.description()
        tokens = [TOKEN, ApiToken("b@pve!x", "s"), ApiToken(TOKEN.id, "other-secret")]
        waiting = [asyncio.create_task(client.bind(new_call(t)).get("/version")) for t in tokens]
        gate.open.set()
        await asyncio.gather(*waiting)
        sent = [r.headers["authorization"] for r in server.requests[1:]]
        assert sorted(sent) == sorted(t.header for t in tokens)


async def test_a_cancelled_waiter_leaves_the_others_alone() -> None:
    gate = Gate()
    async with client_of(gate) as (client, server):
        calls = [new_call() for _ in range(3)]
        first, *others = (asyncio.create_task(client.bind(c).get("/version")) for c in calls)
        await gate.asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open.set()
        assert await asyncio.gather(*others) == ["x", "x"]
        assert len(server.asked) == 1
        assert [step.status for step in calls[0].steps] == [0]


async def test_a_read_after_a_write_does_not_join_one_from_before() -> None:
    gate = Gate()

    async def handler(request: Request) -> bytes:
        return answer(UPID) if request.verb == "POST" else await gate(request)

    async with client_of(handler) as (client, server):
        pve = client.bind(new_call())
        before = asyncio.create_task(pve.get("/version"))
        await gate.asked.wait()
        await pve.post(f"{GUEST}/status/start")
        after = asyncio.create_task(pve.get("/version"))
        gate.open.set()
        await asyncio.gather(before, after)
        assert server.asked.count("GET /api2/json/version") == 2


async def test_resources_are_kept_for_a_moment_and_dropped_after_a_write() -> None:
    async with client_of(always([{"vmid": 100}])) as (client, server):
        pve = client.bind(new_call())
        first = await pve.resources("vm")
        assert await pve.resources("vm") is first
        await pve.resources()
        await client.bind(new_call(ApiToken("b@pve!x", "s"))).resources("vm")
        assert server.asked == [
            "GET /api2/json/cluster/resources?type=vm", "GET /api2/json/cluster/resources",
            "GET /api2/json/cluster/resources?type=vm"]  # fmt: skip
        await client.bind(new_call(ApiToken("c@pve!x", "s"))).delete(GUEST)
        await pve.resources("vm")
        assert len(server.asked) == 5
        assert len(pve.call.steps) == 4


async def test_a_failed_list_is_not_kept() -> None:
    broken = True

    async def handler(request: Request) -> bytes:
        return raw(b"", status=596, reason="Broken pipe") if broken else answer([])

    async with client_of(handler) as (client, _):
        pve = client.bind(new_call())
        with pytest.raises(Unavailable):
            await pve.resources("vm")
        broken = False
        assert await pve.resources("vm") == []


async def test_a_weak_token_is_told_what_it_cannot_see() -> None:
    rights = {
        "/": {"Sys.Audit": 0}, "/vms": {"VM.Audit": 1}, "/vms/105": {"VM.PowerMgmt": 1},
        "/storage": {"Datastore.Audit": 1},
    }  # fmt: skip
    async with client_of(always(rights)) as (client, server):
        pve = client.bind(new_call())
        assert await pve.blind("/storage", "Datastore.Audit") == ""
        assert await pve.blind("/storage/nas", "Datastore.Audit") == ""
        said = await pve.blind("/nodes", "Sys.Audit")
        assert said == "The list may be incomplete: token ops@pve!mcp lacks Sys.Audit on /nodes."
        assert "VM.Audit on /vms/105" in await pve.blind("/vms", "VM.Audit")
        assert "lacks VM.Audit on /" in await pve.blind("/", "VM.Audit")
        assert server.asked == ["GET /api2/json/access/permissions"]


async def test_when_pve_does_not_tell_rights_the_list_may_be_incomplete() -> None:
    async def handler(request: Request) -> bytes:
        return raw(b"", status=500, reason="boom")

    async with client_of(handler) as (client, _):
        assert "may be incomplete" in await client.bind(new_call()).blind("/vms", "VM.Audit")


async def test_a_method_that_pve_does_not_have_says_so() -> None:
    async def handler(request: Request) -> bytes:
        return raw(b"", status=501, reason="Method 'GET /version' not implemented")

    async with client_of(handler) as (client, _):
        with pytest.raises(Invalid, match="does not have GET /version"):
            await client.bind(new_call()).get("/version")


async def test_the_guest_that_is_elsewhere_is_found() -> None:
    async def handler(request: Request) -> bytes:
        if "resources" in request.target:
            web = {"vmid": 100, "node": "pve2", "type": "qemu", "name": "web"}
            return answer([web, {"vmid": 200, "node": "pve1", "type": "lxc", "name": "dns"}])
        vmid = request.target.split("/")[6]
        text = f"Configuration file 'nodes/pve1/qemu-server/{vmid}.conf' does not exist"
        return answer(status=500, reason=text, message=f"{text}\n")

    async with client_of(handler) as (client, server):
        call = new_call()
        pve = client.bind(call)
        for vmid, words, hint in (
            (100, "guest 100 (web) is on node pve2, not on pve1", "/nodes/pve2/qemu/100"),
            (200, "guest 200 (dns) is a container, on node pve1", "/nodes/pve1/lxc/200"),
            (300, "guest 300 does not exist", "/cluster/resources"),
        ):
            with pytest.raises(Missing) as caught:
                await pve.get(f"/nodes/pve1/qemu/{vmid}/config")
            assert words in caught.value.message
            assert hint in caught.value.hint
        assert server.asked.count("GET /api2/json/cluster/resources?type=vm") == 1
        assert call.steps[0].status == 500


@pytest.mark.parametrize(
    ("path", "text", "rows", "words"),
    [
        ("/nodes/pve9/status", "hostname lookup 'pve9' failed", [{"node": "pve1"}],
         "no node pve9\nDid you mean pve1? There is pve1."),
        ("/nodes/pve9/status", "hostname lookup 'pve9' failed", [{"node": "pve9"}],
         "node pve9 is known but cannot be reached"),
        ("/nodes/pve1/storage/nsa/content", "storage 'nsa' does not exist",
         [{"storage": "nas"}, {"storage": "nas"}, {"storage": "local"}],
         "no storage nsa\nDid you mean nas? There is local, nas."),
        (f"{GUEST}/snapshot/befor", "snapshot 'befor' does not exist",
         [{"name": "before"}, {"name": "current"}], "Did you mean before? There is before."),
        (f"{GUEST}/snapshot/befor", "snapshot 'befor' does not exist", [], "There is none"),
        (f"{GUEST}/snapshot/befor", "snapshot 'befor' does not exist", None, "does not exist"),
        (f"{GUEST}/config", "VM is locked (backup)",
         [{"type": "vzdump", "id": "100", "user": "root@pam", "upid": UPID}],
         f"It runs: vzdump by root@pam, {UPID}."),
        (f"{GUEST}/config", "VM is locked (backup)", [], "Look for its task"),
    ],
)  # fmt: skip
async def test_what_exists_or_holds_is_named(path: str, text: str, rows: Any, words: str) -> None:
    async def handler(request: Request) -> bytes:
        if request.target == f"/api2/json{path}":
            return raw(b"", status=500, reason=text)
        return answer(rows)

    async with client_of(handler) as (client, server):
        with pytest.raises((Missing, Conflict)) as caught:
            await client.bind(new_call()).get(path)
        assert words in str(caught.value)
        assert len(server.asked) == 2
