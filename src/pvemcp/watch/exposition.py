"""The figures of the service in the text format of Prometheus."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvemcp import __version__
from pvemcp.access.limits import Gate
from pvemcp.access.sessions import Sessions
from pvemcp.audit import Audit
from pvemcp.metrics import Durations, Metrics
from pvemcp.settings import Settings
from pvemcp.store import FILE
from pvemcp.tls import own_certificate, validity
from pvemcp.watch.readiness import Report, State

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Frozen:
    """How many freezes hold, how many of them other nodes made, and how many nodes are behind."""

    all: int = 0
    elsewhere: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class Exposition:
    """Whatever has figures."""

    settings: Settings
    metrics: Metrics
    gate: Gate
    sessions: Sessions
    audit: Audit
    alerts: Mapping[str, int]
    """Messages sent, by channel; failures under `NAME failed`."""
    frozen: Callable[[], Frozen]

    def text(self, report: Report) -> bytes:
        """Return everything as Prometheus reads it."""
        from prometheus_client import CollectorRegistry, generate_latest  # noqa: PLC0415 - if asked

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self, report))
        return generate_latest(registry)


class _Collector:
    """What prometheus_client asks for families of metrics."""

    def __init__(self, of: Exposition, report: Report) -> None:
        self._of = of
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Return every family."""
        yield from self._of_calls()
        yield from self._of_clients()
        yield from self._of_service()

    def _of_calls(self) -> Iterator[Metric]:
        seen = self._of.metrics
        labels = ("tool", "effect", "outcome")
        yield _counter("pvemcp_calls", "Tool calls that ended", labels, seen.calls)
        yield _durations("pvemcp_call_seconds", "Time of tool calls", "tool", seen.seconds)
        labels = ("verb", "effect", "status")
        yield _counter("pvemcp_pve_requests", "Requests to PVE for calls", labels, seen.requests)
        yield _durations(
            "pvemcp_pve_request_seconds", "Time of requests to PVE", "verb", seen.request_seconds
        )
        ended = ("effect", "outcome")
        yield _counter("pvemcp_commands", "Commands on the host", ended, seen.commands)

    def _of_clients(self) -> Iterator[Metric]:
        of = self._of
        yield _gauge("pvemcp_sessions", "Sessions that are open", len(of.sessions.list()))
        yield _gauge("pvemcp_calls_running", "Calls under way", of.gate.total)
        frozen = of.frozen()
        yield _gauge("pvemcp_frozen", "Freezes that hold, of one client or of all", frozen.all)
        about = "Freezes that hold and were made on other nodes"
        yield _gauge("pvemcp_frozen_elsewhere", about, frozen.elsewhere)
        about = "Nodes that do not know the freezes of this one as they are"
        yield _gauge("pvemcp_freezes_untold", about, frozen.behind)
        yield _counter("pvemcp_limits_hit", "Refusals by a limit", ("limit",), of.gate.hits)
        yield _counter(
            "pvemcp_auth_failures", "Requests not let in", ("reason",), of.metrics.refused
        )

    def _of_service(self) -> Iterator[Metric]:
        of = self._of
        labels = {"version": __version__, "python": platform.python_version()}
        yield _gauge("pvemcp_build_info", "The running version", 1, labels)
        folder: Path = of.settings.state_dir
        size = sum(path.stat().st_size for path in folder.glob(f"{FILE}*"))
        yield _gauge("pvemcp_database_bytes", "Size of the database with the audit", size)
        yield _counter("pvemcp_audit_lost", "Calls that could not be audited", (), of.audit.lost)
        yield _counter("pvemcp_alerts", "Alerts by channel", ("channel",), of.alerts)
        with contextlib.suppress(OSError, ValueError):
            if of.settings.tls_cert is not None:
                _, end = validity(own_certificate(of.settings.tls_cert))
                about = "When the own certificate expires, in seconds since the epoch"
                yield _gauge("pvemcp_certificate_expiry_seconds", about, end.timestamp())
        yield self._of_readiness()

    def _of_readiness(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

        about = "Whether a check of readiness passes: 1 ok, 0.5 warning, 0 failed"
        family = GaugeMetricFamily("pvemcp_ready", about, labels=("check",))
        for finding in self._report.findings:
            if finding.state is not State.OFF:
                value = {State.OK: 1.0, State.WARN: 0.5}.get(finding.state, 0.0)
                family.add_metric((finding.name,), value)
        return family


def _gauge(name: str, about: str, value: float, labels: Mapping[str, str] | None = None) -> Metric:
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    given = labels or {}
    family = GaugeMetricFamily(name, about, labels=tuple(given))
    family.add_metric(tuple(given.values()), value)
    return family


def _counter(
    name: str, about: str, labels: tuple[str, ...], values: Mapping[Any, int] | int
) -> Metric:
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily(name, about, labels=labels)
    if isinstance(values, int):
        family.add_metric((), values)
        return family
    for key, value in list(values.items()):
        family.add_metric((key,) if isinstance(key, str) else key, value)
    return family


def _durations(name: str, about: str, label: str, values: Mapping[str, Durations]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415

    family = HistogramMetricFamily(name, about, labels=(label,))
    for key, durations in list(values.items()):
        family.add_metric((key,), list(durations.buckets()), sum_value=durations.sum)
    return family
