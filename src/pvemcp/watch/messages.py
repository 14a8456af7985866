"""A message to an administrator. It holds no secrets, and nothing that a terminal would obey."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import formatdate

from pvemcp.watch.conditions import Condition

MOST = 1000
"""Characters of a text, some of which come from others."""


@dataclass(frozen=True, slots=True)
class Message:
    """What is told. `event` is raised, reminder, recovered or test."""

    event: str
    key: str
    severity: str
    title: str
    text: str
    host: str
    time: str
    """ISO 8601, UTC."""

    @property
    def subject(self) -> str:
        """Everything in one line."""
        word = {"recovered": "recovered: ", "reminder": "still: ", "test": "test: "}
        return f"pvemcp on {self.host}: {word.get(self.event, '')}{self.title}"

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON for a webhook; `summary` is all of it in a line."""
        return {"source": "pvemcp", "summary": self.subject, **asdict(self)}

    def as_mail(self) -> bytes:
        """Return it as a mail to root."""
        mail = EmailMessage()
        mail["From"] = "root"
        mail["To"] = "root"
        mail["Subject"] = self.subject
        mail["Date"] = formatdate(localtime=True)
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Pvemcp-Event"] = f"{self.event} {self.severity} {self.key}"
        mail.set_content(
            f"{self.text}\n\nevent: {self.event}\nseverity: {self.severity}\ntime: {self.time}\n"
            "More: pvemcp doctor, journalctl -u pvemcp\n"
        )
        return mail.as_bytes()


def message(event: str, of: Condition, now: float, mask: Callable[[str], str] = str) -> Message:
    """Return the message about a condition; secrets are masked, foreign text is cut and escaped."""

    def clean(text: str, most: int = MOST) -> str:
        masked = mask(text[: 4 * most])
        shown = "".join(char if char.isprintable() else " " for char in masked)
        return shown if len(shown) <= most else f"{shown[:most]}…"

    return Message(
        event=event,
        key=clean(of.key, 100),
        severity=of.severity,
        title=clean(of.title, 100),
        text=clean(of.text),
        host=clean(socket.gethostname(), 100),
        time=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
    )
