"""Commands and shells of a client: what it reads, what it may not do, and how they end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from pvemcp.call import Effect
from pvemcp.host.shells import MOST_EACH
from tests.scenarios.rig import ERAS, Caller, Rig, ToolFault, rig
from tests.scenarios.test_attacks import connected, request
from tests.scenarios.test_http import DISCOVER, HEADERS, Web, web
from tests.scenarios.unboxed import Unboxed


def unboxed(r: Rig) -> Unboxed:
    assert isinstance(r.executor, Unboxed)
    return r.executor


async def until(true: Callable[[], object]) -> None:
    """Wait for something that other tasks bring about."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


async def test_a_command_shows_its_exit_code_and_both_streams(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        text = await client.call("host_run", command="echo out; echo err >&2; exit 3")
        assert text.splitlines()[0].startswith("exit 3 (read")
        assert "stdout:\nout\nstderr:\nerr" in text
        text = await client.call("host_run", command="kill -TERM $$")
        assert text.startswith("killed by SIGTERM")


async def test_streams_stand_in_the_order_in_which_they_were_written() -> None:
    async with rig() as r, r.client() as client:
        command = "for i in 1 2 3; do echo out$i; sleep 0.05; echo err$i >&2; sleep 0.05; done"
        text = await client.call("host_run", command=command)
        order = [line for line in text.splitlines() if line[:3] in ("out", "err")]
        assert order == ["out1", "err1", "out2", "err2", "out3", "err3"]


async def test_a_command_gets_its_input_folder_and_environment() -> None:
    async with rig() as r, r.client() as client:
        value = "two words $HOME `id` %h \n\"'\\"
        text = await client.call(
            "host_run",
            command='cat; pwd; printf %s "$A"',
            stdin="in\n",
            cwd="/usr",
            env={"A": value},
        )
        assert text.split("\n", 1)[1] == f"in\n/usr\n{value}"


async def test_a_command_that_takes_too_long_is_ended_and_says_so() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("host_run", command="echo begun; sleep 60", timeout=1)
        assert "ended at its time limit" in text
        assert "begun" in text


async def test_what_does_not_fit_in_an_answer_can_be_read_on(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        text = await client.call("host_run", command="seq 1 20000")
        assert len(text) < 33_000
        assert "bytes left out; job_read(job=" in text
        assert text.endswith("\n20000")
        name = text.split('job="')[1].split('"')[0]
        cursor, whole = "0", ""
        while True:
            page = await client.call("job_read", job=name, cursor=cursor)
            body, tail = page.rsplit("\n[", 1)
            whole += body + "\n"
            if "more to read" not in tail:
                break
            cursor = tail.split('cursor="')[1].split('"')[0]
        numbers = whole.split()
        assert "".join(numbers) == "".join(map(str, range(1, 20001)))


async def test_the_rest_of_an_output_is_only_for_whom_it_belongs_to() -> None:
    async with web() as w:
        _, other = w.grants.create("other", Effect.READ)
        async with w.client() as mine, w.client(secret=other) as theirs:
            text = await mine.call("host_run", command="seq 1 20000")
            name = text.split('job="')[1].split('"')[0]
            await mine.call("job_read", job=name)
            with pytest.raises(ToolFault, match="no output"):
                await theirs.call("job_read", job=name)


async def test_progress_is_told_while_a_command_runs() -> None:
    async with rig() as r, r.client() as client:
        await client.call("host_run", command="echo working; sleep 1.5", timeout=10)
        assert client.reports[0][1:] == (10.0, "working")


async def test_json_has_the_streams_apart() -> None:
    async with rig() as r, r.client() as client:
        found = json.loads(
            await client.call("host_run", command="echo a; echo b >&2; exit 2", format="json")
        )
        assert (found["exit_code"], found["stdout"], found["stderr"]) == (2, "a\n", "b\n")


@pytest.mark.parametrize("command", ["echo \\\udc80", "x\0y"])
async def test_text_that_no_command_can_be_is_refused_in_words(command: str) -> None:
    async with rig() as r, r.client() as client:
        try:
            text = await client.call("host_run", command=command)
        except ToolFault as fault:
            text = str(fault)
        assert "internal" not in text


# Who may


async def test_a_grant_to_read_runs_nothing_that_could_change() -> None:
    async with rig() as r, r.client(ceiling=Effect.READ) as client:
        await client.call("host_run", command="true")
        for tool in ("host_run", "job_start"):
            with pytest.raises(ToolFault, match="denied"):
                await client.call(tool, command="true", effect="change")
        with pytest.raises(ToolFault, match="denied"):
            await client.call("shell_open", effect="change")
        assert [ask["profile"] for ask in unboxed(r).asked if "profile" in ask] == ["read"]


async def test_many_shells_at_once_are_no_more_than_a_grant_may_have() -> None:
    async with rig() as r, r.client() as client:
        asked = [client.call("shell_open") for _ in range(12)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(each, str) for each in found) == 5
        assert {str(each)[:9] for each in found if isinstance(each, ToolFault)} == {"conflict:"}
        assert len(unboxed(r).running) == 5


@pytest.mark.parametrize("tool", ["host_run", "job_start", "shell_open"])
async def test_root_is_refused_where_it_is_off_and_as_a_shell_or_job(tool: str) -> None:
    async with rig() as r, r.client() as client:
        arguments = {} if tool == "shell_open" else {"command": "true"}
        with pytest.raises(ToolFault, match=r"root are off|root has no"):
            await client.call(tool, effect="destroy", **arguments)
        assert not [ask for ask in unboxed(r).asked if ask.get("profile")]


async def test_a_token_without_rights_on_the_node_runs_nothing() -> None:
    async with rig() as r:
        token = r.world.token("poor@pve", roles={"/vms": "PVEVMUser"})
        async with r.client(token=token) as client:
            with pytest.raises(ToolFault, match=r"need Sys.Audit on /nodes/"):
                await client.call("host_run", command="true")
            with pytest.raises(ToolFault, match=r"need Sys.Audit"):
                await client.call("host_diagnose", operation="uptime")
        token = r.world.token("auditor@pve", roles={"/": "PVEAuditor"})
        async with r.client(token=token) as client:
            await client.call("host_run", command="true")
            with pytest.raises(ToolFault, match=r"need Sys.Modify on /nodes/"):
                await client.call("host_run", command="true", effect="change")
        assert r.audit()[-1].steps[-1]["verdict"] == "deny"


async def test_every_command_leaves_a_step_in_the_audit() -> None:
    async with rig() as r, r.client() as client:
        await client.call("host_run", command="exit 4")
        entry = r.audit()[-1]
        assert entry.arguments["command"] == "exit 4"
        step = entry.steps[-1]
        assert (step["verb"], step["path"], step["note"]) == ("RUN", "host/read", "exit 4")
        assert unboxed(r).asked[-1]["call"] == entry.id


async def test_diagnostics_are_listed_with_their_parameters_and_checked() -> None:
    async with rig() as r, r.client() as client:
        text = await client.call("host_diagnose")
        assert "smart(device" in text
        assert "job-list" not in text
        assert (await client.call("host_diagnose", operation="uptime")).startswith("exit 0")
        for params in ({"device": "-x"}, {"device": "/dev/../etc/shadow"}, {"device": 1}, {}):
            with pytest.raises(ToolFault, match="invalid"):
                await client.call("host_diagnose", operation="smart", params=params)
        with pytest.raises(ToolFault, match="did you mean uptime"):
            await client.call("host_diagnose", operation="uptim")
        with pytest.raises(ToolFault, match="no diagnostic"):
            await client.call("host_diagnose", operation="guest-exec", params={"vmid": 100})


# How commands end


async def test_output_is_taken_while_input_is_still_being_sent() -> None:
    async with rig() as r, r.client() as c:
        text = await c.call("host_run", command="cat", stdin="x" * 3_000_000, timeout=5)
        assert text.startswith("exit 0")


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_that_hangs_up_ends_its_command(era: str) -> None:
    async with web() as w:
        arguments = {"command": "sleep 600 & sleep 600", "timeout": 300}
        async with asyncio.timeout(20), connected(w) as (_, writer):
            if era == ERAS[-1]:
                meta = DISCOVER["params"]
                params = {**meta, "name": "host_run", "arguments": arguments}
                message = json.dumps({**DISCOVER, "method": "tools/call", "params": params})
                names = {**HEADERS, "Mcp-Method": "tools/call", "Mcp-Name": "host_run"}
            else:
                session = await _legacy_session(w)
                params = {"name": "host_run", "arguments": arguments}
                call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
                message = json.dumps(call)
                names = {"Accept": HEADERS["Accept"], "Mcp-Session-Id": session}
            writer.write(request(w, message.encode(), names))
            await until(lambda: unboxed(w.rig).running)
            writer.transport.abort()
        await until(lambda: unboxed(w.rig).running[0].returncode is not None)
        await until(lambda: w.rig.audit()[-1].outcome == "cancelled")


async def _legacy_session(w: Web) -> str:
    params = {
        "protocolVersion": ERAS[0],
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    plain = {"MCP-Protocol-Version": "", "Mcp-Method": ""}
    _, headers, _ = await w.post(plain, json=message)
    session = headers["mcp-session-id"]
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    await w.post(plain | {"Mcp-Session-Id": session}, json=ready)
    return session


async def test_fifty_commands_at_once_do_not_hold_up_other_calls() -> None:
    async with rig() as r, r.client() as client:
        crowd = [
            asyncio.create_task(client.call("host_run", command=f"sleep 0.2; echo {i}"))
            for i in range(50)
        ]
        assert "12 guests" in await client.call("inventory_find")
        answers = await asyncio.gather(*crowd)
        assert [text.splitlines()[-1] for text in answers] == [str(i) for i in range(50)]


# Shells


async def test_a_shell_keeps_its_state_and_reads_on(era: str) -> None:
    async with rig() as r, r.client(era=era) as client:
        name = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=name, text="cd /usr; WORD=kept")
        text = await client.call("shell_send", shell=name, text='pwd; echo "$WORD"')
        assert "\n/usr\nkept\n" in text
        assert "[nothing new]" in await client.call("shell_read", shell=name)
        again = await client.call("shell_read", shell=name, cursor=0)
        assert "\n/usr\nkept\n" in again


async def said(client: Caller, shell: str, what: str) -> None:
    """Wait until a shell has written something: a busy machine lets it pause in between."""
    async with asyncio.timeout(20):
        while what not in await client.call("shell_read", shell=shell, cursor=0, wait=1):
            pass


async def test_a_shell_is_interrupted_resized_and_ended() -> None:
    async with rig() as r, r.client() as client:
        name = (await client.call("shell_open")).split()[0]
        # A program that has the terminal says so: until then, ctrl-c may reach nobody.
        await client.call("shell_send", shell=name, text="sh -c \"echo be''gun; exec sleep 600\"")
        await said(client, name, "\nbegun")
        await client.call("shell_send", shell=name, key="ctrl-c")
        await said(client, name, "^C")
        await client.call("shell_send", shell=name, rows=33, columns=77)
        await client.call("shell_send", shell=name, text="stty size")
        await said(client, name, "33 77")
        await client.call("shell_send", shell=name, text="exit 7")
        await said(client, name, "ended: exit 7")
        with pytest.raises(ToolFault, match="has ended: exit 7"):
            await client.call("shell_send", shell=name, text="true")


async def test_long_lines_and_odd_bytes_arrive_whole_in_a_shell() -> None:
    async with rig() as r, r.client() as client:
        name = (await client.call("shell_open", columns=200)).split()[0]
        line = "x" * 20_000
        await client.call("shell_send", shell=name, text=f"A={line}; echo ${{#A}}", wait=10)
        assert "\n20000\n" in await client.call("shell_read", shell=name, cursor=0, wait=1)
        text = await client.call("shell_send", shell=name, text="printf 'ü\\xff\\e[31mred'")
        assert "ü\\xffred" in text


async def test_closing_a_shell_ends_what_runs_in_it() -> None:
    async with rig() as r, r.client() as client:
        name = (await client.call("shell_open")).split()[0]
        await client.call("shell_send", shell=name, text="sleep 600 & sleep 600", wait=0)
        await client.call("shell_close", shell=name)
        await until(lambda: unboxed(r).running[0].returncode is not None)
        assert "ended already" in await client.call("shell_close", shell=name)


async def test_a_grant_has_five_shells_at_most_and_sees_only_its_own() -> None:
    async with web() as w:
        _, other = w.grants.create("other", Effect.READ)
        async with w.client() as mine, w.client(secret=other) as theirs:
            names = [(await mine.call("shell_open")).split()[0] for _ in range(MOST_EACH)]
            with pytest.raises(ToolFault, match="a grant may have 5"):
                await mine.call("shell_open")
            for tool in ("shell_read", "shell_send", "shell_close"):
                with pytest.raises(ToolFault, match="no shell"):
                    await theirs.call(tool, shell=names[0])
            await mine.call("shell_close", shell=names[0])
            await mine.call("shell_open")


async def test_a_shell_of_before_a_restart_is_explained() -> None:
    async with rig() as r, r.client() as client:
        with pytest.raises(ToolFault, match="the service was restarted"):
            await client.call("shell_read", shell="shell-6700aa00-0badcafe")
        with pytest.raises(ToolFault, match="no shell nonsense"):
            await client.call("shell_read", shell="nonsense")
