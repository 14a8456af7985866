"""The root side of a change that must be confirmed: what is kept, put back, and let stand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pvemcp.host import commit
from pvemcp.host.commit import KINDS, Host, files_of, main

INTERFACES = "etc/network/interfaces"


@dataclass
class Place:
    """A host in a temporary folder; programs are only noted."""

    root: Path
    ran: list[list[str]] = field(default_factory=list)
    code: int = 0
    timers: set[str] = field(default_factory=set)
    waited: list[float] = field(default_factory=list)

    def pause(self, seconds: float) -> None:
        self.waited.append(seconds)

    def run(self, argv: Sequence[str]) -> int:
        match list(argv):
            case ["systemctl", "--quiet", "is-active", timer]:
                return 0 if timer in self.timers else 3
            case ["systemd-run", *options]:
                unit = next(word for word in options if word.startswith("--unit="))
                self.timers.add(unit.removeprefix("--unit=") + ".timer")
        self.ran.append(list(argv))
        return self.code

    @property
    def host(self) -> Host:
        return Host(self.run, self.root, self.root / "commits", "pve1", self.pause)

    def do(self, *arguments: str) -> int:
        return main(arguments, self.host)

    def file(self, name: str, content: str | None = None) -> Path:
        path = self.root / name
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return an empty host."""
    return Place(tmp_path)


def test_what_nobody_confirms_is_put_back_and_made_to_count(place: Place) -> None:
    file = place.file(INTERFACES, "good")
    file.chmod(0o640)
    assert place.do("begin", "ch-0123456789", "60", "network") == 0
    assert place.ran[0][:1] == ["systemd-run"]
    assert "--on-active=60s" in place.ran[0]
    assert place.ran[0][-2:] == ["revert", "ch-0123456789"]
    file.write_text("bad")
    assert place.do("revert", "ch-0123456789") == 0
    assert file.read_text() == "good"
    assert file.stat().st_mode & 0o777 == 0o640
    assert place.ran[-1] == ["ifreload", "-a"]


def test_what_is_confirmed_stands_and_the_timer_is_stopped(place: Place) -> None:
    file = place.file(INTERFACES, "good")
    place.do("begin", "ch-0123456789", "60", "network")
    file.write_text("new")
    assert place.do("confirm", "ch-0123456789") == 0
    assert place.ran[-1] == ["systemctl", "stop", "pvemcp-commit-ch-0123456789.timer"]
    assert place.do("revert", "ch-0123456789") == commit.ENDED
    assert file.read_text() == "new"
    assert list(place.host.folder.iterdir()) == []


def test_it_is_too_late_to_confirm_what_was_reverted(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.file(INTERFACES, "good")
    place.do("begin", "ch-0123456789", "60", "network")
    place.do("revert", "ch-0123456789")
    assert place.do("confirm", "ch-0123456789") == commit.ENDED
    place.do("state", "ch-0123456789")
    assert capsys.readouterr().out == "reverted\n"


def test_a_file_that_was_not_there_is_gone_again(place: Place) -> None:
    place.do("begin", "ch-0123456789", "60", "cluster-firewall")
    made = place.file("etc/pve/firewall/cluster.fw", "[OPTIONS]\nenable: 1\n")
    place.do("revert", "ch-0123456789")
    assert not made.exists()
    assert place.ran[-1] == ["pve-firewall", "restart"]


def test_a_second_change_of_the_same_kind_waits_for_the_first(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.file(INTERFACES, "good")
    assert place.do("begin", "ch-0123456789", "60", "network") == 0
    assert place.do("begin", "ch-9876543210", "60", "network") == commit.ENDED
    assert "confirm it first, or wait until it is taken back" in capsys.readouterr().err
    assert place.do("begin", "ch-9876543210", "60", "host-firewall") == 0


@pytest.mark.parametrize(("first", "second"), [("network", "sdn"), ("sdn", "network")])
def test_a_change_of_the_same_files_waits_for_the_first(
    place: Place, first: str, second: str
) -> None:
    assert place.do("begin", "ch-0123456789", "60", first) == 0
    assert place.do("begin", "ch-9876543210", "60", second) == commit.ENDED


LOCAL, RUNNING = "etc/network/interfaces.d/sdn", "etc/pve/sdn/.running-config"


def applied(place: Place) -> None:
    """Apply SDN on a cluster of three nodes, with the way back armed; one vnet waits."""
    for name in ("pve1", "pve2", "pve3"):
        place.file(f"etc/pve/nodes/{name}/host.fw", "")
    place.file(LOCAL, "auto vnet1")
    place.file(RUNNING, '{"version": 4}')
    place.file("etc/pve/sdn/vnets.cfg", "vnet: vnet2\n")
    assert place.do("begin", "ch-0123456789", "60", "sdn") == 0
    place.file(LOCAL, "auto vnet2")
    place.file(RUNNING, '{"version": 5}')
    place.ran.clear()


def test_an_apply_of_sdn_is_taken_back_here_first_then_on_the_other_nodes(place: Place) -> None:
    applied(place)
    assert place.do("revert", "ch-0123456789") == 0
    assert place.file(LOCAL).read_text() == "auto vnet1"
    assert place.file(RUNNING).read_text() == '{"version": 4}'
    assert place.file("etc/pve/sdn/vnets.cfg").read_text() == "vnet: vnet2\n", "it waits again"
    pvesh = ["timeout", "60", "pvesh", "set"]
    assert place.ran == [
        ["ifreload", "-a"],
        [*pvesh, "/nodes/pve2/network"],
        [*pvesh, "/nodes/pve3/network"],
    ]


def test_without_a_quorum_this_node_comes_back_and_the_cluster_once_there_is_one(
    tmp_path: Path,
) -> None:
    """pmxcfs is read-only while the apply keeps corosync's links apart."""
    steps: list[str] = []

    class NoQuorum(Place):
        def pause(self, seconds: float) -> None:  # noqa: ARG002
            steps.append("waits")
            if len(steps) == 4:
                self.file("etc/pve/sdn").unlink()

        def run(self, argv: Sequence[str]) -> int:
            steps.append(argv[0])
            return super().run(argv)

    place = NoQuorum(tmp_path)
    applied(place)
    for file in place.file("etc/pve/sdn").iterdir():
        file.unlink()
    place.file("etc/pve/sdn").rmdir()
    place.file("etc/pve/sdn", "cannot be written to")
    steps.clear()
    assert place.do("revert", "ch-0123456789") == 0
    assert steps == ["ifreload", "waits", "waits", "waits", "timeout", "timeout"]
    assert place.file(RUNNING).read_text() == '{"version": 4}'


def test_without_a_quorum_for_good_this_node_comes_back_and_it_says_what_does_not(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    applied(place)
    for file in place.file("etc/pve/sdn").iterdir():
        file.unlink()
    place.file("etc/pve/sdn").rmdir()
    place.file("etc/pve/sdn", "cannot be written to")
    assert place.do("revert", "ch-0123456789") == 1
    assert place.file(LOCAL).read_text() == "auto vnet1"
    assert place.ran[0] == ["ifreload", "-a"]
    assert sum(place.waited) < 120
    said = capsys.readouterr().err
    assert "/etc/pve/sdn/.running-config could not be put back" in said
    assert "sdn is only in part as it was before" in said


def test_routes_are_put_back_where_the_routing_daemon_has_any(place: Place) -> None:
    place.file("etc/frr/frr.conf", "router bgp 65000")
    applied(place)
    place.file("etc/frr/frr.conf", "router bgp 65001")
    assert place.do("revert", "ch-0123456789") == 0
    assert place.file("etc/frr/frr.conf").read_text() == "router bgp 65000"
    assert ["systemctl", "try-reload-or-restart", "frr"] in place.ran


def test_without_a_timer_nothing_is_begun(place: Place) -> None:
    place.code = 1
    place.file(INTERFACES, "good")
    assert place.do("begin", "ch-0123456789", "60", "network") == 1
    assert list(place.host.folder.iterdir()) == []


def test_the_kept_files_are_not_left_behind(place: Place) -> None:
    secret = "etc/pve/nodes/pve1/pveproxy-ssl.key"
    place.file(secret, "private")
    place.do("begin", "ch-0123456789", "60", "certificate")
    place.file(secret, "another")
    place.do("revert", "ch-0123456789")
    assert place.file(secret).read_text() == "private"
    kept = [path.name for path in place.host.folder.rglob("*") if path.is_file()]
    assert kept == ["about.json"]


@pytest.mark.parametrize("words", [("begin", "x", "60", "everything"), ("revert",), ("drop", "x")])
def test_anything_else_is_refused(place: Place, words: tuple[str, ...]) -> None:
    assert place.do(*words) == 2


def test_only_files_that_are_listed_are_ever_written() -> None:
    names = [name for kind in KINDS for name in files_of(kind)]
    places = ("/etc/network/", "/etc/frr/frr.conf", "/etc/pve/", "/etc/pvemcp/")
    assert all(name.startswith(places) for name in names)
    assert not any(".." in name or "priv/" in name for name in names)


def test_a_reboot_takes_back_what_waited_and_leaves_what_waits_now(place: Place) -> None:
    file, firewall = place.file(INTERFACES, "good"), place.file("etc/pve/firewall/cluster.fw", "on")
    place.do("begin", "ch-0123456789", "60", "network")
    place.timers.clear()
    place.do("begin", "ch-9876543210", "60", "cluster-firewall")
    file.write_text("bad")
    firewall.write_text("off")
    place.ran.clear()
    assert place.do("boot") == 0
    assert (file.read_text(), firewall.read_text()) == ("good", "off")
    assert place.ran == [["ifreload", "-a"]]
    assert place.do("boot") == 0
    assert place.do("confirm", "ch-0123456789") == 3
    assert place.do("confirm", "ch-9876543210") == 0


def test_a_boot_with_nothing_to_take_back_does_nothing(place: Place) -> None:
    assert place.do("boot") == 0
    assert place.ran == []


def test_an_id_is_of_one_change_so_nothing_older_waits_behind_it(place: Place) -> None:
    file = place.file(INTERFACES, "good")
    for what in ("revert", "confirm"):
        id_ = f"ch-0123456789{what}"
        assert place.do("begin", id_, "60", "network") == 0
        assert place.do("begin", id_, "60", "certificate") == 3
        assert place.do(what, id_) == 0
    file.write_text("newer")
    assert place.do("begin", "ch-0123456789revert", "600", "network") == 3
    place.timers.clear()
    assert place.do("boot") == 0
    assert file.read_text() == "newer"
    assert place.do("begin", "ch-1111111111", "60", "network") == 0


def test_what_the_power_cut_while_it_was_taken_back_is_taken_back_at_boot(place: Place) -> None:
    file, running = place.file(INTERFACES, "good"), place.file(RUNNING, "one vnet")
    place.do("begin", "ch-0123456789", "60", "sdn")
    file.write_text("bad")
    running.write_text("two vnets")

    class PowerCut(BaseException):
        pass

    def cut(argv: Sequence[str]) -> int:
        if argv[0] == "ifreload":
            raise PowerCut
        return place.run(argv)

    with pytest.raises(PowerCut):
        main(["revert", "ch-0123456789"], replace(place.host, run=cut))
    assert running.read_text() == "two vnets"
    assert place.do("confirm", "ch-0123456789") == 3
    assert place.do("begin", "ch-9876543210", "60", "network") == 3
    place.timers = {"pvemcp-commit-ch-0123456789.service"}
    assert place.do("boot") == 0
    assert running.read_text() == "two vnets", "it is still being taken back"
    place.timers.clear()
    assert place.do("boot") == 0
    assert (file.read_text(), running.read_text()) == ("good", "one vnet")
    assert ["ifreload", "-a"] in place.ran
    assert place.do("begin", "ch-9876543210", "60", "network") == 0


@pytest.mark.parametrize("odd", ["large", "folder", "link"])
def test_what_cannot_be_kept_is_not_begun_and_never_removed(place: Place, odd: str) -> None:
    file = place.file(INTERFACES, "x" * (commit.LARGEST + 1) if odd == "large" else None)
    file.parent.mkdir(parents=True, exist_ok=True)
    if odd == "folder":
        file.mkdir()
    if odd == "link":
        file.symlink_to(place.root / "nothing")
    assert place.do("begin", "ch-0123456789", "60", "network") == 1
    assert list(place.host.folder.iterdir()) == []
    assert place.ran == []


def test_what_is_kept_is_on_the_disk_before_the_change_is_made(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.file(INTERFACES, "good")
    safe = set[tuple[int, int]]()
    fsync = os.fsync

    def noted(opened: int) -> None:
        found = os.fstat(opened)
        safe.add((found.st_dev, found.st_ino))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", noted)
    place.do("begin", "ch-0123456789", "60", "network")
    kept = place.host.folder / "ch-0123456789"
    for path in (kept / "0", kept / "about.json", kept, kept.parent):
        assert (path.stat().st_dev, path.stat().st_ino) in safe
