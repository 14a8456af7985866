"""What the mirror copies, and what it refuses to."""

from __future__ import annotations

import ast
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pvemcp.host import mirror
from pvemcp.host.mirror import GRACE, LIMIT, Mirror
from tests.unit.certificates import certificate

NAMES = ("tls.pem", "peer.pem", "ca.crt", "clients.json", "members.json")


@dataclass(frozen=True)
class Place:
    """A host's files. `pve` stands for /etc/pve."""

    pve: Path
    out: Path
    kept: Path
    spare: Path

    @property
    def local(self) -> Path:
        return self.pve / "nodes" / "pve1"

    @property
    def clients(self) -> Path:
        return self.pve / "priv" / "pvemcp" / "clients.json"

    def pair(self, stem: Path) -> bytes:
        """Make a new pair, and return how it is shown."""
        made = certificate(self.spare, days=1)
        for path, end in zip(made, (".pem", ".key"), strict=True):
            path.replace(stem.with_suffix(end))
        return stem.with_suffix(".key").read_bytes() + stem.with_suffix(".pem").read_bytes()

    def start(self) -> Mirror:
        found = Mirror(self.pve, self.out, self.kept)
        found.look()
        return found

    def shown(self, name: str = "tls.pem") -> bytes | None:
        path = self.out / name
        return path.read_bytes() if path.exists() else None

    def unmount(self) -> None:
        """Let it look as while pmxcfs does not run."""
        self.pve.rename(self.pve.with_name("away"))
        self.pve.mkdir()

    def mount(self) -> None:
        self.pve.rmdir()
        self.pve.with_name("away").rename(self.pve)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    os.umask(0o022)
    made = Place(*(tmp_path / name for name in ("pve", "out", "kept", "spare")))
    for folder in (made.local, made.clients.parent, made.out, made.kept, made.spare):
        folder.mkdir(parents=True)
    (made.pve / "local").symlink_to("nodes/pve1")
    return made


def test_the_clusters_certificate_is_shown_under_both_names(place: Place) -> None:
    made = place.pair(place.local / "pve-ssl")
    place.start()
    assert [place.shown(name) for name in ("tls.crt", "tls.key", "peer.crt", "peer.key")] == [
        made
    ] * 4
    assert stat.S_IMODE((place.out / "tls.pem").stat().st_mode) == 0o640


def test_a_custom_certificate_goes_before_the_clusters(place: Place) -> None:
    cluster = place.pair(place.local / "pve-ssl")
    custom = place.pair(place.local / "pveproxy-ssl")
    watching = place.start()
    assert (place.shown(), place.shown("peer.pem")) == (custom, cluster)
    for end in (".pem", ".key"):
        (place.local / f"pveproxy-ssl{end}").unlink()
    watching.look()
    assert place.shown() == cluster


def test_a_renewal_of_both_files_is_never_shown_half(place: Place) -> None:
    place.pair(place.local / "pve-ssl")
    before = place.pair(place.local / "pveproxy-ssl")
    watching = place.start()
    after = place.pair(place.spare / "new")
    (place.spare / "new.pem").replace(place.local / "pveproxy-ssl.pem")
    watching.look()
    assert place.shown() == before
    (place.spare / "new.key").replace(place.local / "pveproxy-ssl.key")
    watching.look()
    assert place.shown() == after


def test_a_custom_pair_that_stays_broken_gives_way_to_the_clusters(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = place.pair(place.local / "pve-ssl")
    custom = place.pair(place.local / "pveproxy-ssl")
    watching = place.start()
    (place.local / "pveproxy-ssl.key").unlink()
    for _ in range(GRACE):
        watching.look()
        assert place.shown() == custom
    for _ in range(2 * GRACE):
        watching.look()
        assert place.shown() == cluster
    assert capsys.readouterr().err.count("one of .pem and .key is missing") == 2


def test_a_broken_custom_pair_is_no_obstacle_to_the_first_start(place: Place) -> None:
    cluster = place.pair(place.local / "pve-ssl")
    place.pair(place.local / "pveproxy-ssl")
    (place.local / "pveproxy-ssl.pem").write_text("junk")
    place.start()
    assert place.shown() == cluster


@pytest.mark.parametrize("broken", ["pve-ssl.pem", "pve-ssl.key"])
def test_a_truncated_pair_keeps_the_last_one_for_ever(place: Place, broken: str) -> None:
    before = place.pair(place.local / "pve-ssl")
    place.pair(place.kept / "self-signed")
    watching = place.start()
    file = place.local / broken
    file.write_bytes(file.read_bytes()[:-60])
    for _ in range(2 * GRACE):
        watching.look()
    assert (place.shown(), place.shown("peer.pem")) == (before, before)


def test_a_key_with_a_password_is_refused_and_not_asked_for(place: Place) -> None:
    cert, key = certificate(place.spare, days=1, password=b"x")
    cert.replace(place.local / "pve-ssl.pem")
    key.replace(place.local / "pve-ssl.key")
    place.start()
    assert place.shown() is None


def test_a_host_without_any_gets_the_self_signed_one_until_it_has(place: Place) -> None:
    made = place.pair(place.kept / "self-signed")
    watching = place.start()
    assert (place.shown(), place.shown("peer.pem")) == (made, None)
    renewed = place.pair(place.kept / "self-signed")
    watching.look()
    assert place.shown() == renewed
    cluster = place.pair(place.local / "pve-ssl")
    watching.look()
    assert place.shown() == cluster


@pytest.mark.parametrize("restarted", [False, True])
def test_while_etc_pve_is_away_everything_stays(place: Place, restarted: bool) -> None:
    place.pair(place.kept / "self-signed")
    place.pair(place.local / "pve-ssl")
    (place.pve / "pve-root-ca.pem").write_bytes((place.local / "pve-ssl.pem").read_bytes())
    place.clients.write_text("{}")
    (place.pve / ".members").write_text("{}")
    watching = place.start()
    before = [place.shown(name) for name in NAMES]
    assert None not in before
    place.unmount()
    if restarted:
        watching = place.start()
    watching.look()
    assert [place.shown(name) for name in NAMES] == before
    place.mount()
    place.clients.write_text('{"new": 1}')
    watching.look()
    assert place.shown("clients.json") == b'{"new": 1}'


def test_the_nodes_of_the_cluster_are_shown(place: Place) -> None:
    mirror = place.start()
    assert place.shown("members.json") is None
    (place.pve / ".members").write_text('{"nodename": "pve1", "version": 0}')
    mirror.look()
    assert place.shown("members.json") == b'{"nodename": "pve1", "version": 0}'


def test_a_removed_list_of_clients_is_removed_here_too(place: Place) -> None:
    place.clients.write_text("{}")
    watching = place.start()
    assert place.shown("clients.json") == b"{}"
    place.clients.unlink()
    watching.look()
    assert place.shown("clients.json") is None


def _link(path: Path) -> None:
    path.with_name("elsewhere").write_text("{}")
    path.symlink_to("elsewhere")


def _writable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o666)


def _huge(path: Path) -> None:
    path.write_bytes(b'"' + b"x" * LIMIT + b'"')


def _deep(path: Path) -> None:
    path.write_bytes(b"[" * (LIMIT // 2))


_HOSTILE = {
    "link": _link,
    "writable": _writable,
    "huge": _huge,
    "deep": _deep,
    "truncated": lambda path: path.write_text('{"a": '),
    "binary": lambda path: path.write_bytes(b"\xff\0"),
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("make", _HOSTILE.values(), ids=_HOSTILE.keys())
def test_what_is_not_a_whole_file_of_root_keeps_the_last_copy(place: Place, make: object) -> None:
    place.clients.write_text("{}")
    watching = place.start()
    place.clients.unlink()
    assert callable(make)
    make(place.clients)
    watching.look()
    assert place.shown("clients.json") == b"{}"


def test_a_folder_that_others_can_write_is_refused(place: Place) -> None:
    place.out.chmod(0o770)
    with pytest.raises(SystemExit, match="only root can write"):
        place.start()
    place.out.chmod(0o750)
    link = place.out.with_name("link")
    link.symlink_to(place.out)
    with pytest.raises(SystemExit, match="only root can write"):
        Mirror(place.pve, link, place.kept)


def test_a_copy_that_cannot_be_written_is_tried_again(place: Place) -> None:
    watching = place.start()
    (place.out / ".clients.json.new").mkdir()
    place.clients.write_text("{}")
    watching.look()
    assert place.shown("clients.json") is None
    (place.out / ".clients.json.new").rmdir()
    watching.look()
    assert place.shown("clients.json") == b"{}"


def test_an_authority_is_copied_when_it_is_one(place: Place) -> None:
    root = place.pve / "pve-root-ca.pem"
    root.write_text("junk")
    watching = place.start()
    assert place.shown("ca.crt") is None
    made, _ = certificate(place.spare, days=1)
    made.replace(root)
    watching.look()
    assert place.shown("ca.crt") == root.read_bytes()


def test_it_imports_the_standard_library_only_and_starts_nothing() -> None:
    text = Path(mirror.__file__).read_text()
    nodes = list(ast.walk(ast.parse(text)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
    assert not names & {"subprocess", "multiprocessing", "http", "urllib"}
    assert text.count("\n") < 200
