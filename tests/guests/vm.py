"""A real VM: QEMU without KVM, with the guest agent that Debian ships."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pvemcp.sim.agent_bridge import AgentFault, command
from tests.guests.initrd import PORT, System, system
from tests.host.images import SYSTEM_PATH, HostFault

BOOT_SECONDS = 90
"""It answers after some 6 s on an idle computer."""
_WITH_US = ("setpriv", "--pdeathsig=KILL")


@asynccontextmanager
async def real_vm() -> AsyncIterator[str]:
    """Boot a VM, and yield the socket of its guest agent once that answers. Raises HostFault."""
    booted = await asyncio.to_thread(system)
    with tempfile.TemporaryDirectory(prefix="pvemcp-vm-") as name:
        folder = Path(name)
        agent, console = folder / "agent", folder / "console"
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [*_WITH_US, *_qemu(booted, agent, console)],
            stdin=subprocess.DEVNULL,
            env={"PATH": SYSTEM_PATH},
            start_new_session=True,
        )
        try:
            await _until_it_answers(process, agent, console)
            yield str(agent)
        finally:
            process.kill()
            process.wait()


def _qemu(booted: System, agent: Path, console: Path) -> list[str]:
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-machine", "pc,accel=tcg", "-cpu", "qemu64", "-smp", "1", "-m", "256"),
        *("-display", "none", "-nic", "none", "-serial", f"file:{console}"),
        *("-kernel", str(booted.kernel), "-initrd", str(booted.initrd)),
        *("-append", "console=ttyS0 quiet mitigations=off panic=-1"),
        *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=agent,name={PORT}"),
    ]


async def _until_it_answers(process: subprocess.Popen[bytes], agent: Path, console: Path) -> None:
    try:
        async with asyncio.timeout(BOOT_SECONDS):
            while process.poll() is None:
                try:
                    await command(str(agent), "guest-ping", seconds=1)
                except (AgentFault, OSError):
                    await asyncio.sleep(0.1)
                else:
                    return
    except TimeoutError:
        pass
    raise HostFault(f"the VM does not answer (QEMU: {process.poll()}):\n{_said(console)}")


def _said(console: Path) -> str:
    return console.read_text(errors="replace")[-4000:] if console.exists() else ""
