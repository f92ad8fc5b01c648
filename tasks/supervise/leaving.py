"""The end of a process that has done its work."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End this process at once, its logs written.

    The interpreter would first take apart all that was imported and made: 1.4 s with torch and TRL, 2.4 s
    with vLLM, for every job, while the next one waits. Nothing is lost by leaving that to the kernel: what a
    job publishes is closed by then, and whoever started it ends what is left of its process group.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
