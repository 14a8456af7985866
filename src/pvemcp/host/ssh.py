"""Commands on a PVE host from elsewhere: the root helper there, through one kept SSH connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvemcp.errors import Misconfigured, Unavailable
from pvemcp.host.frames import Link

if TYPE_CHECKING:
    import asyncssh

CONNECT_SECONDS = 10
ALIVE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Door:
    """How the host is reached. `socket` is the helper's, over there."""

    host: str
    user: str
    port: int
    key: Path
    known_hosts: Path
    socket: Path


class Ssh:
    """Runs commands by the helper of another host, in the same profiles as there.

    Its Unix socket is forwarded (direct-streamlocal): no command of ours runs over SSH itself.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connection: asyncssh.SSHClientConnection | None = None
        self._connecting = asyncio.Lock()
        self.node = ""
        self.place = f"{door.host} over SSH"

    async def ready(self) -> None:
        """Connect and learn the host's name, once. Raises a Fault that says what to repair."""
        if self.node:
            return
        link = await self.open(
            {"do": "run", "profile": "read", "shell": "uname -n", "timeout": 10, "owner": "pvemcp"}
        )
        self.node = (await _output(link)).strip().partition(".")[0]

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Connect to the helper there and send the request."""
        import asyncssh  # noqa: PLC0415 - slow to import

        lost: Exception = ConnectionResetError("the connection broke")
        for _ in range(2):  # a kept connection may have died since
            connection = await self._connected()
            try:
                reader, writer = await connection.open_unix_connection(str(self._door.socket))
                break
            except asyncssh.ChannelOpenError as error:
                if not connection.is_closed():
                    raise self._no_channel(error) from None
                lost = error
            except (asyncssh.Error, OSError) as error:
                lost = error
        else:
            raise self._lost(lost)
        link = Link(_Reader(reader), _Writer(writer))
        await link.send_object("R", request)
        return link

    async def allowed(self) -> str:
        """Return exec.toml as the host has it."""
        request = {"do": "operation", "name": "describe", "params": {}, "timeout": 20}
        return await _output(await self.open(request))

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()
            self._connection = None

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._connecting:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        import asyncssh  # noqa: PLC0415 - slow to import

        door = self._door
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncssh.connect(
                    door.host,
                    door.port,
                    username=door.user,
                    client_keys=[str(door.key)],
                    known_hosts=str(door.known_hosts),
                    config=None,
                    agent_path=None,
                    preferred_auth="publickey",
                    keepalive_interval=ALIVE_SECONDS,
                )
        except asyncssh.HostKeyNotVerifiable as error:
            raise Misconfigured(
                f"the host key of {door.host} is not the one in {door.known_hosts}: {error.reason}",
                hint=f"Compare it on the host (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), "
                f"then: ssh-keyscan -p {door.port} {door.host} >> {door.known_hosts}",
            ) from None
        except asyncssh.PermissionDenied:
            raise Misconfigured(
                f"{door.host} does not let {door.user} in with {door.key}",
                hint=f"Put into ~{door.user}/.ssh/authorized_keys there: restrict,port-forwarding "
                "and the public key.",
            ) from None
        except (asyncssh.Error, asyncssh.KeyImportError, OSError, TimeoutError) as error:
            raise self._lost(error) from None

    def _no_channel(self, error: asyncssh.ChannelOpenError) -> Misconfigured:
        return Misconfigured(
            f"{self._door.host} does not open {self._door.socket}: {error.reason}",
            hint="There: AllowStreamLocalForwarding yes in sshd_config, port-forwarding in "
            f"authorized_keys, and systemctl status pvemcp-helper.socket, which must serve "
            f"{self._door.user}.",
        )

    def _lost(self, error: Exception) -> Unavailable:
        said = str(error) or type(error).__name__
        return Unavailable(
            f"{self._door.host} cannot be reached by SSH: {said}",
            hint=f"Try: ssh -i {self._door.key} -p {self._door.port} "
            f"{self._door.user}@{self._door.host}",
        )


async def _output(link: Link) -> str:
    text = b""
    try:
        async with asyncio.timeout(30):
            while frame := await link.receive():
                if frame.kind == "X":
                    break
                text += frame.payload if frame.kind == "O" else b""
    except TimeoutError:
        raise Unavailable("the helper there does not answer", hint="See its journal.") from None
    finally:
        link.close()
    return text.decode("utf-8", "replace")


class _Reader:
    """A reader whose errors are those of asyncio."""

    def __init__(self, reader: asyncssh.SSHReader[bytes]) -> None:
        self._reader = reader

    async def readexactly(self, n: int) -> bytes:
        import asyncssh  # noqa: PLC0415 - imported already

        try:
            return await self._reader.readexactly(n)
        except asyncssh.Error as error:
            raise ConnectionResetError(str(error)) from None


class _Writer:
    """A writer whose errors are those of asyncio."""

    def __init__(self, writer: asyncssh.SSHWriter[bytes]) -> None:
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def drain(self) -> None:
        import asyncssh  # noqa: PLC0415 - imported already

        try:
            await self._writer.drain()
        except asyncssh.Error as error:
            raise ConnectionResetError(str(error)) from None

    def close(self) -> None:
        self._writer.close()
