"""PVE tokens of a backup at another PVE: made anew with the rights that they had, or named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pvemcp.access.grants import Grants
from pvemcp.call import ApiToken
from pvemcp.errors import Invalid
from pvemcp.setup.account import AccountStep
from pvemcp.setup.backup.pve_tokens import (
    Held,
    PveTokens,
    accepted_by,
    kept_rights,
    parse_rights,
)
from pvemcp.setup.clients import Clients, Wanted
from pvemcp.setup.login import Login
from pvemcp.setup.roles import RolesStep
from tests.unit.test_setup import Bench, bench

POOL = Wanted("laptop", "operator", paths=("/pool/lab",))


async def a_client(pve: Bench) -> tuple[Held, bytes]:
    """Make a client; return its token, and the rights as a backup keeps them."""

    def make(login: Login, grants: Grants) -> tuple[Held, bytes]:
        RolesStep(login).apply()
        AccountStep(login).apply()
        grant, _ = Clients(login, grants).add(POOL)
        assert grant.token is not None
        return Held("laptop", grant.token), kept_rights(login)

    return await pve.run(make)


async def test_a_token_gets_the_same_rights_at_another_pve_and_no_more(tmp_path: Path) -> None:
    async with bench(tmp_path / "a") as old, bench(tmp_path / "b") as new:
        new.world.random.seed("another PVE")
        kept, rights = await a_client(old)
        empty = new.state()
        made: list[str] = []

        def work(login: Login, _: Grants) -> tuple[list[str], ApiToken, list[str]]:
            works = accepted_by(new.target)
            tokens = PveTokens(login, [kept], parse_rights(rights), works)
            lines = tokens.plan()
            assert new.state() == empty
            token = tokens.apply(made.append)[kept.token.id]
            assert works(token)
            assert not works(kept.token)
            assert json.loads(kept_rights(login)) == json.loads(rights)
            return lines, token, tokens.remove(made)

        lines, token, left = await new.run(work)
        assert token.id == kept.token.id
        assert token.secret != kept.token.secret
        assert made == ["pvemcp@pve!laptop"]
        assert any("a new one is made, with MCPOperator on /pool/lab" in line for line in lines)
        assert any("make the user pvemcp@pve" in line for line in lines)
        assert left == []
        assert new.state() == empty


async def test_a_token_that_pve_accepts_stays(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        kept, rights = await a_client(pve)
        before = pve.state()

        def work(login: Login, _: Grants) -> None:
            works = accepted_by(pve.target)
            tokens = PveTokens(login, [kept], parse_rights(rights), works)
            assert tokens.plan() == ["PVE accepts all tokens of the backup"]
            assert tokens.apply(lambda _: None) == {}

        await pve.run(work)
        assert pve.state() == before


async def test_a_token_of_the_same_name_that_is_somebody_elses_is_left_alone(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path / "a") as old, bench(tmp_path / "b") as new:
        new.world.random.seed("another PVE")
        kept, rights = await a_client(old)
        theirs, _ = await a_client(new)

        def work(login: Login, _: Grants) -> str:
            works = accepted_by(new.target)
            tokens = PveTokens(login, [kept], parse_rights(rights), works)
            token = tokens.apply(lambda _: None)[kept.token.id]
            assert works(theirs.token)
            return token.id

        assert await new.run(work) == "pvemcp@pve!laptop.2"


async def test_what_cannot_be_made_anew_is_named(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        kept, rights = await a_client(pve)
        wrong = [
            Held("alien", ApiToken("root@pam!x", "1")),
            Held("unknown", ApiToken("pvemcp@pve!unknown", "1")),
            replace(kept, owner="late", token=ApiToken("pvemcp@pve!late", "1")),
        ]
        known = json.loads(rights)
        known["pvemcp@pve!late"] = {"expire": 1, "entries": []}

        def work(login: Login, _: Grants) -> list[str]:
            works = accepted_by(pve.target)
            found = parse_rights(json.dumps(known).encode())
            tokens = PveTokens(login, wrong, found, works)
            assert tokens.apply(lambda _: None) == {}
            return tokens.plan()

        alien, unknown, late = await pve.run(work)
        assert "root@pam!x" in alien
        assert "not one of ours" in alien
        assert "pvemcp client add unknown" in unknown
        assert "it has expired" in late


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/", "Administrator"),
        ("/", "PVEAdmin"),
        ("/access", "MCPObserver"),
        ("/access/users", "MCPObserver"),
        ("/vms/../access", "MCPObserver"),
        ("vms", "MCPObserver"),
    ],
)
def test_rights_that_pvemcp_never_gives_are_refused(path: str, role: str) -> None:
    entry = {"path": path, "role": role, "propagate": True}
    content = json.dumps({"pvemcp@pve!x": {"expire": 0, "entries": [entry]}}).encode()
    with pytest.raises(Invalid):
        parse_rights(content)
    with pytest.raises(Invalid):
        parse_rights(content[:-3])
