"""The guard that keeps sympy from parsing text that is not plain does not touch what sympy itself reads."""

import subprocess
import sys
from textwrap import dedent

import pytest

from tasks.rewards.pool import VerifierPool
from tasks.rewards.verdict import Verdict
from tests.rewards.rows import completion, problem, verdict
from tests.rewards.test_math import CORRECT

pytestmark = pytest.mark.slow


def test_verdicts_do_not_depend_on_the_verifier_that_was_needed_first():
    """reasoning-gym's guard of sympy once refused names that sympy itself reads while it compares sets."""
    import reasoning_gym

    entry = reasoning_gym.create_dataset("syllogism", size=1, seed=3)[0]
    with VerifierPool(workers=1) as pool:
        asked = problem("reasoning_gym", dataset="syllogism", entry=entry)
        assert verdict(pool, asked, str(entry["answer"])) == "correct"
        pairs = [pair for kind in CORRECT.values() for pair in kind]
        judged = pool.verify([problem(answer=gold) for gold, _ in pairs], [completion(a) for _, a in pairs])
    wrong = [pair for pair, j in zip(pairs, judged, strict=True) if j.verdict is not Verdict.correct]
    assert wrong == []


def test_the_guard_of_sympy_refuses_nothing_that_sympy_reads_as_it_is_imported():
    code = """
        import contextlib, importlib, pkgutil, sympy
        from tasks.rewards import evaluated
        refused, wrote = [], evaluated.NotPlain.__init__
        evaluated.NotPlain.__init__ = lambda self, *said: refused.append(said) or wrote(self, *said)
        evaluated.guard_sympy()
        left_out = ("tests", "benchmarks", "testing", "this", "abc")
        names = [m.name for m in pkgutil.walk_packages(sympy.__path__, "sympy.", onerror=lambda name: None)]
        for name in names:
            if not set(name.split(".")) & set(left_out):
                with contextlib.suppress(ImportError):  # of libraries that are not here
                    importlib.import_module(name)
        print(len(names), refused)
    """
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", dedent(code)], capture_output=True, text=True, check=True
    )
    count, refused = ran.stdout.splitlines()[-1].split(maxsplit=1)
    assert int(count) > 500
    assert refused == "[]"
