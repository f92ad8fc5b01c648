"""Attacks on the sandbox. Each program returns the right answer only if its attack works, so every one must
be scored wrong, leave no process and no file behind, and leave the sandbox as it was."""

import os
import time
from pathlib import Path

import psutil
import pytest

from tasks.rewards.pool import VerifierPool
from tasks.sandbox import Sandbox, sandbox_layers
from tests.rewards.rows import problem

RIGHT = "def f(x):\n    return x + 1"
LAYERS = sandbox_layers()


@pytest.fixture(scope="module")
def guarded():
    """A pool of one sandbox with a short limit."""
    with VerifierPool(workers=1, seconds_per_item=1.0) as opened:
        yield opened


def judge_call(pool, program: str, expected=2) -> str:
    asked = problem("code", "", entry_point="f", cases=[{"args": [1], "expected": expected}])
    return pool.verify([asked], [f"<think> a </think>\n```python\n{program}\n```"])[0].verdict.value


def judge_stdin(pool, program: str, stdout="2\n") -> str:
    asked = problem("code", "", cases=[{"stdin": "1\n", "stdout": stdout}])
    return pool.verify([asked], [f"<think> a </think>\n```python\n{program}\n```"])[0].verdict.value


def needs(*layers: str) -> None:
    missing = [layer for layer in layers if not LAYERS[layer]]
    if missing:
        pytest.skip(f"this kernel has no {', '.join(missing)}")


FORGERIES = {
    "exit code 0": "import os\nos._exit(0)",
    "sys.exit(0) in the function": "import sys\ndef f(x):\n    sys.exit(0)",
    "printing the expected word": "def f(x):\n    print('2'); print('correct'); print('[2]')",
    "writing to the result's pipe": "import os\ndef f(x):\n    os.write(3, b'[2]'); os._exit(0)",
    "writing to every descriptor": """
import os
def f(x):
    for d in range(256):
        try: os.write(d, b'{"outcome": "ended", "status": 0, "nonce": ""}\\n[2]')
        except OSError: pass
    os._exit(0)""",
    "equal to everything": """
class Same(int):
    def __eq__(self, other): return True
def f(x):
    return Same(5)""",
    "patched builtins": """
import builtins, json
json.dumps = lambda *a, **k: 'true'
builtins.isinstance = lambda *a: True
builtins.len = lambda *a: 1
builtins.zip = lambda *a, **k: []
def f(x):
    return 7""",
    "reading the harness's frames for expected values": """
import sys
def f(x):
    frame, found = sys._getframe(), []
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and 'calls' in value:
                found += [v for k, v in value.items() if 'expected' in str(k) or 'cases' in str(k)]
        frame = frame.f_back
    return 2 if found else 0""",
    "searching the heap for expected values": """
import gc
def f(x):
    return 2 if any(isinstance(o, dict) and 'expected' in o for o in gc.get_objects()) else 0""",
}


@pytest.mark.parametrize("program", FORGERIES.values(), ids=FORGERIES)
def test_a_verdict_cannot_be_forged(guarded, program):
    assert judge_call(guarded, program) == "wrong"


def test_printing_success_on_standard_output_is_not_success(guarded):
    assert judge_stdin(guarded, "print('correct'); print('2 passed'); import os; os._exit(0)") == "wrong"


HUNGRY = {
    "infinite loop": ("while True: pass", "timeout"),
    "sleeping": ("import time\ntime.sleep(60)", "timeout"),
    "ignoring SIGTERM and the alarm": (
        "import signal\nfor s in (15, 2, 14, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        "timeout",
    ),
    "memory bomb": ("x = bytearray(2**31)\nprint(2)", "wrong"),
    "memory bomb, slowly": ("x = []\nwhile True: x.append(bytearray(2**24))", None),
    "giant output": ("while True: print('2' * 65536)", "wrong"),
    "deep recursion": ("def g(): g()\nimport sys\nsys.setrecursionlimit(10**9)\ng()\nprint(2)", None),
    "a number without end": ("print(len(str(10**(10**8))))", None),
    "threads without end": (
        "from threading import Thread\nimport time\ntry:\n"
        "    while True: Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "except RuntimeError: print(3)",
        None,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("program", "expected"), HUNGRY.values(), ids=HUNGRY)
def test_a_hungry_program_is_stopped_in_time(guarded, program, expected):
    started = time.monotonic()
    found = judge_stdin(guarded, program)
    assert found == expected if expected else found in ("wrong", "timeout")
    assert time.monotonic() - started < 5


CHILDREN = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "daemonised child": """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(30)
print(2)""",
    "a command": "import subprocess\nsubprocess.run(['sleep', '30'])\nprint(2)",
    "a shell": "import os\nprint(2 if os.system('true') == 0 else 0)",
    "executing another program": "import os\nos.execv('/bin/echo', ['echo', '2'])",
    "multiprocessing": "from multiprocessing import Process\nProcess(target=print, args=(2,)).start()",
}


@pytest.mark.parametrize("program", CHILDREN.values(), ids=CHILDREN)
def test_no_child_process(guarded, program):
    needs("system_call_filter")
    assert judge_stdin(guarded, program) in ("wrong", "timeout")
    zygotes = [psutil.Process(pid) for pid in guarded.process_ids()]
    assert not [child for zygote in zygotes for child in zygote.children(recursive=True)]


def test_files_outside_its_folder_are_neither_read_nor_written(guarded, tmp_path):
    needs("file_rules")
    secret, target = tmp_path / "tests.json", tmp_path / "written"
    secret.write_text("2")
    os.chmod(tmp_path, 0o777)
    for path in (str(secret), "/etc/passwd", str(Path(__file__)), "/proc/1/cmdline"):
        assert judge_call(guarded, f"def f(x):\n    return 2 if open({path!r}).read() else 0") == "wrong"
    assert judge_call(guarded, f"def f(x):\n    open({str(target)!r}, 'w').write('x'); return 2") == "wrong"
    assert judge_call(guarded, "import os\ndef f(x):\n    return 2 if os.listdir('/root') else 0") == "wrong"
    assert not target.exists()


def test_links_out_of_the_folder_lead_nowhere(guarded, tmp_path):
    needs("file_rules")
    (tmp_path / "secret").write_text("2")
    for make in ("symlink", "link"):
        link = f"os.{make}({str(tmp_path / 'secret')!r}, 'l')"
        program = f"import os\ndef f(x):\n    {link}; return int(open('l').read())"
        assert judge_call(guarded, program) == "wrong"
    program = f"import os\ndef f(x):\n    os.symlink({str(tmp_path)!r}, 'd'); open('d/new', 'w'); return 2"
    assert judge_call(guarded, program) == "wrong"
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]


def test_proc_shows_no_other_process(guarded):
    needs("file_rules")
    program = """
import os
def f(x):
    return 2 if any(open(f'/proc/{p}/environ').read() for p in os.listdir('/proc') if p.isdigit()) else 0"""
    assert judge_call(guarded, program) == "wrong"


SIGNALS = ["os.kill(os.getppid(), 9)", "os.kill(-1, 9)", "os.kill(1, 15)", "os.killpg(0, 9)", "os.setsid()"]


@pytest.mark.parametrize("call", SIGNALS)
def test_no_signal_reaches_anybody(guarded, call):
    needs("system_call_filter")
    assert judge_call(guarded, RIGHT) == "correct"
    before = guarded.process_ids()
    assert judge_call(guarded, f"import os\ndef f(x):\n    {call}; return 2") == "wrong"
    assert guarded.process_ids() == before


def test_the_memory_of_the_parent_is_closed(guarded):
    needs("file_rules", "system_call_filter")
    program = "import os\ndef f(x):\n    open(f'/proc/{os.getppid()}/mem', 'rb').seek(4096); return 2"
    assert judge_call(guarded, program) == "wrong"
    program = """
import ctypes, os
def f(x):
    libc = ctypes.CDLL(None, use_errno=True)
    return 2 if libc.ptrace(16, os.getppid(), 0, 0) == 0 else 0"""
    assert judge_call(guarded, program) == "wrong"


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_no_sockets(guarded, family):
    needs("system_call_filter")
    assert (
        judge_call(guarded, f"import socket\ndef f(x):\n    socket.socket(socket.{family}); return 2")
        == "wrong"
    )


def test_the_disk_does_not_fill(guarded):
    needs("private_folder")
    program = """
def f(x):
    for n in range(40):
        open(str(n), 'wb').write(bytes(10 * 2**20))
    return 2"""
    assert judge_call(guarded, program) == "wrong"
    assert judge_call(guarded, "def f(x):\n    open('big', 'wb').write(bytes(2**25)); return 2") == "wrong"


def test_each_program_starts_in_an_empty_writable_folder_and_environment(guarded):
    for _ in range(2):
        program = """
import os
def f(x):
    clean = not os.listdir('.') and not os.environ
    open('mine', 'w').write('1')
    return 2 if clean and open('mine').read() == '1' else 0"""
        assert judge_call(guarded, program) == "correct"


def test_no_namespaces_mounts_or_privileges(guarded):
    needs("system_call_filter")
    program = """
import ctypes
def f(x):
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)
    return 2 if 0 in (libc.unshare(0x10000000), mounted, libc.chroot(b'.')) else 0"""
    assert judge_call(guarded, program) == "wrong"


def test_the_sandbox_still_works_after_all_that(guarded):
    assert judge_call(guarded, RIGHT) == "correct"
    assert judge_stdin(guarded, "print(int(input()) + 1)") == "correct"


def test_nothing_is_left_when_it_closes():
    sandbox = Sandbox()
    pid = sandbox.pid
    sandbox.run_stdin("print(1)", "", 1.0)
    sandbox.close()
    assert not psutil.pid_exists(pid)
