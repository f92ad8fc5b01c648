"""Problems and completions for the tests of rewards, in one line each."""

from tasks.problem import Problem


def problem(verifier="math", answer="", language="en", **arguments) -> Problem:
    return Problem("p", "math", language, "?", answer, verifier, arguments)


def completion(answer: str, thinking: str = "so it is") -> str:
    return f"<think> {thinking} </think> <answer> {answer} </answer>"


def verdict(pool, asked: Problem, answer: str) -> str:
    """The verdict on a well-formed completion with this answer."""
    return pool.verify([asked], [completion(answer)])[0].verdict.value
