"""Finds the training questions that are worth comparing with held-out ones, at a gigabyte in a few seconds.

`decontamination.py` compares exactly, in Python. This module says which rows that can concern. It works on
the bytes of whole columns with numpy, so its time hardly depends on what the texts say, and errs on the side
of looking:

    words       runs of ASCII letters and single Chinese characters. Left out is what notations write in
    different
                ways: single letters, numbers in words, names of LaTeX commands. Full-width forms are folded.
    shingles    three words in a row. Short questions and formulas have shingles of fewer words, and of their
    digits. suspects    rows that have a third of a question's shingles, each weighed by how rare it is among
    the rows
                (inverse document frequency), or all shingles of a question that must be found as a whole.

Memory holds the held-out questions' shingles and a few numbers a row; what rows share with questions is kept
in a temporary file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[Any]

ENOUGH = 0.3
"""Of a question's shingles, by weight, from which on a row is compared exactly."""
_OFTEN = 16
"""A shingle that more held-out questions have is wording of many and points to none of them."""
_PIECE = 2**19
"""Bytes that are worked on at a time: small enough for the processor's cache."""
_FEW = 10
"""Questions of fewer words are also known by their digits."""
_DIGITS = 8
"""Digits in a row that make a shingle; all of a question that has fewer."""
_SHORT_ROW = 12
"""Rows of up to so many words are compared where they spell a number."""

_FOLD = np.zeros(256, np.uint8)
for _letter in range(ord("a"), ord("z") + 1):
    _FOLD[[_letter, _letter - 32]] = _letter
_DIGIT = np.zeros(256, bool)
_DIGIT[48:58] = True
_MASKS = np.array([(1 << (8 * n)) - 1 for n in range(9)], np.uint64)
_M1, _M2, _M3 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xBF58476D1CE4E5B9))
_PAD = 32


class Screen:
    """The held-out questions' shingles, and which rows have them."""

    def __init__(
        self,
        questions: Sequence[Sequence[str]],
        shortest: int,
        left_out: frozenset[str],
        numerals: frozenset[str],
    ) -> None:
        """`questions`: words in one notation. `left_out`: words that are no part of a shingle; `numerals`:
        those among them that spell a number. Questions of fewer than `shortest` words must be found as a
        whole."""
        self._left_out = _Marked(_hashes_of(left_out | numerals))
        self._numerals = _Marked(_hashes_of(numerals))
        sets = self._shingles_of(questions)
        self._sizes = sorted(
            {size for size, _ in (pair for found in sets for pair in found) if size > 0 and size != 3}
        )
        self._digit_sizes = sorted({-size for found in sets for size, _ in found if size < 0})
        groups = dict.fromkeys(
            (tuple(sorted(found)), len(words) < shortest)
            for found, words in zip(sets, questions, strict=True)
        )
        self._whole = np.array([whole for _, whole in groups], bool)
        self._keys = np.unique(np.array([key for found, _ in groups for _, key in found], np.uint64))
        lists = [
            np.searchsorted(self._keys, np.array([key for _, key in found], np.uint64)) for found, _ in groups
        ]
        self._count = np.array([len(found) for found in lists], np.int64)
        self._questions = np.repeat(np.arange(len(lists)), self._count)
        self._shingles = np.concatenate([*lists, np.zeros(0, np.int64)]).astype(np.int64)
        self._table = _Marked(self._keys)
        self._rows = 0
        self._always: list[Array] = []
        self._identity: list[Array] = []
        self._hits: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the screen)
        self._threads = ThreadPoolExecutor(2)

    def close(self) -> None:
        self._threads.shutdown()
        self._hits.close()

    def add(self, texts: pa.Array) -> None:
        """Look at the next rows."""
        middle = len(texts) // 2
        halves = [(texts[:middle], self._rows), (texts[middle:], self._rows + middle)]
        for rows, hits, identity, always in self._threads.map(lambda half: self._look(*half), halves):
            np.stack([rows, hits]).T.astype(np.int32).tofile(self._hits)
            self._identity.append(identity)
            self._always.append(always)
        self._rows += len(texts)

    def suspects(self) -> Array:
        """Return the numbers of the rows to compare exactly, ascending."""
        found = np.zeros(self._rows, bool)
        found[np.concatenate([*self._always, np.zeros(0, np.int64)]).astype(np.int64)] = True
        if self._rows and len(self._keys):
            # A question that stands there a hundred times is no wording that a hundred questions share.
            first = np.zeros(self._rows, bool)
            first[np.unique(np.concatenate(self._identity), return_index=True)[1]] = True
            frequency = np.zeros(len(self._keys), np.int64)
            for rows, hits in self._blocks():
                frequency += np.bincount(hits[first[rows]], minlength=len(self._keys))
            score = _Score(self, np.log((self._rows + 1) / np.maximum(frequency, 1)) + 0.05)
            for rows, hits in self._blocks():
                found[score.suspects(rows, hits)] = True
        return np.flatnonzero(found)

    def _blocks(self) -> Iterator[tuple[Array, Array]]:
        """What was written, some at a time; a row's hits are in one block, because `add` writes whole
        rows."""
        self._hits.seek(0)
        kept = np.zeros((0, 2), np.int32)
        while len(read := np.fromfile(self._hits, np.int32, 2**20)):
            pairs = np.concatenate([kept, read.reshape(-1, 2)])
            cut = int(np.searchsorted(pairs[:, 0], pairs[-1, 0]))
            if cut:
                yield pairs[:cut, 0], pairs[:cut, 1]
            kept = pairs[cut:]
        if len(kept):
            yield kept[:, 0], kept[:, 1]

    def _look(self, texts: pa.Array, first: int) -> tuple[Array, Array, Array, Array]:
        """Return (rows, shingles they have, each once), an identity for each row, and rows to compare
        anyway."""
        import pyarrow as pa

        texts = texts.cast(pa.large_string())
        bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        parts: list[tuple[Array, Array, Array, Array]] = []
        at = 0
        while at < len(texts):
            end = max(at + 1, int(np.searchsorted(bounds, bounds[at] + _PIECE, "right")) - 1)
            piece = _Piece(data[bounds[at] : bounds[end]], bounds[at : end + 1] - bounds[at])
            rows, hits, identity, always = self._look_at(piece)
            parts.append((rows + first + at, hits, identity, always + first + at))
            at = end
        if not parts:
            return (np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.uint64), np.zeros(0, np.int64))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]

    def _look_at(self, piece: _Piece) -> tuple[Array, Array, Array, Array]:
        words, rows = piece.words()
        dropped = self._left_out.has(words)
        kept, kept_rows = words[~dropped], rows[~dropped]
        found: list[tuple[Array, Array]] = []
        triples, places = _shingles(kept, kept_rows, 3)
        identity = np.bincount(rows, minlength=piece.rows).astype(np.uint64)
        _add_by_row(identity, places, triples)
        found.append((places, triples))
        found += [_shingles(kept, kept_rows, size)[::-1] for size in self._sizes]
        digits = piece.digits()
        _add_by_row(identity, digits.rows, (digits.values.astype(np.uint64) + np.uint64(1)) * _M2)
        found += [digits.shingles(size)[::-1] for size in self._digit_sizes]
        hit_rows, hits = [], []
        for where, keys in found:
            marked = np.flatnonzero(self._table.maybe(keys))
            place = np.minimum(np.searchsorted(self._keys, keys[marked]), max(len(self._keys) - 1, 0))
            same = self._keys[place] == keys[marked] if len(self._keys) else np.zeros(0, bool)
            hit_rows.append(where[marked][same])
            hits.append(place[same])
        pairs = np.concatenate(hit_rows).astype(np.int64) << 32 | np.concatenate(hits).astype(np.int64)
        pairs.sort()
        pairs = pairs[np.concatenate([[True], np.diff(pairs) > 0])] if len(pairs) else pairs
        many = np.bincount(kept_rows, minlength=piece.rows)
        always = many < 3
        if dropped.any():
            spelled = rows[dropped][self._numerals.has(words[dropped])]
            always[spelled] |= many[spelled] <= _SHORT_ROW
        return pairs >> 32, pairs & 0xFFFFFFFF, identity, np.flatnonzero(always)

    def _shingles_of(self, questions: Sequence[Sequence[str]]) -> list[set[tuple[int, int]]]:
        """Return the shingles of each question as (size, key); the size of those of digits is negative."""
        data = [" ".join(words).encode() for words in questions]
        bounds = np.concatenate([[0], np.cumsum([len(text) for text in data])]).astype(np.int64)
        found: list[set[tuple[int, int]]] = []
        at = 0
        while at < len(data):
            end = min(at + 2000, len(data))
            joined = np.frombuffer(b"".join(data[at:end]), np.uint8)
            piece = _Piece(joined, bounds[at : end + 1] - bounds[at])
            words, rows = piece.words()
            kept = ~self._left_out.has(words)
            words, rows = words[kept], rows[kept]
            digits = piece.digits()
            starts = np.searchsorted(rows, np.arange(end - at + 1))
            lengths = np.bincount(digits.rows, minlength=end - at)
            numbers: dict[int, dict[int, int]] = {}
            for size in range(1, _DIGITS + 1):
                keys, places = digits.shingles(size)
                for key, row in zip(keys[::-1].tolist(), places[::-1].tolist(), strict=True):
                    numbers.setdefault(row, {})[size] = key  # the first of the row stays
            for row in range(end - at):
                own = words[starts[row] : starts[row + 1]]
                shingles: set[tuple[int, int]] = set()
                if size := min(3, len(own)):
                    keys = _shingles(own, np.zeros(len(own), np.int64), size)[0]
                    shingles |= {(size, int(key)) for key in keys}
                if len(own) < _FEW and lengths[row]:
                    size = min(_DIGITS, int(lengths[row]))
                    shingles.add((-size, numbers[row][size]))
                found.append(shingles)
            at = end
        return found


class _Score:
    """Weighs what a row has of each question."""

    def __init__(self, screen: Screen, weights: Array) -> None:
        questions, shingles = screen._questions, screen._shingles
        asked = np.bincount(shingles, minlength=len(weights))
        pointing = asked[shingles] <= _OFTEN
        share = np.where(screen._whole, 0.999, ENOUGH)
        total = np.bincount(questions, weights[shingles], len(screen._count))
        told = np.bincount(questions[pointing], weights[shingles[pointing]], len(screen._count))
        self._weights, self._enough = weights, share * told
        # Questions that are mostly wording of many (generated ones) are known by how much of it a row has.
        self._wording = np.zeros(len(weights))
        generated = told < 0.5 * total
        part = generated[questions]
        np.maximum.at(
            self._wording, shingles[part], 1 / np.maximum(share * screen._count, 1)[questions[part]]
        )
        chosen = pointing & ~part
        order = np.argsort(shingles[chosen], kind="stable")
        self._posted = questions[chosen][order]
        self._starts = np.searchsorted(shingles[chosen][order], np.arange(len(weights) + 1))

    def suspects(self, rows: Array, hits: Array) -> Array:
        base = int(rows[0])
        generated = np.bincount(rows - base, self._wording[hits])
        counts = self._starts[hits + 1] - self._starts[hits]
        ends = np.cumsum(counts)
        place = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(self._starts[hits], counts)
        pairs = (np.repeat(rows, counts).astype(np.int64) << 32) | self._posted[place]
        unique, inverse = np.unique(pairs, return_inverse=True)
        scores = np.bincount(inverse, np.repeat(self._weights[hits], counts), len(unique))
        enough = scores >= self._enough[unique & 0xFFFFFFFF]
        return np.concatenate([unique[enough] >> 32, np.flatnonzero(generated >= 0.999) + base])


class _Piece:
    """The bytes of some rows, full-width forms folded, and where each row begins."""

    def __init__(self, data: Array, bounds: Array) -> None:
        self.rows = len(bounds) - 1
        self._ascii = not len(data) or int(data.max()) < 0x80
        if not self._ascii:
            data, bounds = _half_width(data, bounds)
        self._data = np.concatenate([data, np.zeros(_PAD, np.uint8)])
        self._bounds = bounds

    def words(self) -> tuple[Array, Array]:
        """Return the hash and the row of each word."""
        folded = _FOLD[self._data]
        letter = folded > 0
        inner = self._bounds[(self._bounds > 0) & (self._bounds < len(letter) - _PAD)]
        begins = letter.copy()
        begins[1:] &= ~letter[:-1]
        begins[inner] = letter[inner]
        ends = ~letter
        ends[1:] &= letter[:-1]
        ends[0] = False
        ends[inner] = letter[inner - 1]
        starts, lengths = np.flatnonzero(begins), np.flatnonzero(ends)
        lengths = lengths - starts
        if not self._ascii:
            han = self._han()
            for offset in range(3):
                folded[han + offset] = self._data[han + offset]
            starts, lengths = np.concatenate([starts, han]), np.concatenate([lengths, np.full(len(han), 3)])
            order = np.argsort(starts, kind="stable")
            starts, lengths = starts[order], lengths[order]
        several = lengths > 1  # single letters are names of variables
        starts, lengths = starts[several], lengths[several]
        return _hashes(folded, starts, lengths), self._rows_of(starts)

    def digits(self) -> _Digits:
        places = np.flatnonzero(_DIGIT[self._data])
        return _Digits(self._data[places] - np.uint8(48), self._rows_of(places), places)

    def _rows_of(self, places: Array) -> Array:
        """Return the row of each of some ascending places."""
        counts = np.diff(np.searchsorted(places, self._bounds))
        return np.repeat(np.arange(self.rows), counts)

    def _han(self) -> Array:
        """Where the UTF-8 of U+3400 to U+9FFF begins."""
        lead, second = self._data[:-1], self._data[1:]
        return np.flatnonzero(((lead >= 0xE4) & (lead <= 0xE9)) | ((lead == 0xE3) & (second >= 0x90)))


class _Digits(NamedTuple):
    values: Array
    rows: Array
    places: Array
    """In the bytes of the piece."""

    def shingles(self, size: int) -> tuple[Array, Array]:
        """Return a key for each `size` digits of a row that begin with a number, and the row.

        Fewer than `_DIGITS` must end with a number, too: 3 and 4 are not in 1340.
        """
        last = len(self.values) - size + 1
        if last < 1:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        apart = np.ones(len(self.values) + 1, bool)
        apart[1:-1] = (np.diff(self.places) > 1) | (np.diff(self.rows) > 0)
        chosen = apart[:last] & (self.rows[:last] == self.rows[size - 1 :])
        if size < _DIGITS:
            chosen &= apart[size:]
        at = np.flatnonzero(chosen)
        key = np.full(len(at), size, np.uint64)
        for offset in range(size):
            key = key * np.uint64(11) + self.values[at + offset] + np.uint64(1)
        key *= _M2
        key ^= key >> np.uint64(30)
        return key * _M3, self.rows[at]


class _Marked:
    """A set of hashes; asks a small table first, which says no to most."""

    def __init__(self, keys: Array) -> None:
        self._keys = np.unique(keys)
        bits = int(np.clip(np.ceil(np.log2(16 * len(keys) + 1)), 12, 25))
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(2**bits, bool)
        self._table[(self._keys >> self._shift).astype(np.int64)] = True

    def maybe(self, hashes: Array) -> Array:
        return self._table[(hashes >> self._shift).astype(np.int64)]

    def has(self, hashes: Array) -> Array:
        found = self.maybe(hashes)
        places = np.flatnonzero(found)
        at = np.minimum(np.searchsorted(self._keys, hashes[places]), len(self._keys) - 1)
        found[places] = self._keys[at] == hashes[places]
        return found


def _half_width(data: Array, bounds: Array) -> tuple[Array, Array]:
    """Replace U+FF01 to U+FF5E, three bytes each, by the ASCII character."""
    padded = np.concatenate([data, np.zeros(2, np.uint8)])
    at = np.flatnonzero(data == 0xEF)
    second, third = padded[at + 1], padded[at + 2]
    wide = ((second == 0xBC) & (third >= 0x81)) | ((second == 0xBD) & (third <= 0x9E) & (third >= 0x80))
    at, second, third = at[wide], second[wide], third[wide]
    if not len(at):
        return data, bounds
    changed, keep = data.copy(), np.ones(len(data), bool)
    changed[at] = np.where(second == 0xBC, third - np.uint8(0x60), third - np.uint8(0x20))
    keep[at + 1] = keep[at + 2] = False
    before = np.concatenate([[0], np.cumsum(keep)])
    return changed[keep], before[bounds]


def _hashes(data: Array, starts: Array, lengths: Array) -> Array:
    """Return a hash of the first 16 bytes and the length of each word."""
    at_any_byte: Array = np.ndarray((len(data) - 8,), "<u8", data, strides=(1,))
    head = at_any_byte[starts] & _MASKS[np.minimum(lengths, 8)]
    tail = at_any_byte[starts + 8] & _MASKS[np.clip(lengths - 8, 0, 8)]
    mixed = head * _M1 ^ (tail * _M2 + lengths.astype(np.uint64))
    mixed ^= mixed >> np.uint64(29)
    mixed *= _M3
    return mixed ^ (mixed >> np.uint64(32))


def _hashes_of(words: frozenset[str]) -> Array:
    data = [word.encode() for word in sorted(words)]
    bounds = np.concatenate([[0], np.cumsum([len(word) for word in data])]).astype(np.int64)
    hashes: Array = _Piece(np.frombuffer(b"".join(data), np.uint8), bounds).words()[0]
    return hashes


def _shingles(words: Array, rows: Array, size: int) -> tuple[Array, Array]:
    """Return a key for each `size` words in a row, and the row."""
    if len(words) < size:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    last = len(words) - size + 1
    inside = rows[:last] == rows[size - 1 :]
    key = np.full(last, size, np.uint64)
    for offset in range(size):
        key = (key ^ words[offset : offset + last]) * _M1
        key ^= key >> np.uint64(31)
    return key[inside], rows[:last][inside]


def _add_by_row(sums: Array, rows: Array, values: Array) -> None:
    """Add values, whose rows ascend, to the sums of their rows (modulo 2^64)."""
    if len(rows):
        starts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        sums[rows[starts]] += np.add.reduceat(values, starts)
