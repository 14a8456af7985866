"""Commands on a PVE host from elsewhere: the root helper there, through one kept SSH connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.host.ended import output_of
from pvemcp.host.frames import Link

if TYPE_CHECKING:
    import asyncssh

CONNECT_SECONDS = 10
ALIVE_SECONDS = 15
PORT = 22
SILENT = f"no answer within {CONNECT_SECONDS} s"
NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


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
        self._attempts = 0
        self._failure: Fault | None = None
        """Why the last attempt to connect failed, if it did."""
        self.node = ""
        self.place = f"{door.host} over SSH"

    async def ready(self) -> None:
        """Connect and learn the host's name, once. Raises a Fault that says what to repair."""
        if self.node:
            return
        link = await self.open(
            {"do": "run", "profile": "read", "shell": "uname -n", "timeout": 10, "owner": "pvemcp"}
        )
        name = (await output_of(link, "uname -n")).strip().partition(".")[0]
        if not NODE.fullmatch(name):  # PVE is asked about /nodes/NAME: it must be a name
            raise Misconfigured(
                f"{self._door.host} calls itself {name!r:.80}, which no PVE node can be called",
                hint="See what `uname -n` says there.",
            )
        self.node = name

    async def open(self, request: Mapping[str, Any]) -> Link:
        """Connect to the helper there and send the request."""
        reader, writer = await self._channel()
        link = Link(_Reader(reader), _Writer(writer))
        try:
            await link.send_object("R", request)
        except BaseException:
            link.close()
            raise
        return link

    async def allowed(self) -> str:
        """Return exec.toml as the host has it."""
        request = {"do": "operation", "name": "describe", "params": {}, "timeout": 20}
        return await output_of(await self.open(request), "the operation describe")

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            await self._connection.wait_closed()
            self._connection = None

    async def _channel(self) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        import asyncssh  # noqa: PLC0415 - slow to import

        lost: Exception = ConnectionResetError("the connection broke")
        for _ in range(2):  # a kept connection may have died since
            connection = await self._connected()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await connection.open_unix_connection(str(self._door.socket))
            except TimeoutError:
                raise self._lost(TimeoutError(SILENT)) from None
            except asyncssh.ChannelOpenError as error:
                if not connection.is_closed():
                    raise self._no_channel(error) from None
                lost = error
            except (asyncssh.Error, OSError) as error:
                lost = error
        raise self._lost(lost)

    async def _connected(self) -> asyncssh.SSHClientConnection:
        """Return the kept connection. Who waited for an attempt that failed does not repeat it."""
        seen = self._attempts
        async with self._connecting:
            if self._connection is not None and not self._connection.is_closed():
                return self._connection
            if self._failure is not None and seen != self._attempts:
                raise type(self._failure)(self._failure.message, hint=self._failure.hint)
            self._failure = None
            try:
                self._connection = await self._connect()
            except Fault as fault:
                self._failure = fault
                raise
            finally:
                self._attempts += 1
            return self._connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        import asyncssh  # noqa: PLC0415 - slow to import

        door, key, known = self._door, self._key(), self._known()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await asyncssh.connect(
                    door.host,
                    door.port,
                    username=door.user,
                    client_keys=[key],
                    known_hosts=known,
                    config=None,
                    agent_path=None,
                    preferred_auth="publickey",
                    keepalive_interval=ALIVE_SECONDS,
                )
        except asyncssh.HostKeyNotVerifiable:
            raise self._wrong_host_key(known) from None
        except asyncssh.PermissionDenied:
            raise Misconfigured(
                f"{door.host} does not let {door.user} in with {door.key}",
                hint=f"Put one line into ~{door.user}/.ssh/authorized_keys there: "
                f"restrict,port-forwarding {_public(key)}",
            ) from None
        except TimeoutError:
            raise self._lost(TimeoutError(SILENT)) from None
        except (asyncssh.Error, OSError) as error:
            raise self._lost(error) from None

    def _key(self) -> asyncssh.SSHKey:
        import asyncssh  # noqa: PLC0415 - imported already

        path = self._door.key
        try:
            return asyncssh.read_private_key(str(path))
        except (OSError, ValueError) as error:  # what cannot be parsed or decrypted is a ValueError
            raise Misconfigured(
                f"the SSH key {path} cannot be used: {_said(error)}",
                hint="ssh_key_path names a private key without a passphrase: "
                f"ssh-keygen -t ed25519 -N '' -f {path}",
            ) from None

    def _known(self) -> asyncssh.SSHKnownHosts:
        import asyncssh  # noqa: PLC0415 - imported already

        path = self._door.known_hosts
        try:
            return asyncssh.read_known_hosts(str(path))
        except FileNotFoundError:
            return asyncssh.import_known_hosts("")  # so no host key is known
        except (OSError, ValueError) as error:
            raise Misconfigured(
                f"{path} cannot be used: {_said(error)}",
                hint="Repair it, or name another file in ssh_known_hosts.",
            ) from None

    def _wrong_host_key(self, known: asyncssh.SSHKnownHosts) -> Misconfigured:
        door = self._door
        scan = f"ssh-keyscan -p {door.port} {door.host} >> {door.known_hosts}"
        compare = "Compare it on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub."
        if not any(known.match(door.host, "", door.port)):
            return Misconfigured(
                f"the host key of {door.host} is not in {door.known_hosts}",
                hint=f"Run: {scan}. {compare}",
            )
        name = door.host if door.port == PORT else f"[{door.host}]:{door.port}"
        return Misconfigured(
            f"the host key of {door.host} is not the one in {door.known_hosts}: the host was "
            "installed anew, or something else answers in its place",
            hint=f"{compare} Only if it was: ssh-keygen -R '{name}' -f {door.known_hosts}; {scan}",
        )

    def _no_channel(self, error: asyncssh.ChannelOpenError) -> Misconfigured:
        door = self._door  # OpenSSH says "open failed" for whatever the reason is
        return Misconfigured(
            f"{door.host} does not open {door.socket}: {error.reason}",
            hint="There: systemctl status pvemcp-helper.socket, which must serve the user "
            f"{door.user}; AllowStreamLocalForwarding yes in sshd_config; and port-forwarding "
            f"after restrict in ~{door.user}/.ssh/authorized_keys.",
        )

    def _lost(self, error: Exception) -> Unavailable:
        door = self._door
        return Unavailable(
            f"{door.host} cannot be reached by SSH: {_said(error)}",
            hint=f"Try: ssh -i {door.key} -p {door.port} {door.user}@{door.host}",
        )


def _said(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text or type(error).__name__


def _public(key: asyncssh.SSHKey) -> str:
    return key.export_public_key("openssh").decode().strip()


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
