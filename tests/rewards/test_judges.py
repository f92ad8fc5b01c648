"""Attacks on the processes that judge answers, and the list of scorers that evaluate text."""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil
import pytest

from tasks import sandbox
from tasks.rewards import judging, worker
from tasks.rewards.evaluated import (
    EXPRESSION_ANSWERS,
    LIST_ANSWERS,
    REVIEWED,
    STORED_TEXT,
    is_expression,
    is_literal,
    refusal,
    stored_refusal,
)
from tasks.rewards.judging import LOST, REPLIED, TIMED_OUT
from tasks.rewards.pool import VerifierPool
from tasks.rewards.verifiers import reasoning_gym as gym_verifier
from tests.rewards.rows import completion, problem, verdict

EVALUATING = EXPRESSION_ANSWERS | LIST_ANSWERS
UNGRADED = frozenset(
    {
        *("arc_agi", "boxnet", "composite", "graph_color", "propositional_logic", "rearc", "rubiks_cube"),
        "rush_hour",
    }
)
"""Data sets whose own answer does not get full marks, or that have none."""
ANY_TEXT = "game_of_life_halting"
"""Its scorer calls every text true (it compares `bool(answer)`), so it may be correct."""


def datasets() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS)


def entries(name: str, count: int, seed: int = 0) -> list[dict]:
    import reasoning_gym

    drawn = reasoning_gym.create_dataset(name, size=count, seed=seed)
    return [json.loads(json.dumps(dict(entry), default=str)) for entry in drawn]


def gym(name: str, entry: dict):
    return problem("reasoning_gym", "", dataset=name, entry=entry)


@pytest.fixture(scope="module")
def one_of_each() -> dict[str, dict]:
    """One stored problem of every data set but `composite`, which has no default."""
    return {name: entries(name, 1)[0] for name in datasets() if name != "composite"}


@pytest.fixture(scope="module")
def brief():
    """A pool of one worker with a short limit."""
    with VerifierPool(workers=1, seconds_per_item=1.0) as opened:
        yield opened


# ---- hostile answers to all data sets ------------------------------------------------------------


def hostile_answers(folder: Path, port: int) -> list[str]:
    """Answers that act if they are evaluated: they leave a file in `folder` or forge a verdict, say."""
    mark = str(folder / "mark")
    reply = '{"verdict": "correct", "detail": ""}'
    forge = f"[__import__('os').write(d, {reply!r}.encode()) for d in range(3, 300)]"
    forged = "answer_request=lambda *a: {'verdict': 'correct', 'detail': ''}"
    return [
        f"__import__('os').system('touch {mark}')",
        f"open({mark!r}, 'w').write('x')",
        forge,
        f"[open(__file__).read(), {forge}]",
        f"__import__('socket').create_connection(('127.0.0.1', {port}))",
        "[__import__('os').fork() for _ in range(9)]",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "__import__('time').sleep(60)",
        "[0] * 10**10",
        "__import__('os')._exit(0)",
        f"vars(__import__('sys').modules['tasks.rewards.judging']).update({forged})",
        "().__class__.__base__.__subclasses__()",
        "(" * 5_000 + "1" + ")" * 5_000,
    ]


@pytest.mark.slow
def test_hostile_answers_to_every_data_set_neither_run_nor_count(pool, one_of_each, tmp_path):
    os.chmod(tmp_path, 0o777)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        answers = hostile_answers(tmp_path, listener.getsockname()[1])
        rows = [(gym(name, entry), answer) for name, entry in one_of_each.items() for answer in answers]
        found = pool.verify([p for p, _ in rows], [completion(answer) for _, answer in rows])
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not list(tmp_path.iterdir())
    odd = {
        (p.verifier_args["dataset"], answer[:40], j.verdict.value, j.detail)
        for (p, answer), j in zip(rows, found, strict=True)
        if j.verdict.value not in ("wrong", "unparseable", "timeout")
        and p.verifier_args["dataset"] != ANY_TEXT
    }
    assert not odd


@pytest.mark.slow
def test_the_own_answers_of_every_data_set_are_correct_also_after_hostile_ones(pool, one_of_each):
    graded = {name: entry for name, entry in one_of_each.items() if name not in UNGRADED}
    asked = [gym(name, entry) for name, entry in graded.items()]
    found = pool.verify(asked, [completion(str(entry["answer"])) for entry in graded.values()])
    assert {name: j for name, j in zip(graded, found, strict=True) if j.verdict.value != "correct"} == {}


# ---- which scorers evaluate text -----------------------------------------------------------------

WATCHED: list[str] = []
MARK = "mark7319"


def watch(event: str, arguments: tuple) -> None:
    if event == "compile" and MARK in str(arguments[0]):
        WATCHED.append(str(arguments[0]))


@pytest.fixture(scope="module")
def watching() -> None:
    sys.addaudithook(watch)


@cache
def scorer(name: str):
    import reasoning_gym

    return reasoning_gym.get_score_answer_fn(name)


def evaluates(name: str, answer: str, entry: dict) -> bool:
    """Whether the unguarded scorer compiles a text with the mark (a harmless name)."""
    WATCHED.clear()
    with suppress(Exception):
        scorer(name)(answer, entry)
    return bool(WATCHED)


def with_mark(value, path=()):
    """Every copy of a stored problem with one of its texts replaced; and where that text was."""
    if isinstance(value, str):
        yield path, MARK
    for key in value if isinstance(value, Mapping) else range(len(value)) if isinstance(value, list) else ():
        for at, changed in with_mark(value[key], (*path, key)):
            copy = value.copy()
            copy[key] = changed
            yield at, copy


@pytest.mark.slow
def test_the_lists_of_evaluating_scorers_are_those_of_the_installed_reasoning_gym(one_of_each, watching):
    probes = (MARK, f"[{MARK}]", f"1 + {MARK}", f'{{"a": {MARK}}}')
    found = {n for n, entry in one_of_each.items() if any(evaluates(n, probe, entry) for probe in probes)}
    assert found == EVALUATING
    assert set(datasets()) - EVALUATING - {"composite"} == REVIEWED


@pytest.mark.slow
def test_the_list_of_evaluated_fields_is_that_of_the_installed_reasoning_gym(one_of_each, watching):
    found = {}
    for name, entry in one_of_each.items():
        for number, (path, changed) in enumerate(with_mark(entry)):
            if number < 60 and path[0] != "question" and evaluates(name, str(entry["answer"]), changed):
                found[name] = path
    assert found == STORED_TEXT


def test_a_new_data_set_or_another_version_is_screened():
    for name, version in (("a_new_one", "0.1.25"), ("chain_sum", "0.2")):
        assert refusal(name, "f()", version)
        assert refusal(name, "a.b", version)
        assert refusal(name, "__import__", version)
        assert not refusal(name, "Amelia is a knight, and Lucas is a knave", version)
        assert not refusal(name, "[[1, 2], ['a']]", version)
        assert not refusal(name, "(7 - 4) * 8", version)


CODE = [
    *("__import__('os')", "open('x')", "x.real", "(1).real", "1 .real", "1..real", "'a'", "f(1)", "S(1)"),
    *("(S)(1)", "lambda: 1", "[x for x in y]", "x[0]", "x if y else z", "exec", "sin.x", "1; 2", "1\n2"),
    *("ｅval(1)", "a=1", "x:=1", "@x", "{1}", "\\", "#", "`x`", "print(1)", "eval(1)", "sqrt(f(1))"),
]


@pytest.mark.parametrize("text", CODE)
def test_code_is_no_expression(text):
    assert not is_expression(text)


def test_code_is_no_literal():
    for text in ("f()", "[f()]", "a", "[a.b]", "[x for x in (1,)]", "(" * 9_000, "[" * 90 + "x()" + "]" * 90):
        assert not is_literal(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EVALUATING | set(STORED_TEXT)))
def test_right_answers_of_evaluating_data_sets_stay_correct(pool, name):
    rows = [entry for seed in range(5) for entry in entries(name, 4, seed)]
    found = pool.verify([gym(name, e) for e in rows], [completion(str(e["answer"])) for e in rows])
    assert [(j.detail, j.extracted) for j in found if j.verdict.value != "correct"] == []


WRITTEN = {
    "countdown": [("2*(3+4)", {"numbers": [2, 3, 4], "target": 14}, "correct"),
                  (" ( 3 + 4 ) * 2 ", {"numbers": [2, 3, 4], "target": 14}, "correct"),
                  ("2*3+4", {"numbers": [2, 3, 4], "target": 14}, "wrong"),
                  ("float(14)", {"numbers": [14], "target": 14}, "unparseable")],
    "simple_integration": [("x**2 + C", {"variable": "x", "integrand": "2*x"}, "correct"),
                           ("x*x - 3", {"variable": "x", "integrand": "2*x"}, "correct"),
                           ("x**3", {"variable": "x", "integrand": "2*x"}, "wrong")],
    "intermediate_integration": [("-cos(x) + C", {"variable": "x", "integrand": "sin(x)"}, "correct"),
                                 ("log(sqrt(x**2))", {"variable": "x", "integrand": "1/x"}, "correct")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "answer", "metadata", "expected"), [(n, *row) for n, rows in WRITTEN.items() for row in rows]
)
def test_expressions_as_a_model_writes_them(pool, name, answer, metadata, expected):
    assert verdict(pool, gym(name, {"answer": "", "metadata": metadata}), answer) == expected


def test_code_in_a_stored_problem_is_an_error_and_does_not_run(pool, tmp_path):
    os.chmod(tmp_path, 0o777)
    code = f"[open({str(tmp_path / 'mark')!r}, 'w').write('x')]"
    for name, path in STORED_TEXT.items():
        entry = entries(name, 1)[0]
        (entry if len(path) == 1 else entry["metadata"])[path[-1]] = code
        judged = pool.verify([gym(name, entry)], [completion("[1, 2]" if name == "number_sorting" else "1")])
        assert (judged[0].verdict.value, "not a plain expression" in judged[0].detail) == ("error", True)
        assert stored_refusal(name, {})
    assert not list(tmp_path.iterdir())


def test_the_second_wall_refuses_where_the_first_lets_through(monkeypatch):
    """In a process of its own, since it changes sympy and reasoning-gym for good."""
    pid = os.fork()
    if pid == 0:
        gym_verifier.load()
        import reasoning_gym
        import sympy

        attacks = (
            lambda: sympy.sympify("x.__class__"),
            lambda: sympy.parse_expr("print(1)"),
            lambda: sympy.S("eval('1')"),
            lambda: reasoning_gym.games.n_queens.eval("print(1)"),
        )
        refused = 0
        for attack in attacks:
            try:
                attack()
            except (ValueError, sympy.SympifyError):
                refused += 1
        os._exit(refused)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4


# ---- if code did run in a judge ------------------------------------------------------------------


def run_in_judge(code: str, seconds: float = 2.0, operation: str = "planted") -> tuple[bytes, bytes]:
    """What a keeper answers for a judge in which `code` runs, which may set `result`; then an honest row.

    The keeper is made in a fork, because it enters namespaces.
    """
    source, target = os.pipe()
    pid = os.fork()
    if pid == 0:
        keeper = worker.Keeper(worker.raise_walls(set()))

        def planted(operation: str, arguments: dict) -> dict:
            if operation == "honest":
                return {"verdict": "wrong", "detail": ""}
            names = {"os": os, "nonce": sys._getframe(1).f_locals["nonce"], "result": None}
            exec(code, names)
            return {"verdict": "wrong", "detail": repr(names["result"])}

        judging.answer_request = planted
        found = keeper.answer(json.dumps({"operation": operation, "seconds": seconds}).encode() + b"\n{}")
        after = keeper.answer(json.dumps({"operation": "honest", "seconds": 2.0}).encode() + b"\n{}")
        os.write(target, found + b"\n\n" + after)
        os._exit(0)
    os.close(target)
    with os.fdopen(source, "rb") as file:
        found, _, after = file.read().partition(b"\n\n")
    os.waitpid(pid, 0)
    assert after == REPLIED + b'{"verdict": "wrong", "detail": ""}'
    return found[:1], found[1:]


CANNOT = {
    "read a file": "open('/etc/passwd').read()",
    "read the repository": f"open({__file__!r}).read()",
    "list a folder": "os.listdir('/')",
    "read another process": "open(f'/proc/{os.getppid()}/environ').read()",
    "write a file": "open('/tmp/r1-mark', 'w')",
    "open a socket": "__import__('socket').socket()",
    "fork": "os.fork()",
    "execute": "os.execv('/bin/true', ['true'])",
    "signal its keeper": "os.kill(os.getppid(), 0)",
    "make a namespace": "if __import__('ctypes').CDLL(None).unshare(0x10000000): raise OSError",
}


@pytest.mark.parametrize("code", CANNOT.values(), ids=CANNOT)
def test_code_in_a_judge_cannot(code):
    attempt = f"try:\n    {code}\n    result = 'done'\nexcept (OSError, RuntimeError): result = 'refused'"
    assert run_in_judge(attempt) == (REPLIED, b'{"verdict": "wrong", "detail": "\'refused\'"}')


def test_a_judge_has_no_descriptor_but_its_two_pipes_and_no_environment():
    code = """
found = []
for d in range(3000):
    try: found.append(os.fstat(d).st_mode >> 12)
    except OSError: pass
result = (found, dict(os.environ))"""
    assert run_in_judge(code)[1].decode().endswith('"([2, 2, 2, 1, 1], {})"}')


FORGERIES = {
    "a frame without the nonce": "os.write(4, (52).to_bytes(4, 'big') + b'0' * 52); os._exit(0)",
    "a second frame": "os.write(4, ((len(nonce) + 2).to_bytes(4, 'big') + nonce + b'{}') * 2); os._exit(0)",
    "a frame without end": "os.write(4, b'\\xff' * 9); os._exit(0)",
    "half a frame": "os.write(4, b'\\0\\0'); os._exit(0)",
    "no frame": "os._exit(0)",
    "writing to every descriptor": "[os.write(d, b'x' * 99) for d in (0, 1, 2, 4)]; os._exit(0)",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
@pytest.mark.parametrize("operation", ["planted", "math"])
def test_what_is_no_single_reply_with_the_nonce_loses_the_judge(code, operation):
    if operation == "math" and "len(nonce)" in code:
        pytest.skip("a reply with the nonce from a lasting judge is a reply")
    assert run_in_judge(code, operation=operation)[0] == LOST


@pytest.mark.slow
def test_a_judge_that_does_not_end_is_killed_in_time():
    started = time.monotonic()
    assert run_in_judge("import signal\nsignal.setitimer(0, 0)\nwhile True: pass", 0.5)[0] == TIMED_OUT
    assert run_in_judge("[0] * 10**10", 2.0)[0] == LOST
    assert time.monotonic() - started < 5


def test_a_lasting_judge_that_wrote_ahead_is_replaced_before_the_next_request(monkeypatch):
    def ahead(operation, arguments):
        os.write(4, b"x" * 64)
        return {"verdict": "wrong", "detail": ""}

    monkeypatch.setattr(judging, "answer_request", ahead)
    judge = worker.Judge({}, None)
    judge.wait_until_isolated()
    with pytest.raises(worker.PeerDied):
        judge.ask("math", b"{}", 2.0)
    assert not judge.can_go_on
    judge.end()


@pytest.mark.slow
def test_an_answer_that_ends_its_judges_is_wrong_and_costs_no_worker(brief):
    asked = gym("chain_sum", entries("chain_sum", 1)[0])
    assert verdict(brief, asked, "5") == "wrong"
    workers = brief.process_ids()
    killer = threading.Thread(target=kill_judges, args=(workers, time.monotonic() + 2.0))
    hard = problem("reasoning_gym", "", dataset="simple_integration", entry={
        "answer": "", "metadata": {"variable": "x", "integrand": "x"}})  # fmt: skip
    killer.start()
    found = verdict(brief, hard, "(x+1)**900*(x+2)**900*(x+3)**900+sin(x)**90")
    killer.join()
    assert found in ("wrong", "timeout")
    assert brief.process_ids() == workers


def kill_judges(workers: list[int], deadline: float) -> None:
    """Kill judges that have the answer: they are isolated, and got it, well within 0.4 s of their start."""
    first_seen: dict[int, float] = {}
    while time.monotonic() < deadline:
        for pid in workers:
            for judge in psutil.Process(pid).children():
                if time.monotonic() - first_seen.setdefault(judge.pid, time.monotonic()) > 0.4:
                    judge.kill()
        time.sleep(0.02)


# ---- math and unit tests -------------------------------------------------------------------------

INJECTIONS = [
    "__import__('os').system('touch {mark}')", r"\text{{__import__('os').system('touch {mark}')}}",
    r"\operatorname{{__import__('os').system('touch {mark}')}}(1)", r"open('{mark}','w')+1",
    "1/2+__import__('os').system('touch {mark}')", r"\boxed{{open('{mark}', 'w')}}",
    r"\begin{{pmatrix}}open('{mark}','w')&1\end{{pmatrix}}", r"\sqrt{{open('{mark}','w')}}",
    r"\{{open('{mark}','w')\}}", r"\mathrm{{eval}}(open('{mark}','w'))", r"x=open('{mark}','w')",
    r"\frac{{exec(1)}}{{open('{mark}','w')}}", "answer is 1+open('{mark}','w')",
    r"\variable{{__import__('os').system('touch {mark}')}}", r"\placeholder{{open('{mark}','w')}}",
]  # fmt: skip


def test_math_injections_in_answers_and_golds_do_not_run(pool, tmp_path):
    os.chmod(tmp_path, 0o777)
    texts = [text.format(mark=tmp_path / "mark") for text in INJECTIONS]
    asked = [problem(answer=r"\sqrt{2}+x") for _ in texts] + [problem(answer=text) for text in texts]
    found = pool.verify(
        asked, [completion(text) for text in texts] + [completion(r"\sqrt{2}+x")] * len(texts)
    )
    assert not list(tmp_path.iterdir())
    assert {j.verdict.value for j in found[: len(texts)]} <= {"wrong", "unparseable"}
    assert "correct" not in {j.verdict.value for j in found}
    assert verdict(pool, problem(answer=r"\sqrt{2}+x"), r"x+\sqrt{2}") == "correct"


def test_math_injections_compile_nothing_of_the_text(watching):
    """Without the second wall: math-verify's own parsing never hands the text to Python's compiler."""
    WATCHED.clear()
    for text in INJECTIONS:
        marked = text.format(mark=MARK)
        for gold, answer in ((r"\sqrt{2}+x", marked), (marked, r"\sqrt{2}+x")):
            judging.answer_request("math", {"gold": gold, "answer": answer})
    assert WATCHED == []


BOMBS = [
    *("(" * 100_000, "x = " + "[" * 5_000 + "]" * 5_000, "x = " + "-" * 100_000 + "1", "x = \0"),
    "x = '\ud800'",
]


@pytest.mark.parametrize("program", BOMBS, ids=range(len(BOMBS)))
def test_a_program_that_breaks_the_parser_is_wrong(brief, program):
    asked = problem("code", "", unit_tests="def test_a():\n    assert f() == 1")
    text = f"<think> a </think>\n```python\n{program}\n```"
    assert brief.verify([asked], [text])[0].verdict.value == "wrong"


@pytest.mark.parametrize("tests", BOMBS[:3], ids=range(3))
def test_unit_tests_that_break_the_parser_are_an_error_of_the_problem(brief, tests):
    asked = problem("code", "", unit_tests=f"def test_a():\n    assert f() == 1\n{tests}")
    judged = brief.verify([asked], ["<think> a </think>\n```python\ndef f():\n    return 1\n```"])[0]
    assert judged.verdict.value == "error"
    assert "unit_tests" in judged.detail


# ---- where the kernel cannot isolate a judge -----------------------------------------------------


def test_a_kernel_without_a_needed_layer_refuses_answers_too(monkeypatch):
    monkeypatch.setattr(sandbox, "NEEDED", ("resource_limits", "a_layer_of_the_future"))
    hard = problem(answer=r"\sqrt{2}+x")
    with (
        VerifierPool(workers=1) as strict,
        pytest.raises(sandbox.WeakSandboxError, match="checker no a_"),
    ):
        verdict(strict, hard, r"x+\sqrt{2}")
    with VerifierPool(workers=1, allow_weak_sandbox=True) as weak:
        assert verdict(weak, hard, r"x+\sqrt{2}") == "correct"


def test_the_page_lists_the_data_sets_that_evaluate_text():
    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text()
    for title, names in (("answer as an expression", EXPRESSION_ANSWERS), ("answer as a list", LIST_ANSWERS),
                         ("stored problem", STORED_TEXT)):  # fmt: skip
        line = next(line for line in page.splitlines() if line.startswith(f"| {title} |"))
        assert [name.strip(" `") for name in line.split("|")[2].split(",")] == sorted(names)
