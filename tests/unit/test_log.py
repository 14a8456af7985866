"""The service's own log: a line of it is a line of the service, whatever a text in it holds."""

from __future__ import annotations

import io
import logging

from pvemcp.masking import LogMask

FORGED = "x\nWARNING pvemcp: forged\r\x1b[2J\u2028\x85"


def test_no_text_makes_a_line_of_its_own() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(LogMask(str))
    log = logging.Logger("test")  # noqa: LOG001 - one of its own
    log.addHandler(handler)
    log.warning("refused: %s", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception(FORGED, stack_info=True)
    first, second, *rest = stream.getvalue().splitlines()
    assert first.startswith("WARNING test: refused: x\\nWARNING")
    assert second.startswith("ERROR test: x\\n")
    assert rest
    assert all(line.startswith("| ") for line in rest)
    assert "\x1b" not in stream.getvalue()
