"""Ways to an administrator: a mail to root through the helper, and a webhook.

There is no PVE API that takes a notification of others. Mail to root is handed by Postfix to
`proxmox-mail-forward`, which gives it to PVE's notification targets; the helper's operation
alert-mail does the same, or hands it to sendmail where that program is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from pvemcp import __version__
from pvemcp.errors import Fault, Misconfigured, Unavailable
from pvemcp.host.ended import Ended, ended_of
from pvemcp.host.executor import Executor, Helper
from pvemcp.host.transcript import Transcript, Unmasked
from pvemcp.settings import Settings
from pvemcp.settings.files import refuse_open_file
from pvemcp.watch.messages import Message

logger = logging.getLogger(__name__)

SECONDS = 60
TRIES = (0.0, 1.0, 5.0)
"""Seconds before each attempt at the webhook; after the last one the alert waits (alerts.py)."""
OPERATION = "alert-mail"


class Channel(Protocol):
    """A way to tell somebody."""

    name: str

    async def send(self, message: Message) -> None:
        """Tell it. Raises a Fault."""


class Mail:
    """A mail to root, by the helper."""

    name = "mail"

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def send(self, message: Message) -> None:
        """Hand it over. Whether a target then takes it is in PVE's journal."""
        request = {"do": "operation", "name": OPERATION, "params": {}, "timeout": SECONDS}
        try:
            async with asyncio.timeout(SECONDS + 20):
                ended = await self._run(request, message.as_mail())
        except TimeoutError:
            raise Unavailable("the helper gave no answer", hint=_LOOK) from None
        if not ended.ok:
            said = ended.transcript.last_line()[:200]
            raise Unavailable(f"the mail was not taken ({ended.note}): {said}", hint=_LOOK)

    async def _run(self, request: dict[str, object], mail: bytes) -> Ended:
        transcript = Transcript(Unmasked)
        link = await self._executor.open({**request, "owner": "pvemcp", "call": "alert"})
        try:
            await link.send_all(mail)
            while frame := await link.receive():
                if frame.kind == "X":
                    transcript.settle()
                    return ended_of(frame.payload, transcript)
                if frame.kind in ("O", "e"):
                    transcript.add("stdout" if frame.kind == "O" else "stderr", frame.payload)
            return Ended(transcript, why="vanished")
        finally:
            link.close()


_LOOK = "On the host: journalctl -t proxmox-mail-forward, journalctl -u pvemcp-helper."


class Webhook:
    """A POST of JSON to a URL, which may itself be a secret: it is never shown."""

    name = "webhook"

    def __init__(self, url: str, header_file: Path | None = None) -> None:
        self._url = url
        self._header_file = header_file
        self._host = urlsplit(url).hostname or ""

    async def send(self, message: Message) -> None:
        """Post it, up to three times."""
        headers = {"User-Agent": f"pvemcp/{__version__}", **self._header()}
        for number, pause in enumerate(TRIES, 1):
            await asyncio.sleep(pause)
            problem = await self._post(message, headers)
            if not problem:
                return
            logger.info("webhook at %s, attempt %d: %s", self._host, number, problem)
        raise Unavailable(f"the webhook at {self._host} {problem}", hint="See alert_webhook.")

    async def _post(self, message: Message, headers: dict[str, str]) -> str:
        timeout = aiohttp.ClientTimeout(total=15)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as http,
                http.post(
                    self._url, json=message.as_dict(), headers=headers, allow_redirects=False
                ) as answer,
            ):
                return "" if answer.status < 300 else f"answers {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return f"cannot be reached: {type(error).__name__}"

    def _header(self) -> dict[str, str]:
        """Read the header that proves who calls, anew each time: it may have been changed."""
        if self._header_file is None:
            return {}
        refuse_open_file("alert_webhook_header_file", self._header_file)
        name, colon, value = self._header_file.read_text("utf-8", "replace").strip().partition(":")
        if not colon or not name.isascii() or not value.strip().isprintable():
            raise Misconfigured(
                f"alert_webhook_header_file: {self._header_file} holds no header.",
                hint="One line, such as: Authorization: Bearer …",
            )
        return {name.strip(): value.strip()}


def channels(settings: Settings, executor: Executor) -> list[Channel]:
    """Return the ways that this installation has."""
    found: list[Channel] = []
    if settings.alert_mail and isinstance(executor, Helper):
        found.append(Mail(executor))
    if settings.alert_webhook:
        found.append(Webhook(settings.alert_webhook, settings.alert_webhook_header_file))
    return found


async def tell(found: Sequence[Channel], message: Message) -> dict[str, str]:
    """Tell everybody at once; return each channel's problem, empty when it took the message."""

    async def one(channel: Channel) -> str:
        try:
            await channel.send(message)
        except Fault as fault:
            return fault.message
        except OSError as error:
            return error.strerror or str(error)
        return ""

    problems = await asyncio.gather(*map(one, found))
    return {channel.name: problem for channel, problem in zip(found, problems, strict=True)}
