"""Grants: making, using, revoking, expiring."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.access.grants import SECRET_FORMAT, Grants
from pvemcp.access.policy import permit, visible
from pvemcp.call import ApiToken, Call, Effect, Principal, Verdict
from pvemcp.errors import Conflict, Denied, Invalid, Missing
from pvemcp.store import Store

TOKEN = ApiToken("mcp@pve!laptop", "0123-secret")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_the_secret_opens_the_grant_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        grant, secret = grants.create("laptop", Effect.CHANGE)
        assert SECRET_FORMAT.fullmatch(secret)
        assert grants.authenticate(secret) == grant
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret.encode() not in content


def test_a_wrong_secret_opens_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        _, secret = grants.create("laptop", Effect.READ)
        for wrong in (
            "",
            secret[:-1],
            secret + "A",
            "pvemcp_" + "A" * 43,
            "pvemcp_ä",
            secret.upper(),
        ):
            assert grants.authenticate(wrong) is None


def test_a_grant_carries_its_own_pve_token_and_never_shows_its_secret(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        _, secret = grants.create("laptop", Effect.READ, token=TOKEN)
        found = grants.authenticate(secret)
        assert found is not None
        assert found.token == TOKEN
        assert found.token_id == TOKEN.id
        assert TOKEN.secret not in repr(found)
        assert TOKEN.secret not in repr(grants.list())


def test_a_revoke_by_another_process_counts_from_the_next_request(tmp_path: Path) -> None:
    with Store(tmp_path) as service, Store(tmp_path) as command_line:
        grants = Grants(service)
        _, secret = Grants(command_line).create("laptop", Effect.READ)
        assert grants.authenticate(secret) is not None
        Grants(command_line).revoke("laptop")
        assert grants.authenticate(secret) is None


def test_a_revoke_wipes_the_pve_token_from_the_file(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        grants.create("laptop", Effect.READ, token=TOKEN)
        grants.revoke("laptop")
    assert TOKEN.secret.encode() not in (tmp_path / "pvemcp.db").read_bytes()


def test_an_expired_grant_is_refused_and_still_listed(tmp_path: Path) -> None:
    clock = Clock()
    with Store(tmp_path) as store:
        grants = Grants(store, clock=clock)
        _, secret = grants.create("laptop", Effect.READ, expires=60)
        clock.now += 59.9
        assert grants.authenticate(secret) is not None
        clock.now += 0.1
        assert grants.authenticate(secret) is None
        assert grants.list()[0].has_expired(clock.now)


def test_the_last_use_is_written_at_most_once_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    with Store(tmp_path) as store, Store(tmp_path) as reader:
        grants = Grants(store, clock=clock)
        _, secret = grants.create("laptop", Effect.READ)
        seen = []
        for _ in range(5):
            grants.authenticate(secret)
            seen.append(Grants(reader).list()[0].last_used)
            clock.now += 20
        assert seen == [1_000_000.0] * 3 + [1_000_060.0] * 2


def test_a_locked_database_locks_nobody_out(tmp_path: Path) -> None:
    with Store(tmp_path) as store, Store(tmp_path) as other:
        grants = Grants(store)
        _, secret = grants.create("laptop", Effect.READ)
        other.write("BEGIN IMMEDIATE")
        assert grants.authenticate(secret) is not None
        other.write("ROLLBACK")


def test_a_name_that_exists_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        grants.create("laptop", Effect.READ)
        with pytest.raises(Conflict, match="pvemcp grant revoke laptop"):
            grants.create("laptop", Effect.DESTROY)
        assert [grant.ceiling for grant in grants.list()] == [Effect.READ]


@pytest.mark.parametrize("name", ["", "Laptop", "-a", "a b", "a" * 65, "a\n", "ä", "../x"])
def test_a_name_that_reads_badly_is_refused(tmp_path: Path, name: str) -> None:
    with Store(tmp_path) as store, pytest.raises(Invalid):
        Grants(store).create(name, Effect.READ)


def test_revoking_an_unknown_name_offers_the_nearest(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)
        with pytest.raises(Missing, match="There are no grants"):
            grants.revoke("laptop")
        grants.create("laptop", Effect.READ)
        with pytest.raises(Missing, match="Did you mean laptop"):
            grants.revoke("latpop")


def test_any_text_is_refused_quietly(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        grants = Grants(store)

        @given(st.text() | st.from_regex(SECRET_FORMAT))
        def refused(text: str) -> None:
            assert grants.authenticate(text) is None

        refused()


def call(ceiling: Effect, grant: str = "1") -> Call:
    return Call(Principal("laptop", ceiling, TOKEN, grant), "api_destroy", {})


@pytest.mark.parametrize("ceiling", Effect)
@pytest.mark.parametrize("effect", Effect)
def test_a_step_is_allowed_up_to_the_ceiling_and_no_further(
    ceiling: Effect, effect: Effect
) -> None:
    assert visible(call(ceiling).principal, effect) == (effect <= ceiling)
    if effect <= ceiling:
        assert permit(call(ceiling), "POST", "/x", effect) is Verdict.ALLOW
        return
    with pytest.raises(Denied) as caught:
        permit(call(ceiling), "DELETE", "/nodes/pve1/qemu/100", effect)
    message = str(caught.value)
    assert f"effect {effect}" in message
    assert f"ceiling {ceiling}" in message
    assert f"pvemcp grant create NAME --ceiling {effect}" in message


def test_a_denied_local_client_is_told_the_option_of_stdio() -> None:
    with pytest.raises(Denied, match="pvemcp stdio --ceiling destroy"):
        permit(call(Effect.READ, grant=""), "DELETE", "/x", Effect.DESTROY)
