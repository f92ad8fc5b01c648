"""Files of the user, memory, exits and root: what a program cannot change, escape or blame on the sandbox."""

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from tasks.rewards.pool import VerifierPool, Worker
from tasks.sandbox import Run, Sandbox, SandboxError, WeakSandboxError, require_layers, sandbox_layers
from tests.rewards.rows import problem

LAYERS = sandbox_layers()
NOBODY = 65534


@pytest.fixture(scope="module")
def sandbox():
    opened = Sandbox()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def guarded():
    with VerifierPool(workers=1, seconds_per_item=3.0) as opened:
        yield opened


def needs(*layers: str) -> None:
    missing = [layer for layer in layers if not LAYERS[layer]]
    if missing:
        pytest.skip(f"this kernel has no {', '.join(missing)}")


def printed(sandbox: Sandbox, program: str, stdin: str = "") -> str:
    return sandbox.run_stdin(textwrap.dedent(program), stdin, 5.0).output.decode()


def judged(pool, program: str):
    asked = problem("code", "", entry_point="f", cases=[{"args": [1], "expected": 2}])
    return pool.verify([asked], [f"<think> a </think>\n```python\n{textwrap.dedent(program)}\n```"])[0]


# ---- the user's files ----------------------------------------------------------------------------

CHANGE_FILES = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def change(path):
    name = path.encode()
    attempts = [
        lambda: os.chmod(path, 0o4777), lambda: libc.chmod(name, 0o4777) and 1 / 0,
        lambda: libc.fchmodat(-100, name, 0o4777, 0) and 1 / 0,
        lambda: libc.syscall(452, -100, name, 0o4777, 0) and 1 / 0,
        lambda: os.chown(path, -1, os.getgid()), lambda: os.lchown(path, -1, os.getgid()),
        lambda: os.utime(path, (0, 0)), lambda: os.setxattr(path, 'user.mine', b'1'),
        lambda: os.truncate(path, 0), lambda: os.rename(path, path + '2'), lambda: os.remove(path),
        lambda: os.link(path, 'own'), lambda: open(path, 'a'), lambda: open(path).read(),
        lambda: os.open(path + '3', os.O_CREAT | os.O_WRONLY, 0o4777),
        lambda: os.mkdir(path + '4'), lambda: os.symlink(path, 'l') or os.chmod('l', 0o4777),
    ]
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except (OSError, ZeroDivisionError):
            continue
        print('attempt', number, 'worked')
"""


def state(path: Path) -> tuple:
    found = path.stat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, path.read_bytes(), os.listxattr(path)


def test_a_file_of_the_user_is_not_changed(sandbox, tmp_path):
    needs("file_rules", "system_call_filter")
    key = tmp_path / "id_ed25519"
    key.write_text("private")
    key.chmod(0o600)
    before = state(key)
    assert printed(sandbox, CHANGE_FILES + f"change({str(key)!r})\nprint('end')") == "end\n"
    assert state(key) == before
    assert os.listdir(tmp_path) == ["id_ed25519"]


AS_ANOTHER_USER = """
import ctypes, os, sys
user, python, repository, program = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.stdin.read()
libc = ctypes.CDLL(None, use_errno=True)
place = os.open(python, os.O_PATH)
top = '/' + python.split('/')[1]
if os.stat(top).st_mode & 5 != 5:  # open the way to a Python below /root, for this process alone
    assert libc.unshare(0x20000) == 0
    place = os.open(python, os.O_PATH)
    assert libc.mount(None, b'/', None, ctypes.c_ulong(16384 | 1 << 18), None) == 0
    assert libc.mount(b'tmpfs', top.encode(), b'tmpfs', ctypes.c_ulong(0), b'mode=0755') == 0
    os.makedirs(python)
    source = f'/proc/self/fd/{place}'.encode()
    assert libc.mount(source, python.encode(), None, ctypes.c_ulong(4096), None) == 0
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.chdir(repository)
sys.path.insert(0, repository)
from tasks.sandbox import Sandbox
sandbox = Sandbox()
print(sandbox.layers)
print(sandbox.run_stdin(program, '', 5.0).output.decode(), end='')
sandbox.close()
"""


def test_a_file_of_the_user_is_not_changed_where_the_program_has_the_users_number(tmp_path):
    """The pool is started by a user who is not root, and the file is that user's."""
    needs("file_rules", "system_call_filter")
    if os.getuid() != 0:
        pytest.skip("the test above is the same for a user who is not root")
    user, shared = 12_345, Path("/tmp") / f"r1-other-user-{os.getpid()}"
    shared.mkdir()
    try:
        key = shared / "id_ed25519"
        key.write_text("private")
        key.chmod(0o600)
        for path in (shared, key):
            os.chown(path, user, user)
        before = state(key)
        program = CHANGE_FILES + f"print(os.getuid())\nchange({str(key)!r})\nprint('end')"
        repository = Path(__file__).parents[2]
        argv = [sys.executable, "-c", AS_ANOTHER_USER, str(user), sys.base_prefix, str(repository)]
        done = subprocess.run(argv, input=program, capture_output=True, text=True, timeout=60, check=False)
        lines = done.stdout.splitlines()
        assert done.returncode == 0, done.stderr
        assert "'unprivileged_user': True" in lines[0]
        assert lines[1:] == ["1000" if LAYERS["network_namespace"] else str(user), "end"]
        assert state(key) == before
        assert os.listdir(shared) == ["id_ed25519"]
    finally:
        shutil.rmtree(shared)


def test_the_root_of_a_program_has_only_what_it_may_read(sandbox):
    needs("own_root")
    program = """
        import os
        others = ('/proc', '/etc', '/home', '/root/.ssh', '/var', '/sys', '/dev/shm')
        print(list(filter(os.path.exists, others)), os.path.exists(os.__file__))
    """
    assert printed(sandbox, program) == "[] True\n"


def test_nothing_in_its_own_folder_gets_special_bits(sandbox):
    needs("system_call_filter")
    program = """
        import os
        for attempt in (
            lambda: os.open('a', os.O_CREAT | os.O_WRONLY, 0o4777), lambda: os.chmod('b', 0o4777),
            lambda: os.mkdir('c', 0o2777), lambda: os.setxattr('b', 'security.capability', bytes(20)),
            lambda: os.utime('b', (0, 0)), lambda: os.link('b', 'd'), lambda: os.symlink('/', 'e'),
            lambda: os.mknod('f'), lambda: os.mkfifo('g'),
        ):
            open('b', 'w').close()
            try:
                attempt()
                print('worked')
            except PermissionError:
                pass
        print(os.listdir('.'))
    """
    assert printed(sandbox, program) == "['b']\n"


# ---- memory --------------------------------------------------------------------------------------


def test_memory_outside_the_limit_is_refused(sandbox):
    needs("system_call_filter", "private_folder", "file_rules")
    program = """
        import mmap, os, sys
        def tried(attempt):
            try:
                return attempt() and 'worked'
            except (OSError, MemoryError, AttributeError) as failure:
                return 'refused'
        def fill():
            for n in range(5):
                with open(f'f{n}', 'wb') as file:
                    file.write(bytes(15 * 2**20))
            return True
        def input_as_memory():
            os.ftruncate(0, 2**30)
            return True
        print(tried(lambda: os.memfd_create('x')))
        print(tried(lambda: mmap.mmap(-1, 2**30)))
        print(tried(lambda: open('/dev/shm/x', 'w')))
        print(tried(fill))
        print(tried(input_as_memory))
        print(tried(lambda: os.write(0, b'x' * 2**20)))
    """
    assert printed(sandbox, program, "some input") == "refused\n" * 6


# ---- exits ---------------------------------------------------------------------------------------

EXITS = {
    **{f"status {status}": f"os._exit({status})" for status in (0, 1, 77, 97, 127, 255)},
    "sys.exit(97)": "sys.exit(97)",
    "abort": "os.abort()",
    "a null pointer": "ctypes.string_at(0)",
    "a fatal signal to itself": "signal.raise_signal(9)",
    "closing everything, then 97": "os.closerange(0, 256); os._exit(97)",
    "writing to all descriptors": "[write(d) for d in range(256)]; os._exit(97)",
}
PRELUDE = """
import ctypes, os, signal, sys
def write(d):
    try: os.write(d, b'+')
    except OSError: pass
"""


@pytest.mark.parametrize("call", EXITS.values(), ids=EXITS)
def test_every_end_of_a_program_is_its_own_fault(guarded, call):
    assert judged(guarded, f"{PRELUDE}\ndef f(x):\n    {call}").verdict.value == "wrong"
    assert judged(guarded, f"{PRELUDE}\n{call}").verdict.value == "wrong"


def test_a_failed_isolation_is_an_error_and_never_a_verdict_about_the_program():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))  # a program's process needs descriptor 200
    try:
        sandbox = Sandbox()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(SandboxError):
        sandbox.run_stdin("print(1)", "", 2.0)
    sandbox.close()


# ---- forging -------------------------------------------------------------------------------------

FIND_NONCE = """
import gc, json, os, struct, sys
def nonce():
    frame = sys._getframe()
    while frame:
        if 'request' in frame.f_locals:
            return frame.f_locals['request']['nonce'].encode()
        frame = frame.f_back
def reply(value):
    body = json.dumps([value]).encode()
    return nonce() + struct.pack('>I', len(body)) + body
"""
FRAMES = {
    "a wrong value": ("os.write(3, reply(7)); os._exit(0)", "wrong"),
    "two values": ("os.write(3, reply(7) + reply(2)); os._exit(0)", "wrong"),
    "not a number": ("os.write(3, reply(float('nan'))); os._exit(0)", "wrong"),
    "a right value, as printing it would": ("os.write(3, reply(2)); os._exit(0)", "correct"),
    "a right value, then a failure": ("os.write(3, reply(2)); os._exit(97)", "wrong"),
    "a closed pipe": ("os.close(3); return 2", "wrong"),
}


@pytest.mark.parametrize(("call", "verdict"), FRAMES.values(), ids=FRAMES)
def test_a_frame_with_the_nonce_is_only_its_own_output(guarded, call, verdict):
    assert judged(guarded, f"{FIND_NONCE}\ndef f(x):\n    {call}").verdict.value == verdict


def test_a_thread_that_writes_on_changes_no_other_program(guarded):
    program = """
        import os, threading
        def writing():
            while True:
                os.write(3, b'x')
        def f(x):
            threading.Thread(target=writing, daemon=True).start()
            return 2
    """
    judged(guarded, program)  # correct where it ended before its thread wrote
    assert judged(guarded, "def f(x):\n    return 2").verdict.value == "correct"


# ---- what ordinary programs do -------------------------------------------------------------------

ORDINARY = {
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(8) as pool:
            print(sum(pool.map(abs, range(-9, 9))))
    """,
    "asyncio": """
        import asyncio
        async def one(n):
            await asyncio.sleep(0.001)
            return n
        async def all_of_them():
            await asyncio.to_thread(print, 'in a thread')
            print(await asyncio.gather(*map(one, range(3))))
        asyncio.run(all_of_them())
    """,
    "files": """
        import os, shutil, tempfile
        from pathlib import Path
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, 'a', 'b')
            place.mkdir(parents=True)
            (place / 'c.txt').write_text('hello')
            shutil.copyfile(place / 'c.txt', place / 'd.txt')
            (place / 'd.txt').rename(place / 'e.txt')
            print(sorted(p.name for p in Path(folder).rglob('*')), os.path.getsize(place / 'e.txt'))
        with tempfile.NamedTemporaryFile('w+') as file:
            file.write('x'); file.seek(0); print(file.read())
    """,
    "time and chance": """
        import datetime, random, secrets, time, uuid, zoneinfo
        time.sleep(0.001)
        print(random.random() < 1, time.time() > 0, len(uuid.uuid4().hex), secrets.randbelow(1))
        print(datetime.datetime.now(zoneinfo.ZoneInfo('UTC')).tzname(), time.process_time() >= 0)
    """,
    "much of the standard library": """
        import array, base64, bz2, collections, csv, ctypes, decimal, difflib, email, enum, hashlib, html, io
        import json, logging, lzma, mmap, numbers, pickle, platform, pprint, queue, sched, select, sqlite3
        import ssl, statistics, struct, subprocess, textwrap, timeit, unicodedata, urllib.parse, xml.dom, zlib
        from xml.etree import ElementTree
        base = sqlite3.connect('own.db')
        base.execute('create table t (x)'); base.execute('insert into t values (41)'); base.commit()
        print(base.execute('select x + 1 from t').fetchall(), hashlib.sha256(b'').hexdigest()[:8])
        print(platform.system(), timeit.timeit('1', number=10) > 0, decimal.Decimal('1.1') + 1)
    """,
    "an alarm": """
        import signal, time
        signal.signal(signal.SIGALRM, lambda *a: print('alarm'))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.05)
    """,
    "its limits": """
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        print(os.cpu_count() > 0, os.getpid() > 0, bool(os.uname()), os.isatty(0))
    """,
}


@pytest.mark.parametrize("program", ORDINARY.values(), ids=ORDINARY)
def test_ordinary_programs_run_as_they_do_outside(sandbox, tmp_path, program):
    program = textwrap.dedent(program)
    run = sandbox.run_stdin(program, "", 30.0)  # enough on a loaded machine
    outside = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert (run.outcome, run.status, run.output.decode()) == ("ended", 0, outside.stdout)


def test_commands_and_sockets_raise_an_error_that_a_program_can_catch(sandbox):
    needs("system_call_filter")
    program = """
        import multiprocessing, os, socket, subprocess
        for attempt in (
            lambda: subprocess.run(['true']), lambda: os.fork(), socket.socket, lambda: os.kill(1, 0),
            lambda: socket.create_connection(('127.0.0.1', 1)), multiprocessing.Process(target=print).start,
            lambda: socket.socketpair(type=socket.SOCK_DGRAM),
        ):
            try:
                attempt()
                print('worked')
            except OSError as failure:
                print(failure.errno)
    """
    assert printed(sandbox, program) == "1\n" * 7


# ---- root ----------------------------------------------------------------------------------------


def test_programs_and_judges_do_not_run_as_root(sandbox):
    needs("unprivileged_user")
    worker = Worker()
    try:
        assert worker.layers["unprivileged_user"]
        for pid in (sandbox.pid, worker.pid):
            user = psutil.Process(pid).uids().real
            assert user == (NOBODY if os.getuid() == 0 else os.getuid())
    finally:
        worker.close()


def test_root_without_the_layer_is_refused_with_what_to_do():
    layers = {**dict.fromkeys(LAYERS, True), "unprivileged_user": False}
    with pytest.raises(
        WeakSandboxError, match=r"no unprivileged_user: .* a Python that user nobody can read"
    ):
        require_layers(layers, False, "code sandbox", "leave the code domain out", "programs")
    require_layers(layers, True, "code sandbox", "leave the code domain out", "programs")


WITHOUT_NAMESPACES = """
import ctypes, os, struct, sys
sys.path.insert(0, sys.argv[1])
from tasks.rewards.pool import Worker
from tasks.sandbox import Sandbox, WeakSandboxError, isolation, sandbox_layers
number = {'x86_64': 272, 'aarch64': 97}[isolation.MACHINE]  # unshare, refused as most containers do
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('=HBBI', *line) for line in lines), 32)
isolation.forbid_new_privileges()
filtering = ctypes.create_string_buffer(struct.pack('@HP', 4, ctypes.addressof(code)))
isolation._prctl(22, 2, ctypes.addressof(filtering))
layers = sandbox_layers()
print(layers['own_root'], layers['private_folder'], layers['unprivileged_user'])
for make in (Sandbox, Worker):
    try:
        made = make()
        if make is Sandbox:
            program = "open('own', 'w').write('x'); print(open('own').read())"
            assert made.run_stdin(program, '', 5.0).output.decode().strip() == 'x'
        made.close()
        print('works')
    except WeakSandboxError as refusal:
        print(refusal)
"""


def test_without_namespaces_root_needs_a_python_that_nobody_can_read():
    argv = [sys.executable, "-c", WITHOUT_NAMESPACES, str(Path(__file__).parents[2])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    layers, *lines = done.stdout.splitlines()
    if layers == "False False True":
        assert lines == ["works", "works"]
    else:
        assert layers == "False False False"
        assert [line.partition(":")[0] for line in lines] == [
            "this machine gives the code sandbox no unprivileged_user",
            "this machine gives the answer checker no unprivileged_user",
        ]


def test_the_header_of_a_reply_is_written_by_the_zygote_alone(sandbox):
    run = sandbox.run_stdin('print(\'{"outcome": "not started", "status": null, "nonce": ""}\')', "", 2.0)
    assert isinstance(run, Run)
    assert run.outcome == "ended"
    assert json.loads(run.output)["outcome"] == "not started"


THROUGH_A_LINK = """
import sys
sys.path.insert(0, sys.argv[1])
from tasks.rewards.pool import Worker
from tasks.sandbox import Sandbox, sandbox_layers
for make in (Sandbox, Worker):
    make().close()
print(sandbox_layers()['own_root'])
"""


@pytest.mark.parametrize("below", [True, False], ids=["in the repository", "beside it"])
def test_a_linked_virtual_environment_is_seen_too(below, tmp_path):
    """The virtual environment is reached through a link, from another folder below /tmp or not."""
    needs("own_root")
    tmp_path.chmod(0o755)  # user nobody has to read it
    repository = tmp_path / "repository"
    original = Path(__file__).parents[2] / "tasks"
    shutil.copytree(original, repository / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(Path(sys.prefix).resolve())
    link = repository / ".venv" if below else tmp_path / "venv"
    link.symlink_to(elsewhere)
    argv = [link / "bin" / "python", "-c", THROUGH_A_LINK, str(repository)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "True\n", done.stderr
