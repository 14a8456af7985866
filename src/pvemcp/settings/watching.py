"""How others see how the service is."""
# ruff: noqa: RUF009 - setting is dataclasses.field with a help text

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pvemcp.settings import values
from pvemcp.settings.setting import setting


@dataclass(frozen=True)
class Watching:
    """Part of Settings: how others see how the service is."""

    metrics_listen: str = setting(
        "",
        values.loopback,
        "Address and port on loopback, such as `127.0.0.1:9418`, where `/metrics` answers without "
        "a grant. Without it they are at `/metrics` of the service, for holders of a grant.",
    )
    alert_mail: bool = setting(
        True,  # noqa: FBT003 - a fact
        values.switch,
        "Whether alerts go to root by mail, and so to PVE's notification targets; needs the "
        "helper of the package.",
    )
    alert_webhook: str = setting(
        "",
        values.webhook,
        "https URL to which alerts are posted as JSON; it is treated as a secret.",
        hidden=True,
    )
    alert_webhook_header_file: Path | None = setting(
        None,
        values.path,
        "File with one header line for it, such as `Authorization: Bearer …` (mode 0600 or 0640).",
    )
    alert_after: int = setting(
        120,
        values.integer(1, 86_400),
        "Seconds that a check of `/readyz` must fail before somebody is told.",
    )
