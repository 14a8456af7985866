"""The clients that a cluster shares: written by root, taken over by the services."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pvemcp.access.grants import Grants
from pvemcp.access.shared import LAG, Shared, SharedClient, SharedClients, encode, parse
from pvemcp.call import ApiToken, Effect
from pvemcp.errors import Conflict, Denied, Invalid, Misconfigured, Missing, Unavailable
from pvemcp.settings import Settings
from pvemcp.setup.shared_book import SharedBook, book
from pvemcp.store import Store

TOKEN = ApiToken("pvemcp@pve!laptop", "11111111-2222-3333-4444-555555555555")
CLIENT = SharedClient(
    id="0123456789abcdef",
    name="laptop",
    hash="ab" * 32,
    ceiling="change",
    created=1.5,
    expires=None,
    token_id=TOKEN.id,
    token_secret=TOKEN.secret,
)


@dataclass
class Node:
    """A node's database, and its copy of the file."""

    store: Store
    file: Path
    grants: Grants = field(init=False)
    shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self.grants = Grants(self.store)
        self.shared = Shared(self.store, self.file, self.grants.forget)

    def shows(self, content: bytes) -> None:
        """The mirror has copied a file, and the service looks."""
        new = self.file.with_suffix(".new")
        new.write_bytes(content)
        new.replace(self.file)
        self.shared.look()

    def names(self) -> list[str]:
        return [grant.name for grant in self.grants.list()]


@dataclass
class Place:
    """A cluster of two nodes; commands are run as root of the first."""

    pve: Path
    here: Node
    there: Node

    @property
    def book(self) -> SharedBook:
        return SharedBook(self.pve, self.here.grants, self.here.store)

    @property
    def path(self) -> Path:
        return self.pve / "priv" / "pvemcp" / "clients.json"

    def copy(self) -> None:
        """Let the other node's mirror copy the file."""
        self.there.shows(self.path.read_bytes())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Two nodes, and a folder that stands for /etc/pve."""
    pve = tmp_path / "pve"
    for folder in ("local", "priv/lock", "nodes/one", "nodes/two"):
        (pve / folder).mkdir(parents=True)
    with Store(tmp_path / "one") as one, Store(tmp_path / "two") as two:
        yield Place(pve, Node(one, tmp_path / "one.json"), Node(two, tmp_path / "two.json"))


def test_a_client_made_on_one_node_works_on_the_other(place: Place) -> None:
    made, secret = place.book.create("laptop", Effect.CHANGE, token=TOKEN)
    assert place.here.grants.authenticate(secret)
    assert place.there.grants.authenticate(secret) is None
    place.copy()
    found = place.there.grants.authenticate(secret)
    assert found is not None
    assert (found.id, found.name, found.ceiling) == (made.id, "laptop", Effect.CHANGE)
    assert found.token == TOKEN
    assert place.there.grants.shared(made.id) is not None


def test_a_client_revoked_on_one_node_is_refused_on_the_other(place: Place) -> None:
    made, secret = place.book.create("laptop", Effect.READ)
    place.copy()
    assert place.there.grants.authenticate(secret)
    assert place.book.revoke("laptop").id == made.id
    assert place.here.grants.authenticate(secret) is None
    place.copy()
    assert place.there.grants.authenticate(secret) is None
    assert place.there.grants.shared(made.id) is None
    assert parse(place.path.read_bytes()).clients == ()


def test_rotation_leaves_no_gap_on_either_node(place: Place) -> None:
    _, old = place.book.create("laptop", Effect.READ, token=TOKEN)
    other = ApiToken("pvemcp@pve!laptop.2", "99999999-2222-3333-4444-555555555555")
    made, new = place.book.rotate("laptop", grace=60, token=other)
    place.copy()
    for node in (place.here, place.there):
        assert node.grants.authenticate(old)
        found = node.grants.authenticate(new)
        assert found is not None
        assert found.token == made.token == other
    place.book.end_previous("laptop")
    place.copy()
    assert place.there.grants.authenticate(old) is None
    assert place.there.grants.authenticate(new)
    _, newest = place.book.rotate("laptop", grace=0)
    place.copy()
    assert place.there.grants.authenticate(new) is None
    assert place.there.grants.authenticate(newest)


def test_grants_of_one_node_alone_stay_as_they_are(place: Place) -> None:
    _, secret = place.there.grants.create("local", Effect.READ)
    _, mine = place.here.grants.create("mine", Effect.READ)
    place.book.create("laptop", Effect.READ)
    place.copy()
    assert place.there.grants.authenticate(secret)
    assert [grant.name for grant in place.book.list()] == ["laptop", "mine"]
    _, renewed = place.book.rotate("mine", grace=0)
    assert place.here.grants.authenticate(mine) is None
    assert place.here.grants.authenticate(renewed)
    place.book.revoke("mine")
    assert place.here.names() == ["laptop"]
    place.book.revoke("laptop")
    place.copy()
    assert place.there.names() == ["local"]


def test_a_name_that_one_node_uses_already_locks_nobody_out(place: Place) -> None:
    _, own = place.there.grants.create("laptop", Effect.READ)
    made, secret = place.book.create("laptop", Effect.CHANGE)
    place.copy()
    assert place.there.names() == ["laptop", "laptop@cluster"]
    assert place.there.grants.authenticate(own)
    found = place.there.grants.authenticate(secret)
    assert found is not None
    assert found.id == made.id
    place.there.grants.revoke("laptop")
    place.copy()
    assert place.there.names() == ["laptop"]


def test_a_shared_client_is_not_changed_in_one_database_alone(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    for change in (place.here.grants.revoke, place.here.grants.end_previous):
        with pytest.raises(Denied, match="client of the whole cluster"):
            change("laptop")
    with pytest.raises(Denied, match="client of the whole cluster"):
        place.here.grants.rotate("laptop", grace=0)
    assert place.here.grants.authenticate(secret)


def test_last_used_stays_where_it_was_used(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    place.copy()
    place.there.grants.authenticate(secret)
    place.book.create("other", Effect.READ)
    place.copy()
    assert place.there.grants.named("laptop").last_used is not None
    assert place.book.named("laptop").last_used is None


DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "cut": encode(SharedClients(1, (CLIENT,)))[:-40],
    "not JSON": b"\0\xff",
    "nested": b"[" * 100_000,
    "a list": b"[]",
    "no serial": b'{"format": 1, "clients": []}',
    "no clients": b'{"format": 1}',
    "another format": b'{"format": 2, "serial": 1, "clients": []}',
    "too large": b'{"format": 1, "serial": 1, "clients": []}' + b" " * (1 << 20),
    "twice the same": encode(
        SharedClients(1, (CLIENT, replace(CLIENT, id="f" * 16, hash="cd" * 32)))
    ),
}
WRONG: dict[str, Any] = {
    "id": "../../x",
    "name": "A B",
    "hash": "ab",
    "ceiling": "root",
    "created": "now",
    "expires": True,
    "token_id": "nobody",
    "token_secret": None,
    "previous_hash": 7,
    "previous_until": -1,
}
for name, value in WRONG.items():
    row = json.loads(encode(SharedClients(1, (CLIENT,))))
    row["clients"][0][name] = value
    DAMAGED[f"a wrong {name}"] = json.dumps(row).encode()


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_changes_nothing_and_is_told(place: Place, content: bytes) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    place.copy()
    place.there.shows(content)
    assert "damaged" in place.there.shared.problem
    assert "stay in force" in place.there.shared.problem
    assert place.there.grants.authenticate(secret)
    assert place.there.names() == ["laptop"]
    place.path.write_bytes(content)
    with pytest.raises(Misconfigured, match="damaged"):
        place.book.create("more", Effect.READ)
    assert place.path.read_bytes() == content


def test_a_missing_file_changes_nothing_and_a_whole_one_counts_again(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    place.copy()
    place.there.file.unlink()
    place.there.shared.look()
    assert "stay as they were" in place.there.shared.problem
    assert place.there.grants.authenticate(secret)
    place.book.revoke("laptop")
    place.copy()
    assert place.there.shared.problem == ""
    assert place.there.grants.authenticate(secret) is None


def test_a_start_without_the_file_knows_the_clients(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    place.copy()
    place.there.file.unlink()
    again = Node(place.there.store, place.there.file)
    again.shared.look()
    assert again.grants.authenticate(secret)


def test_a_node_that_shares_nothing_has_no_problem(place: Place) -> None:
    place.there.shared.look()
    assert place.there.shared.problem == ""


def test_a_copy_that_lags_behind_brings_nobody_back(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    old = place.path.read_bytes()
    place.book.revoke("laptop")
    place.here.shows(old)
    assert place.here.grants.authenticate(secret) is None
    place.here.shows(place.path.read_bytes())
    assert place.here.grants.authenticate(secret) is None


def test_an_older_file_that_stays_is_a_restore(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ)
    old = place.path.read_bytes()
    place.book.revoke("laptop")
    place.here.shows(old)
    place.here.shared._older_since -= LAG
    place.here.shared.look()
    assert place.here.grants.authenticate(secret)


def test_names_may_pass_from_one_client_to_another(place: Place) -> None:
    other = replace(CLIENT, id="f" * 16, name="phone", hash="cd" * 32)
    place.there.shows(encode(SharedClients(1, (CLIENT, other))))
    swapped = (replace(CLIENT, name="phone"), replace(other, name="laptop"))
    place.there.shows(encode(SharedClients(2, swapped)))
    assert {grant.id: grant.name for grant in place.there.grants.list()} == {
        CLIENT.id: "phone",
        other.id: "laptop",
    }


def test_the_file_holds_no_secret_of_a_client(place: Place) -> None:
    _, secret = place.book.create("laptop", Effect.READ, token=TOKEN)
    text = place.path.read_text()
    assert secret not in text
    assert secret.removeprefix("pvemcp_") not in text
    assert place.path.stat().st_mode & 0o777 == 0o600
    assert place.path.parent.stat().st_mode & 0o777 == 0o700
    assert [each.name for each in place.path.parent.iterdir()] == ["clients.json"]


def test_a_node_alone_keeps_no_empty_list(place: Place) -> None:
    (place.pve / "nodes" / "two").rmdir()
    _, secret = place.book.create("laptop", Effect.READ)
    place.book.revoke("laptop")
    assert not place.path.parent.exists()
    assert place.here.grants.authenticate(secret) is None
    place.here.shared.look()
    assert place.here.shared.problem == ""


def test_two_commands_at_once_lose_nothing(place: Place, tmp_path: Path) -> None:
    def add(first: str) -> None:
        with Store(tmp_path / first) as store:
            mine = SharedBook(place.pve, Grants(store), store)
            for number in range(5):
                mine.create(f"{first}{number}", Effect.READ)

    threads = [threading.Thread(target=add, args=(first,)) for first in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parse(place.path.read_bytes()).clients) == 10
    assert list((place.pve / "priv" / "lock").iterdir()) == []


def test_a_lock_that_somebody_holds_is_told(place: Place) -> None:
    (place.pve / "priv" / "lock" / "pvemcp-clients").mkdir()
    with pytest.raises(Conflict, match="another command changes"):
        replace(place.book, patience=0.1).create("laptop", Effect.READ)
    assert not place.path.exists()


def test_without_the_clusters_file_system_nothing_is_written_elsewhere(place: Place) -> None:
    (place.pve / "local").rmdir()
    for attempt in (place.book.list, lambda: place.book.create("laptop", Effect.READ)):
        with pytest.raises(Unavailable, match="not mounted"):
            attempt()
    assert place.here.names() == []


def test_what_is_not_there_or_too_much_is_refused(place: Place) -> None:
    place.book.create("laptop", Effect.READ)
    with pytest.raises(Conflict, match="laptop exists"):
        place.book.create("laptop", Effect.READ)
    with pytest.raises(Missing, match="No grant is named lap"):
        place.book.revoke("lap")
    with pytest.raises(Invalid, match="7 more days"):
        place.book.rotate("laptop", grace=1e9)
    with pytest.raises(Invalid, match="cannot name"):
        place.book.create("A B", Effect.READ)
    with pytest.raises(Invalid, match="expired already"):
        place.book.create("late", Effect.READ, expires=-1)


def test_an_expired_client_is_refused_everywhere(place: Place) -> None:
    made, secret = place.book.create("laptop", Effect.READ, expires=1000)
    place.copy()
    assert place.there.grants.authenticate(secret)
    late = Grants(place.there.store, clock=lambda: time.time() + 1001)
    assert late.authenticate(secret) is None
    assert late.shared(made.id) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes to /etc/pve")
def test_only_the_service_of_a_pve_host_shares(place: Place, tmp_path: Path) -> None:
    find: Callable[..., object] = book
    assert isinstance(find(place.here.store, Settings(), place.pve), SharedBook)
    assert isinstance(find(place.here.store, Settings(), tmp_path / "none"), Grants)
    elsewhere = Settings(state_dir=tmp_path)
    assert isinstance(find(place.here.store, elsewhere, place.pve), Grants)
