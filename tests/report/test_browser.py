"""The report as a browser lays it out, on a telephone and on a desk, light and dark."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from tasks.funnel import FunnelStep
from tasks.report.browser import Excerpt, ShownSample, browser_data
from tasks.report.figures import draw_all
from tasks.report.pages import html_page
from tasks.report.selection import ChosenCompletions
from tasks.text_safety import for_page
from tests.report.synthetic import row_with

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium"),
]

# The browser's window is at least 500 pixels wide, a frame is as wide as it is told. The frame's page has the
# origin of this one: what it runs could reach `parent`, and the script here can use it as a reader would. In
# one of 300 starts Chromium calls the frame loaded without having run the script in its page: wait for that.
_FRAME = """<body><iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<pre id="out"></pre><script>
onload = () => {{
  const page = frame.contentDocument;
  const all = selector => [...page.querySelectorAll(selector)];
  const find = selector => page.querySelector(selector);
  const box = e => {{
    const r = e.getBoundingClientRect();
    return [e.textContent, r.left, r.right, r.height];
  }};
  const enter = (field, value, event = "input") => {{
    field.value = value;
    field.dispatchEvent(new Event(event, {{bubbles: true}}));
  }};
  const choose = value => enter(find("#browser-questions"), value, "change");
  const read = () => {{
    if (find("#browser").hidden) setTimeout(read, 50);
    else out.textContent = JSON.stringify((() => {{ {script} }})());
  }};
  read();
}}</script>"""
WIDTHS = (320, 390, 719, 1200)
_LAYOUT = f"""
const boxes = selector => all(selector).map(box);
return {list(WIDTHS)}.map(width => {{
  frame.style.width = `${{width}}px`;
  return {{
    width: page.documentElement.scrollWidth, verdicts: boxes(".claims .verdict"), claims: boxes(".claims td"),
    funnel: boxes(".funnel td"), funnels: boxes(".funnel"), steps: boxes(".steps td"),
    answers: boxes(".answer"), filters: boxes(".filters label:not([hidden])"),
    completions: boxes(".answer > div > .completion"), list: boxes("#browser-questions"),
    settings: boxes(".settings td"), head: box(find(".claims thead")),
  }};
}});"""


def seen_by(page, script, folder, width=1200, dark=False):
    """What the function body `script` returns of the page in a window of that width."""
    file = folder / "frame.html"
    file.write_text(_FRAME.format(width=width, page=html.escape(page), script=script))
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
        "--virtual-time-budget=10000", *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        file.as_uri(),
    ]  # fmt: skip
    for _ in range(2):  # should the script not have run at all
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, env=os.environ
        )
        found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
        if found:
            break
    assert found, done.stderr
    return json.loads(html.unescape(found[1]))


def awkward(run):
    """The run with the longest words that a run can have: reasons, domains, a preset's name, settings."""
    long = "language_" * 8
    part = run.parts["r1"]
    shown = run.completions
    samples = [
        replace(s, verdict=long, rewards={long: 1.0}, text=Excerpt.of(long * 9, 999)) for s in shown.samples
    ]
    problems = [replace(p, prompt=long * 4, answer=long, source=long, domain=long) for p in shown.problems]
    config = part.manifest.config | {long: "x" * 300}
    return replace(
        run,
        preset=long,
        funnels=[replace(f, rejected={long: 10**9}, kept={long: 10**9}) for f in run.funnels],
        steps={node: (FunnelStep(long, 10**9, 0, {long: 10**9}),) for node in run.steps},
        completions=ChosenCompletions(samples, problems, 9),
        claims=[replace(claim, measured=long, says=long) for claim in run.claims],
        parts=run.parts | {"r1": replace(part, manifest=part.manifest.model_copy(update={"config": config}))},
    )


@pytest.mark.parametrize("words", ["usual", "awkward"])
def test_nothing_lies_outside_the_window(loaded, tmp_path, words):
    run = awkward(loaded) if words == "awkward" else loaded
    found = seen_by(html_page(run, draw_all(run)), _LAYOUT, tmp_path)
    parts = ("verdicts", "claims", "funnel", "funnels", "steps", "answers", "filters", "completions", "list")
    for width, seen in zip(WIDTHS, found, strict=True):
        assert seen["width"] == width
        assert (seen["head"][3] > 1) == (width >= 720)  # the style of the window's width
        assert [text for text, *_ in seen["verdicts"]] == [claim.verdict for claim in run.claims]
        for part in parts:
            assert seen[part], part
            assert all(
                left >= 0 and right <= width and height > 0 for _, left, right, height in seen[part]
            ), part
        assert all(right <= width for _, _, right, _ in seen["settings"])


def test_the_page_follows_the_readers_theme(loaded, tmp_path):
    page, read = html_page(loaded, []), "return getComputedStyle(page.body).backgroundColor;"
    papers = [seen_by(page, read, tmp_path, 390, dark) for dark in (False, True)]
    assert papers == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]


ATTACKS = [
    "<script>parent.pwned = 1</script>",
    "</script><script>parent.pwned = 1</script>",
    "<!--<script></script><img src=x onerror='parent.pwned = 1'>",
    "</pre></div></p></title></style></template></textarea><svg onload='parent.pwned = 1'>",
    "<iframe srcdoc='<script>top.pwned = 1</script>'></iframe><a href='javascript:parent.pwned = 1'>x</a>",
    '"><b onmouseover="parent.pwned = 1">\\u003cscript>\\"};parent.pwned=1;//',
    "{{ run.preset }} ${parent.pwned = 1} {% raw %}",
    "a\x00b\x00<script\x00>parent.pwned = 1</script>",
    "abc\u202egnp.exe\u2066\u200f\u2069\u061c",
    "lone \ud800 and \udfff, line\u2028paragraph\u2029, byte order \ufeff",
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;//e.example'><base href=//e.example>",
    "constructor", "__proto__", "&lt;script&gt;&#60;script&#62;",
]  # fmt: skip
_READ = """
const read = find("#browser-questions").options.length;
const questions = [...Array(read).keys()].map(i => {
  choose(find("#browser-questions").options[i].value);
  all("#browser details").forEach(fold => fold.open = true);
  return {
    option: find("#browser-questions").selectedOptions[0].textContent,
    shown: all("#browser-question .completion, .answer .completion").map(e => e.textContent),
    verdict: find(".answer .verdict").textContent, rewards: find(".rewards").textContent,
    facts: all(".about bdi").map(e => e.textContent), title: find(".answer h4 bdi").textContent,
    tags: all("#browser-question *, #browser-answers *").map(e => e.tagName),
  };
});
const where = String(frame.contentWindow.location);
return {questions, pwned: typeof parent.pwned, scripts: all("script").length, where};
"""


def with_texts(run, texts):
    """The run with a question for each text, which stands wherever a stranger or a model can write."""
    problem = run.completions.problems[0]
    problems = [
        replace(problem, id=f"q{i}", prompt=text, answer=text, domain=text, language=text, source=text)
        for i, text in enumerate(texts)
    ]
    samples = [ShownSample.of_row(text, row_with(f"q{i}", text)) for i, text in enumerate(texts)]
    return replace(run, completions=ChosenCompletions(samples, problems, len(texts)))


def test_what_strangers_write_is_text_in_a_real_browser(loaded, tmp_path):
    seen = seen_by(html_page(with_texts(loaded, ATTACKS), []), _READ, tmp_path)
    plain = seen_by(html_page(with_texts(loaded, ["plain"] * len(ATTACKS)), []), _READ, tmp_path)
    assert (seen["pwned"], seen["scripts"], seen["where"]) == ("undefined", 2, "about:srcdoc")
    assert len(seen["questions"]) == len(ATTACKS)
    [elements] = {tuple(q["tags"]) for q in plain["questions"]}
    for text in ATTACKS:
        shown = for_page(text)
        [question] = [q for q in seen["questions"] if q["title"] == shown]
        prompt, thinking, answer = question["shown"]
        assert (prompt, question["verdict"]) == (shown, shown)
        assert thinking == f"<think>{shown}</think>"
        assert answer == shown
        assert question["facts"][0] == question["facts"][-2] == shown
        assert question["rewards"] == f"reward 1 · {shown} 0.5"
        assert " ".join(shown.split()) in " ".join(question["option"].split())
        assert tuple(question["tags"]) == elements


def test_the_policy_allows_no_other_script(loaded, tmp_path):
    page = html_page(loaded, [])
    injected = page.replace(
        "<main>", "<main><script>parent.pwned = 1</script><img src=x onerror='parent.pwned = 2'>"
    )
    read = "return [typeof parent.pwned, find('#browser').hidden];"
    assert seen_by(injected, read, tmp_path) == ["undefined", False]
    policy = re.search(r"<meta http-equiv=.*?>", injected)[0]
    assert seen_by(injected.replace(policy, ""), read, tmp_path)[0] == "number"


@pytest.mark.parametrize("text", ["שלום עולם 12", "\u202e\u2067\u200fabc 12", "مرحبا 12 (x)"])
def test_text_from_right_to_left_turns_nothing_around_it(loaded, tmp_path, text):
    read = """
        const lefts = selector => all(selector).map(e => e.getBoundingClientRect().left);
        return [".answer h4 > *", ".answer .line > *", ".rewards bdi", ".about bdi"].map(lefts);"""
    found = seen_by(html_page(with_texts(loaded, [text]), []), read, tmp_path)
    assert [len(places) for places in found] == [2, 3, 2, 5]
    heads, (verdict, tokens, _), rewards, facts = found
    assert heads == sorted(heads)
    assert verdict < tokens
    assert rewards == sorted(rewards)
    assert facts[:2] == sorted(facts[:2])  # the rest may stand on the next line


def test_questions_are_found_by_verdict_checkpoint_domain_language_and_words(loaded, tmp_path):
    chosen = loaded.completions
    data = browser_data(chosen.samples, chosen.problems)
    questions = data["questions"]
    column = next(i for i, c in enumerate(data["columns"]) if c["name"] == "r1-zero")
    read = """
        const form = find("#browser-filters").elements;
        const listed = () => [...find("#browser-questions").options].map(option => option.value).sort();
        const all_of_them = listed();
        enter(form.verdict, "unparseable");
        const verdict = listed();
        enter(form.column, "r1-zero");
        const both = listed(), first = find("[aria-label='R1-Zero'] .verdict")?.textContent;
        enter(form.verdict, ""); enter(form.column, "");
        enter(form.domain, "logic"); enter(form.language, "zh");
        const kind = listed();
        enter(form.domain, ""); enter(form.language, ""); enter(form.level, 5);
        const hard = listed();
        enter(form.level, ""); enter(form.search, " GREET tom 3 ");
        const words = listed();
        enter(form.search, "no such words");
        const none = [listed(), find("#browser-count").textContent, find("#browser-answers").children.length];
        enter(form.search, "");
        const [at, next] = [...find("#browser-questions").options].map(option => option.value);
        choose(at);
        const before = find("#browser-previous").disabled;
        find("#browser-next").click();
        const moved = find("#browser-questions").value === next && !find("#browser-previous").disabled;
        const cards = all(".answer").length, box = find("#browser-shown input");
        box.click();
        const menu = find(".answer select");
        enter(menu, menu.options.length - 1, "change");
        const other = menu.selectedOptions[0].textContent.endsWith(find(".answer .verdict").textContent);
        return {all_of_them, verdict, both, first, kind, hard, words, none, moved: before && moved,
                hidden: cards - all(".answer").length, other,
                unnamed: all("#browser :is(input, select)").filter(e => !e.labels.length && !e.ariaLabel)}"""
    seen = seen_by(html_page(loaded, []), read, tmp_path)

    def ids(condition):
        return sorted(q["id"] for q in questions if any(condition(q, s) for s in q["samples"]))

    assert seen["all_of_them"] == ids(lambda q, s: True)
    assert seen["verdict"] == ids(lambda q, s: s["verdict"] == "unparseable")
    both = ids(lambda q, s: s["verdict"] == "unparseable" and s["column"] == column)
    assert seen["both"] == both != seen["verdict"]
    assert both == [] or seen["first"] == "unparseable"
    assert seen["kind"] == ids(lambda q, s: (q["domain"], q["language"]) == ("logic", "zh")) != []
    assert seen["hard"] == ids(lambda q, s: q["level"] == 5) != []
    assert seen["words"] == ["general-003"]
    assert seen["none"] == [[], f"0 of {len(questions)} questions", 0]
    assert (seen["moved"], seen["hidden"], seen["other"]) == (True, 1, True)
    assert seen["unnamed"] == []


def test_a_live_page_can_send_newer_completions(loaded, tmp_path):
    chosen = loaded.completions
    newer = browser_data(
        [ShownSample.of_row("r1-zero", row_with("new-1", "newest"), step=7)],
        [replace(chosen.problems[0], id="new-1", prompt="What is new?")],
    )
    read = f"""
        const detail = {json.dumps(newer)};
        frame.contentWindow.dispatchEvent(new CustomEvent("completions", {{detail}}));
        return ["#browser-count", ".answer h4", ".answer .verdict"].map(part => find(part).textContent);"""
    assert seen_by(html_page(loaded, []), read, tmp_path) == [
        "1 of 1 questions", "R1-Zero, step 7", "newest",
    ]  # fmt: skip
