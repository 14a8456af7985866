"""Secrets do not come out: not in answers, not in errors, not in the audit, not in the journal."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from mcp.shared.exceptions import MCPError

from pvemcp.access.grants import Grants
from pvemcp.call import ApiToken, Effect
from pvemcp.redaction import MASK
from tests.scenarios.rig import Rig, ToolFault, rig
from tests.scenarios.test_guests import a_guest

OF_A_GRANT = "5f0c1b9e-7a52-4d0e-9b3a-c0ffee15dead"
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
NOTES = f"""\
# web "server"
login: admin / Password: gei1-Ahgh
DB_PASSWORD=correct horse
-----BEGIN PRIVATE KEY-----
{BODY}
-----END PRIVATE KEY-----
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnFDfTFdbmDsWbXYG4s7Xqj5uJ2UQ0dxkqrB2Nf8Vo bob
the service works with {{configured}}, the laptop with {OF_A_GRANT}
"""
SHOWN = f"""\
# web "server"
login: admin / Password: {MASK}
DB_PASSWORD={MASK}
{MASK}
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPnFDfTFdbmDsWbXYG4s7Xqj5uJ2UQ0dxkqrB2Nf8Vo bob
the service works with {MASK}, the laptop with {MASK}
"""


def with_notes(r: Rig) -> tuple[int, list[str]]:
    """Write secrets into a guest's notes; return its vmid, and what must not come out."""
    Grants(r.store).create("laptop", Effect.READ, token=ApiToken("root@pam!laptop", OF_A_GRANT))
    configured = r.world.token()[1]
    vmid = a_guest(r)
    r.world.guests[vmid].config["description"] = NOTES.format(configured=configured)
    return vmid, ["gei1-Ahgh", "horse", BODY, configured, OF_A_GRANT]


def written_down(r: Rig) -> str:
    """Return the audit and the journal."""
    return json.dumps([asdict(entry) for entry in r.audit()]) + r.journal.getvalue()


async def test_secrets_in_the_notes_of_a_guest_are_masked_in_every_answer(era: str) -> None:
    async with rig() as r:
        vmid, hidden = with_notes(r)
        async with r.client(era=era) as client:
            path = f"/nodes/pve1/qemu/{vmid}/config"
            answers = [
                await client.call("guest_get", guest=vmid),
                await client.call("guest_get", guest=vmid, format="json"),
                await client.call("api_read", path=path),
                await client.call("api_read", path=path, format="json"),
                await client.call("api_read", path=path, fields=["description"]),
            ]
    for answer in answers:
        assert MASK in answer
        assert "AAAAC3NzaC1lZDI1NTE5AAAAI" in answer
        assert not [secret for secret in hidden if secret in answer]


async def test_an_answer_in_json_stays_json_and_the_rest_of_it_is_as_it_was() -> None:
    async with rig() as r:
        vmid, _ = with_notes(r)
        async with r.client() as client:
            path = f"/nodes/pve1/qemu/{vmid}/config"
            shown = await client.data("api_read", path=path)
            del r.world.guests[vmid].config["description"]
            plain = await client.data("api_read", path=path)
    assert shown.pop("description") == SHOWN
    assert {**shown, "digest": ""} == {**plain, "digest": ""}


async def test_a_secret_that_a_caller_gives_is_in_no_error_and_not_written_down(era: str) -> None:
    async with rig() as r:
        _, hidden = with_notes(r)
        configured = hidden[3]
        async with r.client(era=era) as client:
            for tool, arguments in (
                ("guest_get", {"guest": configured}),
                ("api_read", {"path": f"/nodes/pve1/{OF_A_GRANT}"}),
                ("api_read", {"path": f"/nodes/{OF_A_GRANT}/status"}),
                ("api_read", {"path": "/version", "params": {configured: "x" * 1980 + configured}}),
            ):
                with pytest.raises(ToolFault) as fault:
                    await client.call(tool, **arguments)
                assert not [secret for secret in hidden if secret in str(fault.value)]
            with pytest.raises(MCPError) as unknown:
                await client.call(configured)
            assert configured not in str(unknown.value)
        written = written_down(r)
        assert MASK in written
        assert not [secret for secret in hidden if secret[:20] in written]


async def test_a_change_with_a_password_does_it_and_forgets_it() -> None:
    async with rig() as r, r.client() as client:
        vmid = a_guest(r)
        path = f"/nodes/pve1/qemu/{vmid}/config"
        params = {
            "cipassword": "gei1-Ahgh",
            "description": f"mysql -pgei1-Ahgh {r.world.token()[1]}",
        }
        await client.call("api_change", method="PUT", path=path, params=params)
        assert r.world.guests[vmid].config["description"] == params["description"]
        written = written_down(r)
        assert "mysql" in written
        assert "gei1-Ahgh" not in written
        assert r.world.token()[1] not in written


async def test_the_description_of_the_api_is_not_damaged() -> None:
    async with rig() as r, r.client() as client:
        for path in ("/access/users", "/access/users/{userid}/token/{tokenid}", "/storage"):
            assert MASK not in await client.call("api_describe", path=path)
