"""What a piece of work may cost."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fails where what is inside takes more of this thread's processor time.

    What threads of other tests do meanwhile does not count, nor the collection of their garbage, which can
    begin at any allocation (1.3 s for 18 million objects).
    """
    gc.disable()
    started = time.thread_time()
    try:
        yield
        spent = time.thread_time() - started
    finally:
        gc.enable()
    assert spent < seconds, f"{spent:.2f} s, at most {seconds}"
