"""What a person is asked about, and what is taken back."""

from __future__ import annotations

from dataclasses import dataclass

from pvemcp.settings import values
from pvemcp.settings.policy import Rule, rules
from pvemcp.settings.setting import setting


@dataclass(frozen=True)
class Safety:
    """Part of Settings: what a person is asked about, and what is taken back."""

    policy: tuple[Rule, ...] = setting(
        (),
        rules,
        "Rules that allow, ask a person, or deny: `[[policy]]` tables (see the how-to). In the "
        "environment: the same as JSON.",
    )
    approval_time: int = setting(
        600,
        values.integer(30, 86_400),
        "Seconds in which a plan must be approved by a person, and used (30 to 86400).",
    )
    approvals_waiting: int = setting(
        20,
        values.integer(1, 1000),
        "Plans of one grant that may wait for a person at once; more are refused.",
    )
    page: str = setting(
        "auto",
        values.on_off_auto,
        "The approval page at `/page`: on, off, or auto, which is on when TLS is.",
    )
    page_url: str = setting(
        "",
        values.public_url,
        "How persons reach the service with a browser, such as `https://pve1.example.org:8080`. "
        "Default: as clients reach it.",
    )
    elevation_minutes: int = setting(
        60, values.integer(0, 1440), "Most minutes for which a person can raise a ceiling; 0: none."
    )
    freeze_after_destroys: int = setting(
        20,
        values.many,
        "More steps that destroy in a minute freeze a client by themselves; 0: none do.",
    )
    freeze_after_denials: int = setting(
        60, values.many, "More denied calls in a minute freeze a client by themselves; 0: none do."
    )
    freeze_after_approvals: int = setting(
        10, values.many, "More refused or wrong approvals in a minute freeze a client; 0: none do."
    )
    safety_snapshots: int = setting(
        3,
        values.integer(0, 100),
        "How many safety snapshots a guest keeps: one is taken before a rollback, and before a "
        "disk is detached, where the storage can. 0 takes none.",
    )
    confirm_seconds: int = setting(
        60,
        values.integer(0, 600),
        "Seconds in which a change that can lock people out (network, SDN, firewall, certificate) "
        "must be confirmed over a new connection, or it is taken back (up to 600; 0: none is).",
    )
    confirm_weak: bool = setting(
        True,  # noqa: FBT003 - a fact
        values.switch,
        "Whether such a change may be made where no root helper can take it back.",
    )
