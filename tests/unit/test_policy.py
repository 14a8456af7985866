"""The rules of the policy: how they are read, and which one decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from pvemcp.access.policy import Policy
from pvemcp.call import ApiToken, Call, Effect, Intent, Principal, Target, Verdict
from pvemcp.errors import Denied, Misconfigured
from pvemcp.settings import Settings
from pvemcp.settings.policy import rules

PATH = "/nodes/pve1/qemu/105/config"
GUEST = Target("guest", "qemu/105", vmid=105, node="pve1", pool="prod", tags=("web",))


def call(client: str = "laptop", tool: str = "api_change") -> Call:
    """Return a call of a client."""
    token = ApiToken("pvemcp@pve!laptop", "s")
    return Call(Principal(client, Effect.DESTROY, token, "g1"), tool, {})


def intent(effect: Effect = Effect.CHANGE, path: str = PATH, **params: Any) -> Intent:
    """Return a write."""
    return Intent("PUT", path, effect, template="/x", params=params, node="pve1")


def verdict(given: Sequence[dict[str, Any]], *writes: tuple[Intent, Target], **how: Any) -> str:
    """Judge writes by rules."""
    tainted = how.pop("tainted", ())
    policy = Policy(rules("policy", list(given)), tainted=lambda _: tainted)
    return policy.judge(call(**how), writes or [(intent(), GUEST)]).verdict.value


def rule(word: str, **conditions: Any) -> list[dict[str, Any]]:
    """Return one rule in a list."""
    return [{"name": "r", "verdict": word, **conditions}]


def test_without_rules_the_defaults_decide() -> None:
    assert verdict([]) == "allow"
    assert verdict([], (intent(Effect.DESTROY), GUEST)) == "ask"
    tagged = Target("guest", "qemu/105", vmid=105, tags=("protected",))
    assert verdict([], (intent(), tagged)) == "ask"
    assert verdict([], (intent(), Target("guest", "qemu/105", protected=True))) == "ask"


@pytest.mark.parametrize(
    "fits",
    [
        {"effect": "change"},
        {"tool": "api_*"},
        {"path": "/nodes/*/qemu/105/*"},
        {"path": ["/none", PATH.upper()]},
        {"tag": "WEB"},
        {"pool": "prod"},
        {"vmid": 105},
        {"vmid": [1, 105]},
        {"node": "PVE1"},
        {"client": "lap*"},
        {"protected": False},
        {"after_untrusted_text": False},
        {"hours": "00:00-24:00"},
    ],
)
@pytest.mark.parametrize("word", ["ask", "deny"])
def test_a_rule_decides_when_all_its_conditions_hold(fits: dict[str, Any], word: str) -> None:
    assert verdict(rule(word, **fits)) == word


@pytest.mark.parametrize(
    "misses",
    [
        {"effect": "destroy"},
        {"tool": "guest_power"},
        {"path": "/nodes/pve1/qemu/105"},
        {"path": "/nodes/pve1/qemu/10/*"},
        {"tag": "db"},
        {"pool": "lab"},
        {"vmid": 106},
        {"node": "pve2"},
        {"client": "top"},
        {"protected": True},
        {"after_untrusted_text": True},
        {"tool": "api_change", "tag": "db"},
    ],
)
def test_a_rule_of_which_one_condition_fails_decides_nothing(misses: dict[str, Any]) -> None:
    assert verdict(rule("deny", **misses)) == "allow"


def test_the_first_rule_that_fits_wins_and_the_strictest_write_counts() -> None:
    given: list[dict[str, Any]] = [
        {"name": "a", "verdict": "allow", "vmid": 105},
        {"name": "b", "verdict": "deny", "effect": "destroy"},
    ]
    one = (intent(Effect.DESTROY), GUEST)
    other = (intent(Effect.DESTROY, "/nodes/pve1/qemu/106"), Target("guest", "qemu/106", vmid=106))
    assert verdict(given, one) == "allow"
    assert verdict(given, one, other) == "deny"
    found = Policy(rules("policy", [{"name": "two", "verdict": "ask", "persons": 2, "vmid": 105}]))
    judged = found.judge(call(), [one, other])
    assert (judged.verdict, judged.persons, judged.channel) == (Verdict.ASK, 2, "person")
    assert "two" in judged.rule


@pytest.mark.parametrize("tag", [{"tag": "web"}, {"pool": "prod"}, {"protected": False}])
def test_a_guest_that_was_not_seen_is_not_let_through(tag: dict[str, Any]) -> None:
    unseen = Target("guest", "qemu/105", vmid=105, known=False)
    assert verdict(rule("deny", **tag), (intent(), unseen)) == "deny"
    assert verdict(rule("ask", **tag), (intent(), unseen)) == "ask"
    assert verdict(rule("allow", **tag), (intent(Effect.DESTROY), unseen)) == "ask"


def test_a_change_to_a_guest_that_was_not_seen_asks() -> None:
    assert verdict([], (intent(), Target("guest", "qemu/105", vmid=105, known=False))) == "ask"
    assert verdict([], (intent(), Target("node", "pve1", node="pve1"))) == "allow"


def test_a_policy_that_fails_lets_nothing_through() -> None:
    def breaks(_: Call) -> Sequence[str]:
        raise RuntimeError("the memory of what was read is gone")

    with pytest.raises(RuntimeError):
        Policy(tainted=breaks).judge(call(), [(intent(), GUEST)])


@pytest.mark.parametrize(
    ("path", "profile", "word"),
    [
        ("host/change", "change", "deny"),
        ("host/change/shell", "change", "deny"),
        ("host/root", ["root", "change"], "deny"),
        ("host/changed", "change", "allow"),
        ("lxc/105", "change", "allow"),
    ],
)
def test_a_rule_can_be_about_the_sandbox(path: str, profile: Any, word: str) -> None:
    run = Intent("RUN", path, Effect.CHANGE)
    given = rule("deny", profile=profile)
    assert verdict(given, (run, Target("command", path))) == word
    assert verdict(given) == "allow"


def test_after_untrusted_text_a_rule_can_ask() -> None:
    given = rule("ask", after_untrusted_text=True)
    assert verdict(given) == "allow"
    assert verdict(given, tainted=("qemu/105 notes",)) == "ask"


@pytest.mark.parametrize(
    "params",
    [
        {"userid": "root@pam"},
        {"users": "alice@pve,root@pam"},
        {"tokens": "root@pam!x"},
        {"userid": "pvemcp@pve"},
        {"tokenid": "pvemcp@pve!laptop"},
    ],
)
def test_no_rule_lets_a_client_touch_root_or_its_own_account(params: dict[str, Any]) -> None:
    given = rule("allow")
    assert verdict(given, (intent(**params), GUEST)) == "deny"
    assert verdict(given, (intent(path="/access/acl"), GUEST)) == "deny"


def test_a_clients_own_task_may_be_stopped_and_no_other() -> None:
    def stop(user: str) -> Intent:
        upid = f"UPID:pve1:00001234:00005678:65000000:qmstart:105:{user}:"
        path = f"/nodes/pve1/tasks/{upid}"
        template = "/nodes/{node}/tasks/{upid}"
        return Intent("DELETE", path, Effect.DESTROY, template, {"upid": upid})

    target = Target("node", "pve1")
    assert verdict([], (stop("pvemcp@pve!laptop"), target)) == "allow"
    assert verdict([], (stop("pvemcp@pve!other"), target)) == "ask"


def at(text: str) -> float:
    """Return a local time in seconds since the epoch."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        ("mon-fri 08:00-18:00", ["2026-11-26 08:00", "2026-11-27 17:59"],
         ["2026-11-26 18:00", "2026-11-28 10:00"]),
        ("22:00-06:00", ["2026-11-26 23:00", "2026-11-27 05:59"], ["2026-11-26 06:00"]),
        ("fri 22:00-02:00", ["2026-11-27 22:00", "2026-11-28 01:59"], ["2026-11-27 01:00"]),
        ("sat-mon 00:00-24:00", ["2026-11-28 00:00", "2026-11-30 23:59"], ["2026-11-27 12:00"]),
    ],
)  # fmt: skip
def test_hours_are_the_hosts_own(hours: str, inside: list[str], outside: list[str]) -> None:
    given = rules("policy", rule("deny", hours=hours))
    for moments, word in ((inside, Verdict.DENY), (outside, Verdict.ALLOW)):
        for moment in moments:
            policy = Policy(given, now=lambda moment=moment: at(moment))  # type: ignore[misc]
            assert policy.judge(call(), [(intent(), GUEST)]).verdict is word


def test_reads_are_denied_by_path_and_allowed_otherwise() -> None:
    given = [
        {"name": "a", "verdict": "allow", "effect": "read", "path": "/nodes/*/qemu/105/status/*"},
        {"name": "d", "verdict": "deny", "effect": "read", "vmid": 105},
    ]
    policy = Policy(rules("policy", list(given)))
    for path in (PATH, "/nodes/pve1/lxc/105"):
        with pytest.raises(Denied, match="rule 'd'"):
            policy.permit(call(), "GET", path, Effect.READ)
    for path in ("/nodes/pve1/qemu/105/status/current", "/nodes/pve1/qemu/1050/config"):
        assert policy.permit(call(), "GET", path, Effect.READ) is Verdict.ALLOW


async def test_reads_are_denied_by_tag_and_pool_as_the_token_sees_them() -> None:
    rows: list[dict[str, Any]] = [
        {"vmid": 105, "tags": "Secret;web", "pool": "lab"},
        {"vmid": 106, "tags": "web", "pool": "vault"},
        {"vmid": 107, "tags": "", "pool": "lab"},
    ]
    given = [
        {"name": "t", "verdict": "deny", "effect": "read", "tag": "secret"},
        {"name": "p", "verdict": "deny", "effect": "read", "pool": "vault"},
    ]
    policy = Policy(rules("policy", list(given)))
    assert policy.learns
    assert not Policy(rules("policy", [{**given[0], "effect": "change"}])).learns
    path = "/nodes/pve1/qemu/{}/config"
    with pytest.raises(Denied):  # nothing is known yet
        policy.permit(call(), "GET", path.format(107), Effect.READ)
    asked = []

    async def resources(kind: str) -> list[dict[str, Any]]:
        asked.append(kind)
        return rows

    async def sees_all(_path: str, _privilege: str) -> str:
        return ""

    for _ in range(3):
        await policy.learn(call(), resources, sees_all)
    assert asked == ["vm"], "it is kept"
    assert policy.permit(call(), "GET", path.format(107), Effect.READ) is Verdict.ALLOW
    assert policy.permit(call(), "GET", "/nodes/pve1/status", Effect.READ) is Verdict.ALLOW
    for vmid, name in ((105, "t"), (106, "p"), (108, "t")):
        for read in (path.format(vmid), f"lxc/{vmid}"):
            with pytest.raises(Denied, match=f"rule '{name}'"):
                policy.permit(call(), "GET", read, Effect.READ)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"verdict": "ask"}, "no name"),
        ({"name": "r"}, "no verdict"),
        ({"name": "r", "verdict": "maybe"}, "no verdict"),
        ({"name": "r", "verdict": "ask", "tags": "x"}, "unknown key 'tags'"),
        ({"name": "r", "verdict": "ask", "effect": "write"}, "effect: 'write'"),
        ({"name": "r", "verdict": "ask", "effect": "read"}, "asks before reads"),
        ({"name": "r", "verdict": "deny", "effect": "read", "protected": True}, "about reads"),
        ({"name": "r", "verdict": "ask", "profile": "sudo"}, "profile: 'sudo'"),
        ({"name": "r", "verdict": "ask", "vmid": "105"}, "vmid is neither"),
        ({"name": "r", "verdict": "ask", "hours": "25:00-26:00"}, "hours: "),
        ({"name": "r", "verdict": "ask", "hours": "abc 08:00-09:00"}, "hours: "),
        ({"name": "r", "verdict": "ask", "hours": "08:00-08:00"}, "no time at all"),
        ({"name": "r", "verdict": "ask", "persons": 3}, "persons: 3"),
        ({"name": "r", "verdict": "ask", "persons": True}, "persons: True"),
        ({"name": "r", "verdict": "ask", "channel": "mail"}, "channel: 'mail'"),
        ({"name": "r", "verdict": "ask", "path": []}, "path is neither"),
        ({"name": "r", "verdict": "ask", "protected": 1}, "protected is neither"),
    ],
)
def test_a_wrong_rule_is_named_with_its_repair(given: dict[str, Any], says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        rules("policy", [given])
    assert caught.value.hint


def test_two_rules_of_one_name_and_no_list_are_refused() -> None:
    for wrong in ([*rule("ask"), *rule("deny")], {"name": "r"}, "no json", [1]):
        with pytest.raises(Misconfigured):
            rules("policy", wrong)


def test_the_rules_are_read_from_the_file_and_the_environment(tmp_path: Any) -> None:
    file = tmp_path / "pvemcp.toml"
    file.write_text('[[policy]]\nname = "prod"\nverdict = "ask"\ntag = ["prod"]\npersons = 2\n')
    [found] = Settings.load(file, {"PVEMCP_STATE_DIR": str(tmp_path)}).policy
    assert (found.name, found.tag, found.persons) == ("prod", ("prod",), 2)
    env = {"PVEMCP_POLICY": '[{"name": "x", "verdict": "deny"}]', "PVEMCP_STATE_DIR": str(tmp_path)}
    assert [each.name for each in Settings.load(file, env).policy] == ["x"]
