"""Sources of files with columns of their own, of the hub and of a function: formats, limits, what is
drawn."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.problem import Problem
from tasks.problems import rows
from tasks.problems.columns import ColumnMap
from tasks.problems.draw import batches, draw
from tasks.problems.golds import final_value, letter_of, options_of
from tasks.problems.languages import detect_language
from tasks.problems.reading import UnusableProblems
from tasks.problems.sources.file import MappedFile
from tasks.problems.sources.function import Function
from tasks.problems.sources.hub import HubDataset
from tasks.problems.stage import ProblemsConfig
from tests.problems.datasets import fixture, write_dataset, write_rows

MAP = {"question": ["q"], "answer": ["a"], "fixed": {"licence": "CC0-1.0"}}
ROWS = [{"q": f"What is {n} plus {n}?", "a": str(2 * n), "more": "x"} for n in range(40)]


def file(path: Path, **settings: object) -> MappedFile:
    return MappedFile.model_validate({"path": str(path), "map": MAP} | settings)


@pytest.mark.parametrize("name", ["p.parquet", "p.jsonl", "p.json", "p.csv", "p.tsv"])
def test_formats_give_the_same_problems(tmp_path, name):
    path = write_rows(tmp_path / name, ROWS)
    if name == "p.tsv":
        path.write_text(
            "\n".join("\t".join(row) for row in [tuple(ROWS[0]), *(r.values() for r in ROWS)]) + "\n"
        )
    problems, rejected = file(path).draw(0)
    assert [(p.prompt, p.answer, p.licence) for p in problems] == [(r["q"], r["a"], "CC0-1.0") for r in ROWS]
    assert rejected == []


def test_a_folder_of_the_library_datasets(tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data.select(range(30)), "test": data.select(range(30, 40))}).save_to_disk(
        tmp_path / "d"
    )
    problems = file(tmp_path / "d").draw(0).problems
    assert sorted(p.prompt for p in problems) == sorted(r["q"] for r in ROWS)
    assert {p.prompt for p in problems if p.split == "held_out"} == {r["q"] for r in ROWS[30:]}


def test_links_and_endless_lines_are_refused(tmp_path, monkeypatch):
    write_rows(tmp_path / "real.jsonl", ROWS)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    with pytest.raises(UnusableProblems, match=r"link.jsonl is no regular file"):
        file(tmp_path / "d").draw(0)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "inside").symlink_to(tmp_path / "d")
    with pytest.raises(UnusableProblems):
        file(tmp_path / "e").draw(0)
    monkeypatch.setattr(rows, "MAX_LINE", 1000)
    for name in ("long.jsonl", "long.csv"):
        (tmp_path / name).write_text("q,a\n" * (name == "long.csv") + "x" * 2000)
        with pytest.raises(UnusableProblems, match=rf"{name} has a line of more than 1,000 bytes"):
            file(tmp_path / name).draw(0)
    monkeypatch.setattr(rows, "MAX_CELL", 1000)
    write_rows(tmp_path / "cell.parquet", [{"q": "x" * 2000, "a": "1"}])
    with pytest.raises(UnusableProblems, match=r"column q has a value of 2,000 bytes"):
        file(tmp_path / "cell.parquet").draw(0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("{", "line 1 is not JSON"), ("[" * 100_000, "is not JSON"), ('{"q": 1}\n3', "line 2 is no JSON object"),
     ('{"x": 1}', "has no column a, q: fix the map (it has x)")],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, text, sentence):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(UnusableProblems) as refused:
        file(tmp_path / "p.jsonl").draw(0)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("so 6\n#### 42", "42"),
        ("#### 1,234\n", "1,234"),
        (r"\boxed{1}, then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\left\{1, 2\right\}}", r"\left\{1, 2\right\}"),
        ("$x+1$", "x+1"),
        ("$1$ and $2$", "$1$ and $2$"),
        (r"\boxed{5} and \boxed{", "5"), (r"\fbox{7}", "7"), (" 12 ", "12"), (r"\boxed {3}", "3"),
    ],
)  # fmt: skip
def test_golds_as_people_have_them(text, gold):
    assert final_value(text) == gold


def test_golds_take_linear_time():
    for text in ("\\boxed{" * 200_000, "\\boxed" * 200_000, "{" * 10**6, "\\boxed{" + "{" * 10**6):
        final_value(text)


@pytest.mark.parametrize(
    ("answer", "letter"), [("B", "B"), ("(b)", "B"), ("B.", "B"), (1, "B"), ("four", "B"), ("Four ", "B")]
)
def test_letters_of_options(answer, letter):
    assert letter_of(answer, options_of(["three", "four"])) == letter
    assert letter_of(answer, options_of({"text": ["three", "four"], "label": ["A", "B"]})) == letter


@pytest.mark.parametrize(
    ("answer", "message"), [("C", "names 0 options"), (2, "no index"), ("", "names 0 options")]
)
def test_no_option_is_no_letter(answer, message):
    with pytest.raises(ValueError, match=message):
        letter_of(answer, options_of(["three", "four"]))


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How many apples are left?", "en"),
        ("小明有几个苹果？", "zh"),
        ("设 f(x) = sin x，求 f 的最大值。", "zh"),
        ("$x^2 = 4$", "en"),
        ("Trouver la somme des deux nombres et le produit.", None),
        ("Найдите сумму чисел.", None),
        ("りんごはいくつありますか？", None),
        ("¿Cuántas manzanas tiene el niño en la casa?", None),
        ("Solve for x.", "en"),
        ("In triangle ABC, find the length of the median from A.", "en"),
        ("Wie viele Äpfel hat der Junge und das Kind?", None),
    ],
)  # fmt: skip
def test_languages_are_told(text, language):
    assert detect_language(text) == language


QUARANTINED = {
    "no-question": {"q": " ", "a": "1"},
    "no-answer": {"q": "How far?", "a": ""},
    "proof": {"q": "Prove that 2 is prime.", "a": "It is."},
    "language": {"q": "Combien font deux et deux dans le système pour les enfants ?", "a": "4"},
    "gold-refused": {"q": "How long is it?", "a": "see the \\frac{figure"},
}


@pytest.mark.parametrize("reason", QUARANTINED)
def test_rows_that_no_reward_can_use_are_quarantined(tmp_path, reason):
    problems, rejected = draw(
        ProblemsConfig(sources=(file(write_rows(tmp_path / "p.jsonl", [*ROWS, QUARANTINED[reason]])),))
    )
    assert len(problems) == len(ROWS)
    assert [(row["reason"], row["problem_id"]) for row in rejected] == [(reason, "p-40")]
    assert rejected[0]["detail"]


def test_chat_messages_are_questions(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 plus 2?"}]
    several = [*messages, {"role": "assistant", "content": "4"}, {"role": "user", "content": "And 3?"}]
    write_rows(tmp_path / "p.jsonl", [{"q": messages, "a": "4"}, {"q": several, "a": "6"}])
    problems, rejected = file(tmp_path / "p.jsonl").draw(0)
    assert [p.prompt for p in problems] == ["What is 2 plus 2?"]
    assert rejected[0]["detail"] == "the question has 2 messages of the user: one is supported"


def test_counts_are_drawn_by_the_seed(tmp_path):
    path = write_rows(tmp_path / "p.jsonl", ROWS)

    def drawn(seed: int, **settings: object) -> tuple[set[str], set[str]]:
        problems = file(path, **settings).draw(seed).problems
        return tuple({p.prompt for p in problems if p.split == split} for split in ("train", "held_out"))

    train, held_out = drawn(1, count=10, held_out=5)
    assert (len(train), len(held_out), train & held_out) == (10, 5, set())
    assert drawn(1, count=10, held_out=5) == (train, held_out)
    assert drawn(2, count=10, held_out=5) != (train, held_out)
    assert drawn(1, count=20, held_out=5)[1] == held_out, "more training problems, the same held-out ones"


def test_a_mixture_by_weights(tmp_path):
    one, two = (
        write_rows(tmp_path / f"{name}.jsonl", [{"q": f"{name} {n}?", "a": "1"} for n in range(60)])
        for name in "ab"
    )
    config = ProblemsConfig(sources=(file(one, weight=3), file(two, weight=1.0)), train=40, seed=5)
    found = [p.prompt[0] for p in draw(config).problems]
    assert (found.count("a"), found.count("b")) == (30, 10)
    assert draw(config) == draw(config)
    with pytest.raises(
        ValueError, match=r"problems.sources.0 \(file\) has 60 training problems and 90 are its share"
    ):
        list(batches(config.model_copy(update={"train": 120})))
    with pytest.raises(ValidationError, match="need each other"):
        ProblemsConfig(sources=(file(one, weight=3),))


def made(seed: int, size: int):
    yield from (
        Problem(f"f{n}", "math", "en", f"Say {n + seed}.", str(n + seed), "math") for n in range(size)
    )
    yield Problem("bad", "math", "en", "Say nothing.", "", "math")


def nothing(seed: int):
    return ["no problem"]


def test_a_function_by_its_import_path():
    problems, rejected = Function(call=f"{__name__}:made", arguments={"size": 3}).draw(7)
    assert [p.answer for p in problems] == ["7", "8", "9"]
    assert [row["problem_id"] for row in rejected] == ["bad"]
    with pytest.raises(ValueError, match="cannot be imported"):
        Function(call=f"{__name__}:missing").check()
    with pytest.raises(ValueError, match="made a str: it must return"):
        Function(call=f"{__name__}:nothing").draw(0)


COMMIT = hashlib.sha1(b"commit").hexdigest()


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download of a public data set uses."""

    folder: Path
    dataset: str
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name = self.path.partition("?")[0]
        if name.startswith(f"/api/datasets/{self.dataset}/revision/"):
            files = [p for p in sorted(self.folder.rglob("*")) if p.is_file()]
            siblings = [
                {"rfilename": p.relative_to(self.folder).as_posix(), "size": p.stat().st_size} for p in files
            ]
            self._answer(
                json.dumps({"id": self.dataset, "sha": COMMIT, "siblings": siblings}).encode(), "json"
            )
        elif name.startswith(f"/datasets/{self.dataset}/resolve/{COMMIT}/"):
            self._answer((self.folder / name.split(f"/{COMMIT}/")[1]).read_bytes(), "octet-stream")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def hub(tmp_path, monkeypatch):
    class Handler(Hub):
        folder, dataset, asked = write_dataset(tmp_path / "repo", "gsm8k"), "openai/gsm8k", []

    (Handler.folder / "gsm8k.py").write_text("raise SystemExit('a script of the data set ran')")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Handler
    server.shutdown()
    server.server_close()


def test_a_data_set_of_the_hub_in_one_line(hub):
    source = ProblemsConfig.model_validate({"sources": [{"name": "gsm8k", "count": 1}]}).sources[0]
    problems = source.draw(0).problems
    assert [p.split for p in problems] == ["held_out", "train"]
    assert {p.source for p in problems} == {f"openai/gsm8k@{COMMIT}"}
    fetched = {path for path in hub.asked if "/resolve/" in path}
    assert {path.rpartition("/resolve/")[2].partition("/")[2] for path in fetched} == {
        name for name in fixture("gsm8k") if name.startswith("main/")
    }


def test_a_data_set_of_the_hub_with_a_map(hub):
    columns = ColumnMap(question=("question",), answer=("answer",), splits={"train": ("socratic/*",)})
    source = HubDataset(dataset="openai/gsm8k", revision=COMMIT, map=columns)
    assert [p.answer for p in source.draw(0).problems] == ["1"]


def test_what_the_hub_does_not_have_is_one_sentence(hub, monkeypatch):
    with pytest.raises(ValueError, match=r"^no/such: the hub has no such data set or revision: check both$"):
        HubDataset(name="gsm8k", dataset="no/such").draw(0)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"^openai/gsm8k cannot be downloaded .*: check the network"):
        HubDataset(name="gsm8k").draw(0)
    with pytest.raises(ValidationError, match="needs `dataset` and `map`"):
        HubDataset(name="hub")
