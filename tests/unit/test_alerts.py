"""Alerts: each condition is told once, lasts a while before it is, and its end is told too."""

from __future__ import annotations

import email
import email.policy
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.access.freeze import Freeze
from pvemcp.access.grants import Grant
from pvemcp.access.told import Hearer
from pvemcp.call import Effect
from pvemcp.errors import Unavailable
from pvemcp.setup.backup.database import snapshot
from pvemcp.store import FILE, Store
from pvemcp.watch.alerts import BACK_OFF, MOST, REMIND, SETTLED, Alerts
from pvemcp.watch.conditions import Condition, Known, conditions
from pvemcp.watch.messages import Message, message
from pvemcp.watch.process import noted
from pvemcp.watch.readiness import Finding, Report, State

START = 1_800_000_000.0
BAD = Condition("check:pve", "error", "PVE", "no answer", after=120)
FULL = Condition("check:disk", "warning", "disk", "filling")


class Box:
    """A channel that keeps what it gets, or refuses it."""

    name = "box"

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.works = True

    async def send(self, message: Message) -> None:
        if not self.works:
            raise Unavailable("nobody there")
        self.got.append(message)

    @property
    def events(self) -> list[str]:
        return [f"{one.event} {one.key}" for one in self.got]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as made:
        yield made


@pytest.fixture
def box() -> Box:
    return Box()


def alerts(store: Store, box: Box) -> Alerts:
    return Alerts(store, [box], sent=Counter())


async def test_a_failing_check_is_told_after_a_while_once_and_so_is_its_end(
    store: Store, box: Box
) -> None:
    told = alerts(store, box)
    for seconds in range(0, 119, 15):
        await told.consider([BAD], START + seconds)
    assert box.events == []
    for seconds in range(120, 3000, 15):
        await told.consider([BAD], START + seconds)
    assert box.events == ["raised check:pve"]
    for seconds in range(3000, 3000 + int(SETTLED) + 15, 15):
        await told.consider([], START + seconds)
    assert box.events == ["raised check:pve", "recovered check:pve"]
    assert told.entries == []


async def test_what_passes_before_its_time_is_never_told(store: Store, box: Box) -> None:
    told = alerts(store, box)
    for number in range(20):
        await told.consider([BAD] if number % 5 else [], START + 20 * number)
    assert box.events == []


async def test_what_flaps_is_told_once(store: Store, box: Box) -> None:
    told = alerts(store, box)
    for number in range(100):
        await told.consider([FULL] if number % 2 else [], START + 15 * number)
    assert box.events == ["raised check:disk"]


async def test_a_restart_tells_nothing_twice(store: Store, box: Box) -> None:
    for number in range(5):
        await alerts(store, box).consider([FULL], START + 15 * number)
    assert box.events == ["raised check:disk"]
    for number in range(5, 15):
        await alerts(store, box).consider([], START + 15 * number)
    assert box.events[1:] == ["recovered check:disk"]


async def test_what_gets_worse_is_told_again(store: Store, box: Box) -> None:
    told = alerts(store, box)
    await told.consider([FULL], START)
    worse = Condition("check:disk", "error", "disk", "full", after=0)
    for seconds in (15, 30, 45):
        await told.consider([worse], START + seconds)
    assert [one.severity for one in box.got] == ["warning", "error"]


async def test_what_stays_is_told_again_after_a_day(store: Store, box: Box) -> None:
    told = alerts(store, box)
    for hours in range(50):
        await told.consider([FULL], START + hours * 3600)
    assert box.events == ["raised check:disk", "reminder check:disk", "reminder check:disk"]
    assert box.got[1].subject.endswith("still: disk")


async def test_what_nobody_took_is_sent_again_and_ever_more_seldom(store: Store, box: Box) -> None:
    told, box.works = alerts(store, box), False
    tries = []
    for seconds in range(0, 1000, 5):
        before = told._sent["box failed"]
        await told.consider([FULL], START + seconds)
        tries += [seconds] if told._sent["box failed"] > before else []
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= BACK_OFF
    assert len(tries) < 8
    box.works = True
    await told.consider([FULL], START + 1000 + REMIND)
    assert box.events == ["raised check:disk"]


async def test_there_is_a_limit_for_an_hour(store: Store, box: Box) -> None:
    told = alerts(store, box)
    many = [Condition(f"grant:{n}", "warning", "g", "g") for n in range(100)]
    for seconds in range(0, 3000, 15):
        await told.consider(many, START + seconds)
    assert len(box.got) == MOST
    await told.consider(many, START + 3700)
    assert len(box.got) == 2 * MOST


@pytest.mark.parametrize("jump", [3600.0, -3600.0, -30 * 86400.0])
async def test_a_clock_that_jumps_does_not_silence_or_repeat_alerts(
    store: Store, box: Box, jump: float
) -> None:
    told = alerts(store, box)
    await told.consider([FULL], START)
    for number in range(10):
        await told.consider([FULL], START + jump + 15 * number)
    assert box.events == ["raised check:disk"]
    await told.consider([FULL], START + jump + 200 + REMIND)
    assert box.events == ["raised check:disk", "reminder check:disk"]
    new = Condition("backup", "error", "b", "b")
    await told.consider([FULL, new], START + jump + 215 + REMIND)
    assert box.events[-1] == "raised backup"


async def test_a_database_that_cannot_be_written_silences_nothing(
    store: Store, box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    told = alerts(store, box)
    store.write("PRAGMA query_only = ON")
    for number in range(5):
        await told.consider([FULL], START + 15 * number)
    assert box.events == ["raised check:disk"]
    assert "not written down" in caplog.text


async def test_one_channel_that_fails_does_not_keep_the_other_from_telling(store: Store) -> None:
    broken, good = Box(), Box()
    broken.works, broken.name = False, "broken"
    told = Alerts(store, [broken, good], sent=Counter())
    for number in range(5):
        await told.consider([FULL], START + 15 * number)
    assert good.events == ["raised check:disk"]
    assert (await told.test(START))["broken"] == "nobody there"


def test_a_process_notes_that_it_runs_and_a_backup_of_then_does_not_say_so(
    store: Store, tmp_path: Path
) -> None:
    with noted(store, START) as before:
        assert not before
        with noted(store, START) as unclean:  # what a process finds after one that was killed
            assert unclean
        store.write("INSERT INTO state (name, value) VALUES ('process', '1')")
        copied = tmp_path / "copied"
        copied.mkdir(mode=0o700)
        (copied / FILE).write_bytes(snapshot(store.path.parent, whole_audit=False))
        with Store(copied) as restored, noted(restored, START) as found:
            assert not found


# What is told


def report(**states: State) -> Report:
    return Report(
        tuple(Finding(name, state, f"why {name}") for name, state in states.items()), START
    )


def told_of(known: Known) -> dict[str, Condition]:
    return {one.key: one for one in conditions(known, 120)}


def test_conditions_are_what_an_administrator_must_do_something_about() -> None:
    known = Known(
        START,
        report(pve=State.FAIL, disk=State.WARN, helper=State.OFF, store=State.OK, clock=State.WARN),
        grants=[
            Grant("1", "old", Effect.READ, START - 100 * 86400, START + 86400),
            Grant("2", "brief", Effect.READ, START, START + 86400),
            Grant("3", "ever", Effect.READ, START),
            Grant("4", "gone", Effect.READ, START - 100 * 86400, START - 1),
        ],
        backup="The last backup failed: no space",
        lockouts=[(START, "192.0.2.1")] * 9 + [(START, f"192.0.2.{n}") for n in range(2, 9)],
        unclean="killed",
    )
    found = told_of(known)
    assert set(found) == {
        "check:pve", "check:disk", "check:clock", "grant:old", "backup", "auth", "restart",
    }  # fmt: skip
    assert found["check:pve"].after == 120
    assert "16 requests" in found["auth"].text
    assert "and 3 more" in found["auth"].text
    assert told_of(Known(START, report(pve=State.OK))) == {}


def test_a_freeze_is_told_on_every_node_and_so_is_a_node_that_does_not_know() -> None:
    known = Known(
        START,
        report(),
        freezes=[
            Freeze("", "all", "root", "", START),
            Freeze("", "all", "bob", "", START, "pve2"),
        ],
        behind=[Hearer("pve3", problem="offline")],
    )
    found = told_of(known)
    assert set(found) == {"freeze:", "freeze:@pve2", "untold:pve3"}
    assert "pvemcp thaw, on pve2" in found["freeze:@pve2"].text
    assert "pve3 does not know the freezes of this node: offline" in found["untold:pve3"].text
    assert found["untold:pve3"].after == 120


@given(st.text(max_size=3000), st.text(max_size=200))
def test_no_text_of_others_can_forge_a_mail_or_work_a_terminal(text: str, title: str) -> None:
    made = message("raised", Condition("check:pve", "error", title, text), START)
    assert made.text.isprintable()
    assert len(made.text) <= 1001
    assert len(made.title) <= 101
    mail = email.message_from_bytes(made.as_mail(), policy=email.policy.default)
    assert mail["To"] == "root"
    assert set(mail.keys()) == {
        "From", "To", "Subject", "Date", "Auto-Submitted", "X-Pvemcp-Event", "MIME-Version",
        "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip
    assert not mail.is_multipart()


def test_secrets_are_masked_in_what_is_told() -> None:
    condition = Condition("check:pve", "error", "t", "token s3cret is refused")
    made = message("raised", condition, START, lambda text: text.replace("s3cret", "***"))
    assert "s3cret" not in made.as_mail().decode() + str(made.as_dict())
