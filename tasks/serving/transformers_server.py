"""`transformers serve` on a Unix socket.  `python -m tasks.serving.transformers_server FOLDER SOCKET`

Differs from the command in two things. It listens where only this user can reach it: the command knows only
ports, which every user of a machine can ask. And it does not guess a reasoning parser by the model's family
(of Qwen's models, which do not think by themselves): the proxy takes the thinking out.
"""

from __future__ import annotations

import sys

import torch
from transformers.cli.serve import Serve
from transformers.cli.serving import utils


class _SocketServe(Serve):
    def start_server(self) -> None:
        """Called at the end of `Serve.__init__` where it is not to block; `main` starts the server."""


def main(folder: str, socket: str) -> None:
    utils._RESPONSE_TEMPLATE_FALLBACKS.clear()
    gpu = torch.cuda.is_available()
    serve = _SocketServe(
        folder, device="cuda:0" if gpu else "cpu", dtype="bfloat16" if gpu else "float32", non_blocking=True
    )
    serve.server.config.uds = socket
    serve.server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
