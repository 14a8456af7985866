"""Traces by OpenTelemetry, when an exporter is configured in its usual variables.

The MCP SDK makes a span of every message; here the steps of a call become its children. Without an
exporter nothing of OpenTelemetry but its empty interface is loaded.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

from pvemcp.call import Call

logger = logging.getLogger(__name__)

_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
MISSING = "traces are asked for (OTEL_*), and the SDK of OpenTelemetry is not installed"
INSTALL = "Install it beside pvemcp: pip install 'pvemcp[otel]'. The Debian package has none."


def wanted(env: Mapping[str, str]) -> str:
    """Return the exporter that the variables ask for: otlp, console, or empty for none."""
    named = env.get(_EXPORTER, "").strip().lower()
    if named:
        return "" if named == "none" else named
    return "otlp" if any(env.get(name) for name in _ENDPOINTS) else ""


def problem(env: Mapping[str, str]) -> str:
    """Return why traces that are asked for cannot be sent, or nothing."""
    kind = wanted(env)
    if kind and kind not in _NEEDS:
        return f"{_EXPORTER}={kind} is not known here; otlp, console and none are"
    return MISSING if kind and not all(map(_exists, _NEEDS[kind])) else ""


_OTLP = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_NEEDS = {
    "otlp": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "console": ("opentelemetry.sdk",),
}


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def start(env: Mapping[str, str]) -> Callable[[Call], None] | None:
    """Begin to export traces if the variables ask for it; return what must see closed calls."""
    kind = wanted(env)
    if not kind:
        return None
    if trouble := problem(env):
        logger.warning("%s. %s", trouble, INSTALL)
        return None
    from opentelemetry import trace  # noqa: PLC0415 - only when it is wanted
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter  # noqa: PLC0415

    def exporter() -> SpanExporter:
        if kind == "console":
            from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

            return ConsoleSpanExporter(out=sys.stderr)
        made: SpanExporter = import_module(_OTLP).OTLPSpanExporter()
        return made

    provider = TracerProvider(resource=Resource.create({"service.name": "pvemcp"}))
    provider.add_span_processor(BatchSpanProcessor(exporter()))
    trace.set_tracer_provider(provider)
    logger.info("traces are exported (%s)", kind)
    return observe


def observe(call: Call) -> None:
    """Make the steps of a closed call children of the span of its message."""
    from opentelemetry import trace  # noqa: PLC0415

    attributes = {
        "pvemcp.call": call.id,
        "pvemcp.grant": call.principal.name,
        "pvemcp.outcome": call.outcome,
    }
    trace.get_current_span().set_attributes(attributes)
    tracer = trace.get_tracer("pvemcp")
    for step in call.steps:
        end = int(step.ended * 1e9)
        about: dict[str, str | int] = {
            "http.request.method": step.method,
            "url.path": step.path,
            "http.response.status_code": step.status,
            "pvemcp.effect": str(step.effect),
            "pvemcp.verdict": str(step.verdict),
        }
        span = tracer.start_span(
            f"{step.method} {'host' if step.method == 'RUN' else 'PVE'}",
            kind=trace.SpanKind.CLIENT,
            attributes=about,
            start_time=end - int(step.ms * 1e6),
        )
        if step.status >= 400:
            span.set_status(trace.StatusCode.ERROR)
        span.end(end)
