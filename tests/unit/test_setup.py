"""Set-up against a simulated PVE: made, made again, taken back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pvemcp.access.grants import Grants
from pvemcp.errors import Conflict, Denied, Fault, Invalid, Missing, Unauthenticated
from pvemcp.pve.roles import PRIVILEGES
from pvemcp.setup import plan
from pvemcp.setup.access import PveAccess
from pvemcp.setup.account import USER, AccountStep
from pvemcp.setup.client_step import ClientStep
from pvemcp.setup.clients import Clients, Wanted, refuse_bad
from pvemcp.setup.door import Target
from pvemcp.setup.drift import drift
from pvemcp.setup.login import Admin, Login
from pvemcp.setup.plan import Records
from pvemcp.setup.roles import RolesStep, privileges
from pvemcp.setup.step import Step
from pvemcp.sim.http import serve
from pvemcp.sim.roles import PRIVILEGES as KNOWN
from pvemcp.sim.tickets import totp
from pvemcp.sim.world import World, make_world
from pvemcp.store import Store

T = TypeVar("T")
PASSWORD = "correct horse"
SEED = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


@dataclass
class Bench:
    """A simulated PVE over HTTPS, and a folder."""

    world: World
    target: Target
    folder: Path

    async def run(self, work: Callable[[Login, Grants], T], *, admin: str = "root@pam") -> T:
        """Do something as an administrator, as a command does: in a thread without a loop."""

        def in_thread() -> T:
            with (
                Login(self.target, Admin(admin, PASSWORD), self._code) as login,
                Store(self.folder / "state") as store,
            ):
                return work(login, Grants(store))

        return await asyncio.to_thread(in_thread)

    def _code(self, _: str) -> str:
        return totp(SEED, self.world.clock.now())

    def state(self) -> str:
        """Return all that PVE knows of accounts and rights."""
        access = self.world.access
        users = {name: (user.enable, sorted(user.tokens)) for name, user in access.users.items()}
        acl = [
            (path, *key, role, flag)
            for path, held in access.acl.items()
            for key, roles in held.items()
            for role, flag in roles.items()
        ]
        roles = {name: sorted(held) for name, held in access.custom_roles.items()}
        return json.dumps([users, sorted(acl), roles], sort_keys=True)

    def records(self) -> Records:
        return Records(self.folder / "records")


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    world = make_world("homelab")
    world.access.users["root@pam"].password = PASSWORD
    async with serve(world) as running:
        yield Bench(world, Target(running.url, fingerprint=running.fingerprint), folder)


def steps(login: PveAccess, grants: Grants, name: str = "laptop", **more: Any) -> list[Step]:
    known = any(grant.name == name for grant in grants.list())
    client = ClientStep(Clients(login, grants), Wanted(name, **more), known=known)
    return [RolesStep(login), AccountStep(login), client]


def finder(login: Login, grants: Grants) -> Callable[[str], Step]:
    return lambda name: next(one for one in steps(login, grants) if one.name == name)


async def test_it_is_made_once_and_taken_back_to_the_byte(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        before = pve.state()
        said: list[str] = []
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), said.append))
        assert said == ["roles in PVE", "account in PVE", "client laptop"]
        made = pve.state()
        again = await pve.run(lambda *at: plan.planned(steps(*at), pve.records()))
        assert again == []
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), said.append))
        assert pve.state() == made
        await pve.run(lambda *at: plan.undo(finder(*at), pve.records(), said.append))
        assert pve.state() == before
        assert not pve.records().path.exists()


async def test_a_client_can_do_what_its_role_says_and_nothing_on_access(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        await pve.run(lambda *at: plan.apply(steps(*at, kind="admin"), pve.records(), print))
        access = pve.world.access
        who = access.identity(f"{USER}!laptop")
        assert access.allows(who, "/vms/100", ["VM.PowerMgmt", "VM.Allocate"])
        assert access.allows(who, "/", ["Sys.Console"])
        for path in ("/nodes/pve1", "/vms", "/storage"):
            assert not access.allows(who, path, ["Sys.Console", "Permissions.Modify"], any_of=True)
        assert not access.allows(who, "/storage/local", ["Datastore.Allocate"])
        for path in ("/access", "/access/groups", "/access/realm"):
            assert dict(access.privileges(who, path)) == {}
            assert dict(access.privileges(access.identity(USER), path)) == {}


@pytest.mark.parametrize("role", PRIVILEGES)
def test_no_role_holds_a_way_to_more_rights(role: str) -> None:
    deadly = {
        "Permissions.Modify", "User.Modify", "Realm.Allocate", "Group.Allocate",
        "Mapping.Modify", "Sys.Incoming", "Datastore.Allocate",
    }  # fmt: skip
    assert not PRIVILEGES[role] & deadly


def test_the_roles_fit_pve_8_and_pve_9() -> None:
    eight = frozenset(
        {name for name in KNOWN if not name.startswith("VM.GuestAgent") and name != "VM.Replicate"}
        | {"VM.Monitor"}
    )
    assert "VM.GuestAgent.Audit" in privileges("MCPObserver", KNOWN)
    assert privileges("MCPObserver", eight) <= eight
    assert "VM.Monitor" not in privileges("MCPAdmin", eight)
    assert privileges("MCPGuests", eight) == {"VM.Monitor"}
    assert "VM.Monitor" not in privileges("MCPGuests", KNOWN | {"VM.Monitor"})


class Killed(BaseException):
    """The process is gone."""


class Dying:
    """A login whose process is killed at a certain write."""

    def __init__(self, login: Login, writes: int) -> None:
        self.who = login.who
        self._login, self._left = login, writes

    def get(self, path: str, /, **params: Any) -> Any:
        return self._login.get(path, **params)

    def post(self, path: str, /, **params: Any) -> Any:
        return self._write(self._login.post, path, params)

    def put(self, path: str, /, **params: Any) -> Any:
        return self._write(self._login.put, path, params)

    def delete(self, path: str, /, **params: Any) -> Any:
        return self._write(self._login.delete, path, params)

    def _write(self, verb: Callable[..., Any], path: str, params: dict[str, Any]) -> Any:
        if self._left == 0:
            raise Killed
        self._left -= 1
        return verb(path, **params)


async def test_a_step_that_was_killed_half_way_is_done_again_from_its_start(
    tmp_path: Path,
) -> None:
    async with bench(tmp_path) as pve:
        before, died, writes = pve.state(), True, -1

        def killed(login: Login, grants: Grants) -> bool:
            try:
                plan.apply(steps(Dying(login, writes), grants), pve.records(), print)
            except Killed:
                return True
            return False

        while died:
            writes += 1
            died = await pve.run(killed)
            if writes % 2:  # half of the times it is gone on with first
                await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
            await pve.run(lambda *at: plan.undo(finder(*at), pve.records(), print))
            assert pve.state() == before, writes
        assert 8 < writes < 30


async def test_a_client_that_cannot_be_kept_leaves_no_token_behind(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
        before = pve.state()

        def twice(login: Login, grants: Grants) -> None:
            Clients(login, grants).add(Wanted("laptop"))

        with pytest.raises(Conflict, match="laptop"):
            await pve.run(twice)
        del pve.world.access.custom_roles["MCPAdmin"]

        def unknown_role(login: Login, grants: Grants) -> None:
            Clients(login, grants).add(Wanted("ci", "admin"))

        with pytest.raises(Missing):
            await pve.run(unknown_role)
        pve.world.access.custom_roles["MCPAdmin"] = PRIVILEGES["MCPAdmin"]
        assert pve.state() == before


@pytest.mark.parametrize(
    "bad",
    [
        Wanted("a!b"), Wanted("x.2"), Wanted("A"), Wanted("root@pam"), Wanted("-x"),
        Wanted("ok", paths=("/access",)), Wanted("ok", paths=("/access/users",)),
        Wanted("ok", paths=("vms",)), Wanted("ok", paths=("/vms/../access",)),
    ],
)  # fmt: skip
def test_names_and_paths_that_cannot_be_are_refused(bad: Wanted) -> None:
    with pytest.raises(Invalid):
        refuse_bad(bad)


async def test_rotation_has_no_gap_and_ends(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
        access = pve.world.access
        with Store(tmp_path / "state") as store:
            grants = Grants(store)
            _, one = await pve.run(lambda login, book: Clients(login, book).rotate("laptop"))
            first = grants.authenticate(one)
            assert first is not None
            assert first.token is not None
            assert first.token.id == f"{USER}!laptop.2"
            _, two = await pve.run(lambda login, book: Clients(login, book).rotate("laptop"))
            for secret in (one, two):
                found = grants.authenticate(secret)
                assert found is not None
                assert found.token_id == f"{USER}!laptop.3"
            who = access.identity(f"{USER}!laptop.3")
            assert access.allows(who, "/vms/100", ["VM.PowerMgmt"])
            assert dict(access.privileges(who, "/access")) == {}
            assert sorted(access.users[USER].tokens) == ["laptop.2", "laptop.3"]
            assert access.users[USER].tokens["laptop.2"].expire > pve.world.clock.now()
            await pve.run(lambda login, book: Clients(login, book).finish("laptop"))
            assert grants.authenticate(one) is None
            assert grants.authenticate(two) is not None
            assert sorted(access.users[USER].tokens) == ["laptop.3"]
            _, three = await pve.run(
                lambda login, book: Clients(login, book).rotate("laptop", grace=0)
            )
            assert grants.authenticate(two) is None
            assert grants.authenticate(three) is not None
            assert sorted(access.users[USER].tokens) == ["laptop.4"]


async def test_the_list_tells_what_either_half_lacks(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))

        def three(login: Login, book: Grants) -> None:
            for wanted in (Wanted("gone"), Wanted("old"), Wanted("lost", "observer")):
                Clients(login, book).add(wanted)

        await pve.run(three)
        tokens = pve.world.access.users[USER].tokens
        del tokens["gone"]
        tokens["old"].expire = 1

        def listed(login: Login, book: Grants) -> dict[str, str]:
            book.revoke("lost")
            return {row.name: row.state for row in Clients(login, book).rows()}

        assert await pve.run(listed) == {
            "laptop": "ok", "gone": "missing in PVE", "old": "expired in PVE",
            "lost": "no grant here",
        }  # fmt: skip
        await pve.run(lambda login, book: Clients(login, book).revoke("lost"))
        assert "lost" not in tokens


async def test_a_role_that_nobody_has_any_more_is_taken_from_the_account(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
        before = pve.state()
        more = Wanted("boss", "admin", paths=("/", "/pool/lab"), guests=True)
        await pve.run(lambda login, book: Clients(login, book).add(more))
        assert pve.world.access.allows(pve.world.access.identity(USER), "/", ["Sys.Modify"])
        await pve.run(lambda login, book: Clients(login, book).revoke("boss"))
        assert pve.state() == before


async def test_a_login_needs_the_right_password_and_second_factor(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        pve.world.add_user("eve@pve", password="something else")
        with pytest.raises(Unauthenticated):
            await pve.run(lambda *_: None, admin="eve@pve")
        pve.world.add_user("ann@pve", password=PASSWORD, totp=SEED)
        pve.world.grant("/", "ann@pve", "Administrator")
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print), admin="ann@pve")
        assert USER in pve.world.access.users


async def test_an_administrator_without_rights_is_told_which(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        pve.world.add_user("bob@pve", password=PASSWORD)
        pve.world.grant("/", "bob@pve", "PVEAuditor")
        before = pve.state()
        with pytest.raises(Denied, match=r"Sys\.Modify") as refused:
            await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print), admin="bob@pve")
        assert ". Nothing was done before. Run the same command again" in refused.value.hint
        await pve.run(lambda *at: plan.undo(finder(*at), pve.records(), print))
        assert pve.state() == before


async def test_no_token_and_no_unknown_certificate_is_worked_with(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:
        with pytest.raises(Invalid, match="USER@REALM"):
            await pve.run(lambda *_: None, admin="root@pam!mcp")
        pve.target = Target(pve.target.url)
        with pytest.raises(Fault, match="not trusted"):
            await pve.run(lambda *_: None)
        pve.target = Target(pve.target.url, fingerprint="AB:" * 31 + "AB")
        with pytest.raises(Fault, match="another certificate"):
            await pve.run(lambda *_: None)


async def test_what_somebody_changed_in_pve_is_found_and_set_up_repairs_it(tmp_path: Path) -> None:
    async with bench(tmp_path) as pve:

        def look(login: Login, grants: Grants) -> dict[str, tuple[bool, str]]:
            found = drift(login, grants)
            return {check.message: (check.ok, check.repair) for check in found if check.repair}

        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
        assert await pve.run(look) == {}
        world = pve.world
        user = world.access.users[USER]
        world.add_role("MCPObserver", "Sys.Audit", "Permissions.Modify")
        user.tokens["laptop"].privsep = False
        world.grant("/access/groups", f"{USER}!laptop", "PVEUserAdmin")
        world.access.revoke("/access", USER, "NoAccess", kind="user")
        found = await pve.run(look)
        for expected in (
            "-Permissions.Modify",
            "privilege separation",
            "PVEUserAdmin",
            "NoAccess on /access",
        ):
            assert any(expected in message for message in found), found
        await pve.run(lambda *at: plan.apply(steps(*at), pve.records(), print))
        left = await pve.run(look)
        assert len(left) == 2
        assert all("pveum" in repair for _, repair in left.values())
        user.enable = False
        assert any("disabled" in message for message in await pve.run(look))
