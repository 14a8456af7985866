"""Asks the root helper in a machine, frame by frame: copied into it and run there.

It reads JSON from stdin: a list of {"raw": hex} or {"request": …, "then": [[kind, hex], …],
"read": bool}, and prints for each the list of [kind, text] that came back.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from typing import Any

HEADER = struct.Struct(">cI")
PATH = "/run/pvemcp-helper.sock"


def frame(kind: str, payload: bytes) -> bytes:
    """Return one frame."""
    return HEADER.pack(kind.encode(), len(payload)) + payload


def ask(question: dict[str, Any]) -> list[list[str]]:
    """Send one question and return what came back until the end."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(question.get("patience", 100))
        try:
            link.connect(PATH)
            if "raw" in question:
                link.sendall(bytes.fromhex(question["raw"]))
                link.shutdown(socket.SHUT_WR)
            else:
                with contextlib.suppress(BrokenPipeError):  # refused unread: the answer is there
                    link.sendall(frame("R", json.dumps(question["request"]).encode()))
                    for kind, payload in question.get("then", []):
                        link.sendall(frame(kind, bytes.fromhex(payload)))
            return received(link) if question.get("read", True) else []
        except OSError as error:
            return [["!", str(error)]]


def received(link: socket.socket) -> list[list[str]]:
    """Read frames until an end."""
    data, found = b"", list[list[str]]()
    while True:
        with contextlib.suppress(ConnectionResetError):
            more = link.recv(65536)
            data += more
        if not more:
            return found
        while len(data) >= HEADER.size:
            kind, size = HEADER.unpack_from(data)
            if len(data) < HEADER.size + size:
                break
            payload = data[HEADER.size : HEADER.size + size]
            found.append([kind.decode("latin-1"), payload.decode("utf-8", "replace")])
            data = data[HEADER.size + size :]
        if found and found[-1][0] in "XFA":
            return found


def main() -> None:
    """Ask everything at once, each in a thread, and print the answers in order."""
    questions = json.load(sys.stdin)
    answers: list[Any] = [None] * len(questions)

    def one(number: int) -> None:
        answers[number] = ask(questions[number])

    threads = [threading.Thread(target=one, args=(n,)) for n in range(len(questions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
