"""Refusals: each becomes the right Fault, and says what to do next."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvemcp.errors import (
    Conflict,
    Denied,
    Fault,
    Invalid,
    Misconfigured,
    Missing,
    Rejected,
    Unauthenticated,
    Unavailable,
    Uncertain,
)
from pvemcp.pve.fault_cases import LOCKS, Clue
from pvemcp.pve.faults import Asked, clean, explained, fault_of
from pvemcp.pve.schema import Method
from pvemcp.pve.transport import Reply

NEEDS = {"check": ["or", ["perm", "/vms/{vmid}", ["VM.Audit"]], ["perm", "/", ["Sys.Audit"]]]}
TOKEN = "ops@pve!mcp"


def refused(
    status: int, reason: str, *, verb: str = "GET", path: str = "/nodes/pve1/x", **body: Any
) -> tuple[Fault, Clue | None]:
    content = json.dumps({"data": None, **body}).encode() if body else b""
    asked = Asked(Method(path, verb, permissions=NEEDS), path, TOKEN, "pve1", 1_700_000_000.0)
    return fault_of(Reply(status, reason, content), asked)


@pytest.mark.parametrize(
    ("reason", "kind", "hint"),
    [
        ("Configuration file 'nodes/pve1/lxc/999.conf' does not exist", Missing, "resources"),
        ("VM is locked (backup)", Conflict, "a backup of it runs"),
        ("CT is locked (snapshot-delete)", Conflict, "a snapshot of it is being deleted"),
        ("VM 100 is locked (new-thing)", Conflict, "qm unlock"),
        ("checksum mismatch (file change by other user?)", Conflict, "Read it again"),
        ("detected modified configuration - file changed by other user? Try again.", Conflict,
         "Read it again"),
        ("VM 100 is running - destroy failed", Conflict, "Shut it down"),
        ("CT 200 already running", Conflict, "Shut it down"),
        ("unable to destroy CT 200 - container is running", Conflict, "Shut it down"),
        ("base volume 'local:900/base-900-disk-0.qcow2' is still in use by linked cloned",
         Conflict, "delete them first"),
        ("unable to create template, because VM contains snapshots", Conflict, "Delete"),
        ("snapshot feature is not available", Rejected, "backup instead"),
        ("shrinking disks is not supported", Rejected, "+SIZE"),
        ("VM quit/powerdown failed - got timeout", Rejected, "guest agent"),
        ("no such alias 'x'", Missing, "/cluster/firewall/aliases"),
        ("resource 'vm:999' does not exist in cluster", Missing, "List the guests"),
        ("Agent error: failed to open file '/x' (mode: 'r'): No such file or directory",
         Missing, "inside the guest"),
        ("can't remove VM 105 - protection mode enabled", Conflict, "protection=0"),
        ("VM 101 is not running", Conflict, "Start the guest"),
        ("you can't start a vm if it's a template", Conflict, "clone it"),
        ("No QEMU guest agent configured", Conflict, "agent=1"),
        ("QEMU guest agent is not running", Conflict, "inside the guest"),
        ("VM 100 already exists on node 'pve1'", Conflict, "another name or id"),
        ("create storage failed: storage ID 'local' already defined", Conflict, "another name"),
        ("update pools failed: VM 102 is already a pool member", Conflict, "another name"),
        ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", Conflict, "lock"),
        ("storage 'nostore' does not exist", Missing, "GET /storage"),
        ("pool 'zzz' does not exist", Missing, "GET /pools"),
        ("no such user ('zzz@pve')", Missing, "GET /access/users"),
        ("no such token 'zzz' for user 'ops@pve'", Missing, "token"),
        ("role 'zzz' does not exist", Missing, "GET /access/roles"),
        ("group 'zzz' does not exist", Missing, "GET /access/groups"),
        ("domain 'zzz' does not exist", Missing, "GET /access/domains"),
        ("snapshot 'zzz' does not exist", Missing, "snapshot"),
        ("no such resource 'vm:999'", Missing, "ha/resources"),
        ("no rule at position 99", Missing, "List the rules"),
        ("sdn 'zzz' does not exist", Missing, "List what exists"),
        ("hostname lookup 'nope' failed - failed to get address info", Missing, "GET /nodes"),
        ("no such cluster node 'nope'", Missing, "GET /nodes"),
        ("address lookup for 'pve3' did not find any IP address", Missing, "GET /nodes"),
        ("cluster not ready - no quorum?", Unavailable, "/cluster/status"),
        ("only root can set 'args' config", Denied, "root@pam itself"),
        ("binary not installed: /usr/bin/ceph-mon", Rejected, "install it"),
        ("error: no iscsi support - please install open-iscsi", Rejected, "install it"),
        ("cannot index groups: ha groups have been migrated to rules", Rejected, "ha/rules"),
        ("Agent error: failed to open file '/nope'", Rejected, "guest agent's own"),
        ("got timeout", Unavailable, "slow"),
        ("something that nobody has seen", Rejected, ""),
    ],
)  # fmt: skip
def test_an_error_text_becomes_its_fault(reason: str, kind: type[Fault], hint: str) -> None:
    fault, _ = refused(500, reason, message=f"{reason}\n")
    assert type(fault) is kind
    assert fault.message == clean(reason)
    assert hint in fault.hint


@pytest.mark.parametrize(
    ("reason", "clue"),
    [
        ("Configuration file 'nodes/pve1/qemu-server/999.conf' does not exist",
         Clue("guest", "999", "pve1", "qemu")),
        ("hostname lookup 'nope' failed", Clue("node", "nope")),
        ("no such cluster node 'nope2'", Clue("node", "nope2")),
        ("storage 'nostore' does not exist", Clue("storage", "nostore")),
        ("no such user ('zzz@pve')", None),
    ],
)  # fmt: skip
def test_what_was_not_found_is_told_apart(reason: str, clue: Clue | None) -> None:
    assert refused(500, reason)[1] == clue


@pytest.mark.parametrize(
    ("template", "path", "text", "clue"),
    [
        ("/access/users/{userid}", "/access/users/zzz@pve", "no such user ('zzz@pve')",
         Clue("item", "zzz@pve", "", "userid", "/access/users")),
        ("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config",
         "/nodes/pve1/qemu/100/snapshot/zzz/config", "snapshot 'zzz' does not exist",
         Clue("item", "zzz", "pve1", "snapname", "/nodes/pve1/qemu/100/snapshot")),
        ("/nodes/{node}/storage/{storage}/content/{volume}",
         "/nodes/pve1/storage/nas/content/nas:iso/x.iso", "no such volume 'nas:iso/x.iso'",
         Clue("item", "nas:iso/x.iso", "pve1", "volume", "/nodes/pve1/storage/nas/content")),
        ("/nodes/{node}/qemu/{vmid}/config", "/nodes/pve1/qemu/100/config",
         "script 'local:x' does not exist", None),
        ("/nodes/{node}/qemu/{vmid}/config", "/nodes/pve1/qemu/100/config",
         "VM is locked (backup)", Clue("lock", "100", "pve1")),
    ],
)  # fmt: skip
def test_the_name_in_the_path_that_an_error_is_about_is_found(
    template: str, path: str, text: str, clue: Clue | None
) -> None:
    node = "pve1" if path.startswith("/nodes") else ""
    asked = Asked(Method(template, "GET"), path, TOKEN, node)
    assert fault_of(Reply(500, text, b""), asked)[1] == clue


def test_every_lock_says_what_holds_it() -> None:
    for lock, held in LOCKS.items():
        kind, hint, _ = explained(f"VM is locked ({lock})")
        assert kind is Conflict
        assert held in hint


@pytest.mark.parametrize(
    "reason", ["No ticket", "Authentication failed!", "authentication failure"]
)
def test_401_names_the_token_and_what_to_check(reason: str) -> None:
    fault, _ = refused(401, reason)
    assert type(fault) is Unauthenticated
    assert TOKEN in fault.message
    assert "expired" in fault.hint
    assert "enabled" in fault.hint


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("Permission check failed (/vms/102, VM.PowerMgmt)",
         ["lacks VM.PowerMgmt on /vms/102", f"pveum acl modify /vms/102 --tokens '{TOKEN}'"]),
        ("Permission check failed (/vms/100, VM.Config.Disk|VM.Config.CDROM)",
         ["VM.Config.Disk or VM.Config.CDROM on /vms/100"]),
        ("Permission check failed (, Sys.Audit)", ["lacks Sys.Audit", "names in the path"]),
        ("Permission check failed", ["Sys.Audit, VM.Audit", TOKEN]),
        ("Permission check failed (user != root@pam)", ["Only the user root@pam"]),
        ("Permission check failed (changing flags is only allowed for root@pam)",
         ["Only the user root@pam"]),
        ("Permission check failed (URI '/x' not available with API token, need proper ticket.",
         ["refuses API tokens", "web interface"]),
    ],
)  # fmt: skip
def test_403_names_what_is_missing_and_how_to_grant_it(reason: str, words: list[str]) -> None:
    fault, _ = refused(403, reason, message=f"{reason}\n)\n")
    assert type(fault) is Denied
    for word in words:
        assert word in str(fault)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ({"full": "type check ('boolean') failed - got 'TRUE?'"}, Invalid),
        ({"a": "bad\n", "b": "worse\n"}, Invalid),
        ({"storage": "No such storage."}, Missing),
        ({"upid": "no such task"}, Missing),
        ({"id": "No such job 'zzz'"}, Missing),
        ({"vmid": "VM 100 already exists"}, Conflict),
        ({"hookscript": "script 'local:snippets/x.sh' does not exist\n"}, Missing),
    ],
)
def test_400_keeps_what_is_wrong_with_each_parameter(
    errors: dict[str, str], kind: type[Fault]
) -> None:
    fault, _ = refused(400, "Parameter verification failed.", errors=errors)
    assert type(fault) is kind
    assert fault.detail == {name: text.strip() for name, text in errors.items()}


@pytest.mark.parametrize("status", [595, 596, 599, 502, 504])
def test_a_silent_node_is_unavailable_for_a_read_and_uncertain_for_a_write(status: int) -> None:
    read, _ = refused(status, "Connection refused")
    assert type(read) is Unavailable
    assert "node pve1 did not answer" in read.message
    for verb in ("POST", "PUT", "DELETE"):
        write, _ = refused(status, "Broken pipe", verb=verb)
        assert type(write) is Uncertain
        assert "22:13:20 UTC" in write.message
        assert "/nodes/pve1/tasks" in write.hint
        assert "Do not repeat" in write.hint


def test_a_time_out_inside_pve_is_uncertain_for_a_write() -> None:
    assert type(refused(500, "got timeout", verb="PUT")[0]) is Uncertain
    assert type(refused(500, "no quorum", verb="PUT")[0]) is Unavailable


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (301, "Moved", Misconfigured),
        (404, "No such tfa entry 'recovery'", Missing),
        (424, "node is not in a cluster, no join info available!", Conflict),
        (501, "Method 'GET /x' not implemented", Invalid),
        (501, "for data too large", Invalid),
        (506, "upload 'Content-Type 'text/plain' not implemented", Rejected),
        (500, "", Rejected),
    ],
)
def test_other_statuses(status: int, reason: str, kind: type[Fault]) -> None:
    fault, _ = refused(status, reason)
    assert type(fault) is kind
    assert fault.message


def test_perls_file_and_line_and_line_breaks_are_left_out() -> None:
    text = "'\"' expected, at character offset 1 at /usr/share/perl5/PVE/X.pm line 934.\n"
    assert clean(text) == "'\"' expected, at character offset 1"
    assert clean(" a\n b\t c ") == "a b c"
    assert len(clean("x" * 9999)) == 500


@given(st.integers(300, 599), st.text(), st.binary(), st.sampled_from(["GET", "POST"]))
def test_any_refusal_is_a_fault(status: int, reason: str, body: bytes, verb: str) -> None:
    asked = Asked(Method("/x", verb), "/x", TOKEN)
    fault, _ = fault_of(Reply(status, reason, body), asked)
    assert isinstance(fault, Fault)
    assert str(fault)


@given(st.recursive(st.text() | st.none() | st.integers(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["errors", "message", "data", "x"]), x)))  # fmt: skip
def test_any_json_body_of_a_refusal_is_survived(body: Any) -> None:
    asked = Asked(Method("/x", "GET"), "/x", TOKEN)
    fault, _ = fault_of(
        Reply(400, "Parameter verification failed.", json.dumps(body).encode()), asked
    )
    assert str(fault)
