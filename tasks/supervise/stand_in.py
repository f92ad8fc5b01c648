"""Stands for a process that `tasks.starter` forks: `python -S -P stand_in.py SOCKET COMMAND...`

For its parent it is the command's process: it writes nothing, ends with the command's exit code or by the
signal that ended it, and hands SIGTERM on, also when its own parent is gone. Where the starter does not
answer or refuses, it becomes the command's process itself.

It uses nothing but the standard library's fast modules, as it has to start in no time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys

_ANSWER_SECONDS = 20.0
_LOOK_SECONDS = 1.0


def read_request(asker: socket.socket) -> tuple[list[str], dict[str, str], list[int]]:
    """Command, variables, output and error stream of a stand-in at the other end.

    Raises:
        ValueError: what was sent is no request.
        OSError: it is gone, or sends nothing.
    """
    asker.settimeout(_ANSWER_SECONDS)
    data, streams, _, _ = socket.recv_fds(asker, 65_536, 2)
    while not data.endswith(b"\n"):
        more = asker.recv(65_536)
        if not more:
            raise ValueError("the request has no end")
        data += more
    asker.settimeout(None)
    request = json.loads(data)
    return request["command"], request["environment"], streams


def main(path: str, command: list[str]) -> None:
    starter = asked(path, command)
    if starter is None:
        os.execve(command[0], command, os.environ)
    ended_as(followed(starter))


def asked(path: str, command: list[str]) -> socket.socket | None:
    """The connection to the starter, which has forked the job; None where it has not."""
    starter = socket.socket(socket.AF_UNIX)
    request = json.dumps({"command": command, "environment": dict(os.environ)}).encode() + b"\n"
    try:
        starter.settimeout(_ANSWER_SECONDS)
        starter.connect(path)
        sent = socket.send_fds(starter, [request], [1, 2])
        starter.sendall(request[sent:])
        answer = _line(starter)
    except OSError:
        starter.close()
        return None
    if not answer or json.loads(answer)["refusal"]:
        starter.close()
        return None
    starter.settimeout(None)
    return starter


def followed(starter: socket.socket) -> int:
    """Wait for the job; its exit code, or minus the number of the signal that ended it."""
    wakeup, signals = os.pipe()
    os.set_blocking(signals, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
    parent, stopped = os.getppid(), False
    while True:
        ready, _, _ = select.select([starter, wakeup], [], [], _LOOK_SECONDS)
        if starter in ready:
            answer = _line(starter)
            return int(json.loads(answer)["code"]) if answer else -signal.SIGKILL
        if wakeup in ready:
            os.read(wakeup, 512)
        if not stopped and (wakeup in ready or os.getppid() != parent):
            starter.sendall(b"T")
            stopped = True


def ended_as(code: int) -> None:
    """End this process as the job ended."""
    if code >= 0:
        os._exit(code)
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def _line(connection: socket.socket) -> bytes:
    """Up to the end of a line; what came before the other end was gone, which is mostly nothing."""
    data = b""
    while not data.endswith(b"\n"):
        try:
            more = connection.recv(4096)
        except ConnectionResetError:
            more = b""
        if not more:
            return b""
        data += more
    return data


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
