"""A process that leaves has told what wanted to know of its end, and waits for nothing else."""

import subprocess
import sys

LEAVING = """
import atexit, gc, logging, sys, threading, time
from tasks.supervise.leaving import leave
logging.basicConfig(stream=sys.stderr, format="%(message)s")
class Circle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("collected")
Circle()
atexit.register(lambda: gc.collect())  # as vLLM does, which takes seconds in a process of its size
atexit.register(print, "told")  # as wandb wants to be
threading.Thread(target=time.sleep, args=(60,)).start()  # the interpreter would wait for it
print("printed")
logging.getLogger().error("logged")
leave(3)
"""


def test_it_ends_with_its_code_and_its_logs_and_waits_for_no_thread_and_no_garbage():
    done = subprocess.run([sys.executable, "-c", LEAVING], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (3, "printed\ntold\n", "logged\n")
