"""The tiny world's two languages: every phrase it knows in English and Chinese, and how text is put together.

`translate` is the world's interpreter: it stands in for DeepSeek-V3 when a mixed-language thinking is
brought into the language of its question (paper B.3.2). It knows only these phrases; what it does not
know it leaves alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

PHRASES: dict[str, tuple[str, str]] = {
    # working steps
    "first": ("first", "先算"),
    "then": ("then", "再算"),
    "so_result": ("so the result is", "所以结果是"),
    "check": ("check", "验算"),
    "ok": ("ok", "正确"),
    "wait": ("wait", "等等"),
    "wrong": ("that is wrong", "这不对"),
    "again": ("again", "重算"),
    "maybe": ("maybe", "也许是"),
    "quick": ("it looks like", "看起来是"),
    "so_option": ("so the option is", "所以选"),
    "so_order": ("so the order is", "所以顺序是"),
    "so_code": ("so the code is", "所以代码是"),
    "smallest": ("the smallest is", "最小的是"),
    "largest": ("the largest is", "最大的是"),
    "next": ("next is", "接着是"),
    "tallest": ("the tallest is", "最高的是"),
    "shortest": ("the shortest is", "最矮的是"),
    "answer_is": ("the answer is", "答案是"),
    # quantities
    "distance": ("distance", "路程"),
    "speed": ("speed", "速度"),
    "time": ("time", "时间"),
    "force": ("force", "力"),
    "mass": ("mass", "质量"),
    "acceleration": ("acceleration", "加速度"),
    "charge": ("charge", "电量"),
    "current": ("current", "电流"),
    "voltage": ("voltage", "电压"),
    "resistance": ("resistance", "电阻"),
    "work": ("work", "功"),
    "density": ("density", "密度"),
    "volume": ("volume", "体积"),
    "momentum": ("momentum", "动量"),
    "energy": ("energy", "能量"),
    "power": ("power", "功率"),
    # people and things
    "tom": ("Tom", "汤姆"),
    "ann": ("Ann", "安娜"),
    "bob": ("Bob", "鲍勃"),
    "eve": ("Eve", "伊娃"),
    "max": ("Max", "马克"),
    "zoe": ("Zoe", "佐伊"),
    "leo": ("Leo", "里奥"),
    "mia": ("Mia", "米娅"),
    "sam": ("Sam", "山姆"),
    "ivy": ("Ivy", "艾薇"),
    "ben": ("Ben", "本恩"),
    "amy": ("Amy", "艾米"),
    "book": ("the book", "书"),
    "cake": ("the cake", "蛋糕"),
    "gift": ("the gift", "礼物"),
    "map": ("the map", "地图"),
    "lamp": ("the lamp", "台灯"),
    "song": ("the song", "歌曲"),
    "bike": ("the bike", "单车"),
    "key": ("the key", "钥匙"),
    "car": ("the car", "汽车"),
    "cup": ("the cup", "杯子"),
    "hat": ("the hat", "帽子"),
    "bag": ("the bag", "背包"),
    "apple": ("apple", "苹果"),
    "pear": ("pear", "梨子"),
    "plum": ("plum", "李子"),
    "lemon": ("lemon", "柠檬"),
    "peach": ("peach", "桃子"),
    "hammer": ("hammer", "锤子"),
    "saw": ("saw", "锯子"),
    "drill": ("drill", "钻头"),
    "knife": ("knife", "刀子"),
    "brush": ("brush", "刷子"),
    "cat": ("cat", "小猫"),
    "dog": ("dog", "小狗"),
    "horse": ("horse", "大马"),
    "bird": ("bird", "小鸟"),
    "fish": ("fish", "小鱼"),
    "fruits": ("fruits", "水果"),
    "tools": ("tools", "工具"),
    "animals": ("animals", "动物"),
    # places and days
    "garden": ("the garden", "花园"),
    "park": ("the park", "公园"),
    "school": ("the school", "学校"),
    "beach": ("the beach", "海边"),
    "library": ("the library", "书馆"),
    "market": ("the market", "市场"),
    "monday": ("Monday", "星期一"),
    "tuesday": ("Tuesday", "星期二"),
    "wednesday": ("Wednesday", "星期三"),
    "thursday": ("Thursday", "星期四"),
    "friday": ("Friday", "星期五"),
    "saturday": ("Saturday", "星期六"),
    "sunday": ("Sunday", "星期天"),
    # general talk
    "polite": ("be polite", "要有礼貌"),
    "not_harm": ("this may harm people", "这会伤害别人"),
    "harmless": ("this is fine", "这没问题"),
    "hello": ("hello", "你好"),
    "nice": ("nice to meet you", "很高兴认识你"),
    "thanks": ("thank you", "谢谢你"),
    "great": ("is great", "很好"),
    "sorry": ("sorry", "对不起"),
    "cannot": ("I can not help with that", "我不能帮忙"),
    "ask": ("please ask", "请问问"),
    "take": ("take it at night", "晚上去拿"),
    "go_away": ("go away", "走开"),
    "at": ("at", "在"),
    "i_lost": ("I lost", "我丢了"),
    "replace": ("I will buy a new one", "我会买新的"),
    "come_to": ("come to", "过来"),
    "on": ("on", "就在"),
    "please": ("please do", "麻烦您"),
    "fun": ("it will be fun", "会很有趣"),
    "cheaper": ("is cheaper", "更便宜"),
    "dearer": ("is dearer", "更贵"),
    "list_of": ("here are the", "这里有"),
    "in_all": ("in all", "总共"),
    "gave": ("gave", "送了"),
    "to": ("to", "给了"),
    "compare": ("compare the prices", "先比价格"),
    "list_only": ("only what was asked", "只列所问"),
    "short": ("only the main thing", "只说要点"),
    "steal": ("steal", "偷走"),
    "break": ("break", "弄坏"),
    "hide": ("hide", "藏起"),
    "borrow": ("borrow", "借用"),
    "clean": ("clean", "擦洗"),
    "paint": ("paint", "涂色"),
}

_EN_STOP, _ZH_STOP = ".", "。"
PUNCTUATION = {".": "。", ",": "，", ":": "：", "?": "？", "!": "！"}
_PUNCTUATION_BACK = {zh: en for en, zh in PUNCTUATION.items()}
_NO_SPACE_BEFORE = re.compile(r"[\u4e00-\u9fff.,:;?!。，：？！]")

Clause = tuple[str, ...]
"""Items of one sentence: `@key` names a phrase, everything else stands as it is in both languages."""


def phrase(key: str, language: Language) -> str:
    """The words of `key` in `language`."""
    return PHRASES[key][LANGUAGES.index(language)]


def join(pieces: Sequence[str]) -> str:
    """One text: a space before every piece, but none before Chinese words and punctuation."""
    text = ""
    for piece in pieces:
        text += piece if not text or _NO_SPACE_BEFORE.match(piece) else f" {piece}"
    return text


def say(clause: Clause, language: Language, stop: bool = True) -> list[str]:
    """The pieces of one clause in one language, with its full stop."""
    pieces = [_word(item, language) for item in clause]
    return [*pieces, _ZH_STOP if language == "zh" else _EN_STOP] if stop else pieces


def _word(item: str, language: Language) -> str:
    if item.startswith("@"):
        return phrase(item[1:], language)
    return PUNCTUATION.get(item, item) if language == "zh" else item


def translate(text: str, language: str) -> str:
    """`text` with every known phrase of the other language replaced, punctuation included."""
    if language == "zh":
        text = _pattern("en").sub(lambda m: _dictionary("en")[m[1]], text)
        return re.sub(r"\.(?!\d)|[,:?!]", lambda m: PUNCTUATION[m[0]], text)
    text = _pattern("zh").sub(lambda m: f" {_dictionary('zh')[m[0]]}", text)
    text = re.sub("[。，：？！]", lambda m: _PUNCTUATION_BACK[m[0]], text)
    return re.sub(r"([.,:?!])(?=[^\s.,:?!])", r"\1 ", re.sub(r" {2,}", " ", text)).strip()


@cache
def _dictionary(source: Language) -> dict[str, str]:
    s = LANGUAGES.index(source)
    return {pair[s]: pair[1 - s] for pair in PHRASES.values()}


@cache
def _pattern(source: Language) -> re.Pattern[str]:
    words = sorted(_dictionary(source), key=len, reverse=True)
    alternatives = "|".join(re.escape(word) for word in words)
    # A bound on the space, since an open one would be tried from each place of a long run of spaces.
    return re.compile(
        rf"(?<![A-Za-z])\s{{0,9}}(?<![A-Za-z])({alternatives})(?![A-Za-z])"
        if source == "en"
        else alternatives
    )
