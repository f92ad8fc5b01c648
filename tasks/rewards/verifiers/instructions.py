r"""Checkable instructions: an answer is correct if it follows every one of them (IFEval, Zhou et al. 2023).

    {"kind": "length_constraints:number_words", "relation": "at least", "num_words": 300}

Kinds and arguments are those of the data set `google/IFEval`, and the verdict is its strict one for a whole
prompt. Each check is a few lines of string code whose time is linear in the answer. What differs: keywords
are texts and not regular expressions, and sentences and words are counted by rule and not by NLTK. Kinds that
need a model of language (`language:response_language`) are not checked: problems with one are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tasks.rewards.extraction import answer_element, has_no_answer_tags, tail
from tasks.rewards.verdict import Judgement, Verdict
from tasks.rewards.verifier import NO_ANSWER

if TYPE_CHECKING:
    from tasks.problem import Problem

Check = Callable[[str, Mapping[str, Any]], bool]

_SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)\]]*(?=\s|$)")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|[A-Z])$")
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_POSTSCRIPTS = {"P.S.": re.compile(r"p\.\s?s\.", re.I), "P.P.S": re.compile(r"p\.\s?p\.\s?s", re.I)}


def fault(problem: Problem) -> str | None:
    """Why no answer to the problem can be judged, beginning with the key; None if one can."""
    given = problem.verifier_args.get("instructions")
    if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
        return "verifier_args must have `instructions`: a list of objects with a `kind`"
    for item in given:
        if item.get("kind") not in _CHECKS:
            return (
                f"verifier_args.instructions: {str(item.get('kind'))[:60]!r} is no kind that rules can check"
            )
        try:
            _follows("", item)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return f"verifier_args.instructions: {item['kind']} lacks or misuses an argument ({error})"
    return None


def judge(problem: Problem, completion: str) -> Judgement:
    answer = answer_element(completion)
    if answer is None and has_no_answer_tags(completion):
        answer = tail(completion).strip() or None
    if answer is None:
        return NO_ANSWER
    missed = [i["kind"] for i in problem.verifier_args["instructions"] if not _follows(answer, i)]
    return Judgement(Verdict.wrong if missed else Verdict.correct, answer, ", ".join(missed))


def _follows(answer: str, instruction: Mapping[str, Any]) -> bool:
    # An empty answer follows nothing, but the arguments are read all the same.
    return _CHECKS[instruction["kind"]](answer, instruction) and bool(answer.strip())


def _compare(count: int, relation: str, number: int) -> bool:
    if relation not in ("less than", "at least"):
        raise ValueError(f"relation {relation!r}: less than or at least")
    return count < int(number) if relation == "less than" else count >= int(number)


def _has_keywords(text: str, args: Mapping[str, Any]) -> bool:
    return all(word.casefold() in text.casefold() for word in _texts(args["keywords"]))


def _keyword_count(text: str, args: Mapping[str, Any]) -> bool:
    count = text.casefold().count(args["keyword"].strip().casefold())
    return _compare(count, args["relation"], args["frequency"])


def _lacks_words(text: str, args: Mapping[str, Any]) -> bool:
    words = _texts(args["forbidden_words"])
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)


def _letter_count(text: str, args: Mapping[str, Any]) -> bool:
    return _compare(text.lower().count(args["letter"].lower()), args["let_relation"], args["let_frequency"])


def _sentence_count(text: str, args: Mapping[str, Any]) -> bool:
    ends = [m for m in _SENTENCE_END.finditer(text) if not _is_abbreviation(text, m)]
    rest = text[ends[-1].end() :] if ends else text
    return _compare(len(ends) + bool(rest.strip()), args["relation"], args["num_sentences"])


def _is_abbreviation(text: str, end: re.Match[str]) -> bool:
    before = text[max(0, end.start() - 6) : end.start()]
    return end.group() == "." and bool(_ABBREVIATION.search(before)) and end.end() < len(text.rstrip())


def _word_count(text: str, args: Mapping[str, Any]) -> bool:
    return _compare(len(re.findall(r"\w+", text)), args["relation"], args["num_words"])


def _paragraph_count(text: str, args: Mapping[str, Any]) -> bool:
    """Paragraphs divided by `***`; only the outer ones may be empty, and do not count then."""
    first, *inner = text.split("***")
    last = [inner.pop()] if inner else []
    outer = sum(bool(part.strip()) for part in (first, *last))
    return all(part.strip() for part in inner) and outer + len(inner) == int(args["num_paragraphs"])


def _nth_first_word(text: str, args: Mapping[str, Any]) -> bool:
    paragraphs = [part.strip() for part in text.split("\n\n")]
    count, place = sum(map(bool, paragraphs)), int(args["nth_paragraph"]) - 1
    wanted = args["first_word"].lower()
    if count != int(args["num_paragraphs"]) or not 0 <= place < len(paragraphs):
        return False
    words = paragraphs[place].split()
    first = words[0].lstrip("'\"").lower() if words else ""
    return re.split(r"[.,?!'\"]", first)[0] == wanted


def _placeholder_count(text: str, args: Mapping[str, Any]) -> bool:
    return sum(_brackets(line) for line in text.splitlines()) >= int(args["num_placeholders"])


def _brackets(line: str) -> int:
    """How many `[...]` stand in a line one after another."""
    count = at = 0
    while (opening := line.find("[", at)) >= 0 and (closing := line.find("]", opening)) >= 0:
        count, at = count + 1, closing + 1
    return count


def _has_postscript(text: str, args: Mapping[str, Any]) -> bool:
    marker = args["postscript_marker"].strip()
    pattern = _POSTSCRIPTS.get(marker) or re.compile(re.escape(marker), re.IGNORECASE)
    return bool(pattern.search(text))


def _bullet_count(text: str, args: Mapping[str, Any]) -> bool:
    lines = [line.lstrip() for line in text.splitlines()]
    bullets = [line for line in lines if line.startswith("-") or re.match(r"\*[^*]", line)]
    return len(bullets) == int(args["num_bullets"])


def _is_constrained(text: str, args: Mapping[str, Any]) -> bool:
    return any(answer in text for answer in _CONSTRAINED)


def _highlight_count(text: str, args: Mapping[str, Any]) -> bool:
    found = re.findall(r"\*[^\n*]*\*", text) + re.findall(r"\*\*[^\n*]*\*\*", text)
    return sum(bool(part.strip("*").strip()) for part in found) >= int(args["num_highlights"])


def _section_count(text: str, args: Mapping[str, Any]) -> bool:
    heads = re.findall(rf"{re.escape(args['section_spliter'].strip())}\s?\d+", text)
    return len(heads) >= int(args["num_sections"])


def _is_json(text: str, args: Mapping[str, Any]) -> bool:
    bare = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        bare = bare.removeprefix(fence)
    try:
        json.loads(bare.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _has_title(text: str, args: Mapping[str, Any]) -> bool:
    for line in text.splitlines():
        opening, closing = line.find("<<"), line.rfind(">>")
        if 0 <= opening < closing and line[opening:closing].strip("<> \t"):
            return True
    return False


def _is_two_responses(text: str, args: Mapping[str, Any]) -> bool:
    first, *inner = [part.strip() for part in text.split("******")]
    last = [inner.pop()] if inner else []
    parts = [part for part in (first, *inner, *last) if part]
    return all(inner) and len(parts) == 2 and parts[0] != parts[1]


def _repeats_prompt(text: str, args: Mapping[str, Any]) -> bool:
    return text.strip().lower().startswith(args["prompt_to_repeat"].strip().lower())


def _ends_with(text: str, args: Mapping[str, Any]) -> bool:
    return text.strip().strip('"').lower().endswith(args["end_phrase"].strip().lower())


def _is_quoted(text: str, args: Mapping[str, Any]) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare.startswith('"') and bare.endswith('"')


def _capital_count(text: str, args: Mapping[str, Any]) -> bool:
    words = re.findall(r"\w[\w'’&-]*", text)
    count = sum(word.isupper() for word in words)
    return _compare(count, args["capital_relation"], args["capital_frequency"])


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ValueError("a list of texts is needed")
    return value


_CHECKS: dict[str, Check] = {
    "keywords:existence": _has_keywords,
    "keywords:frequency": _keyword_count,
    "keywords:forbidden_words": _lacks_words,
    "keywords:letter_frequency": _letter_count,
    "length_constraints:number_sentences": _sentence_count,
    "length_constraints:number_paragraphs": _paragraph_count,
    "length_constraints:number_words": _word_count,
    "length_constraints:nth_paragraph_first_word": _nth_first_word,
    "detectable_content:number_placeholders": _placeholder_count,
    "detectable_content:postscript": _has_postscript,
    "detectable_format:number_bullet_lists": _bullet_count,
    "detectable_format:constrained_response": _is_constrained,
    "detectable_format:number_highlighted_sections": _highlight_count,
    "detectable_format:multiple_sections": _section_count,
    "detectable_format:json_format": _is_json,
    "detectable_format:title": _has_title,
    "combination:two_responses": _is_two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _is_quoted,
    "change_case:capital_word_frequency": _capital_count,
    "change_case:english_capital": lambda text, args: text.isupper(),
    "change_case:english_lowercase": lambda text, args: text.islower(),
    "punctuation:no_comma": lambda text, args: "," not in text,
}
