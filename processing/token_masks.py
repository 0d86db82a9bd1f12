"""The bytes of any fast tokenizer's tokens, and which tokens may follow an unfinished answer. No tensors here."""

import itertools
import json
import re
import weakref
from array import array
from functools import cached_property

from .answer_grammar import WHOLE, AnswerGrammar, AnswerState, end_tail, step_tail

_X, _SPACE = b"x "
_BACKSLASH = b"\\"
_CONTINUING = bytes(range(0x80, 0xC0))

# Lists by the number of tokens, for tokens may be added later.
_KNOWN = weakref.WeakKeyDictionary()


def token_bytes(tokenizer) -> list[bytes | None]:
    """Return the bytes of every token by id, as decoding writes them; `None` for special tokens and unused ids.

    Byte-level BPE (GPT-2, Qwen2, Llama 3) and SentencePiece with `▁` for spaces are known. The latter drops the first
    space of a text, see [`drops_first_space`].

    Raises:
        ValueError: the tokenizer is slow, or writes its tokens in another way.
    """
    known = _KNOWN.setdefault(tokenizer, {})
    if len(tokenizer) not in known:
        known[len(tokenizer)] = _spell_vocabulary(tokenizer)
    return known[len(tokenizer)]


def _spell_vocabulary(tokenizer) -> list[bytes | None]:
    decoder = _decoder(tokenizer)
    if '"ByteLevel"' not in decoder and "▁" not in decoder and '"Metaspace"' not in decoder:
        raise ValueError(f"tokenizer decodes by {decoder}; byte-level BPE and SentencePiece are understood.")
    to_bytes = _byte_level if '"ByteLevel"' in decoder else _sentencepiece
    added = tokenizer.added_tokens_decoder
    special = set(tokenizer.all_special_ids) | {index for index, token in added.items() if token.special}
    vocabulary = tokenizer.get_vocab()
    spelled = [None] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index not in special:
            spelled[index] = token.encode() if index in added else to_bytes(token)
    return spelled


def drops_first_space(tokenizer) -> bool:
    """Return whether decoding takes away one space at the start, as SentencePiece does."""
    return '"ByteLevel"' not in _decoder(tokenizer)


def _decoder(tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        raise ValueError(f"tokenizer is {type(tokenizer).__name__}, which is slow or has no decoder; load a fast one.")
    return json.dumps(json.loads(backend.decoder.__getstate__()), ensure_ascii=False)


def _byte_alphabet() -> dict[str, int]:
    # GPT-2's: bytes that print stand for themselves, the others for characters from U+0100 on, in order.
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes((int(token[3:5], 16),))
    return token.replace("▁", " ").encode()


class TokenTrie:
    """Hold the tokens that start alike, by the bytes that follow.

    Branches are sorted only once they are walked: a grammar allows few of them, and all of 150,000 tokens take seconds.

    Args:
        items: `(id, bytes)` of tokens that agree in their first `depth` bytes.
    """

    def __init__(self, items, depth=0):
        self.ids = [index for index, spelled in items if len(spelled) == depth]
        self._items, self._depth = items, depth

    @cached_property
    def children(self) -> dict[int, "TokenTrie"]:
        """What starts alike and goes on, by the next byte."""
        depth, groups = self._depth, {}
        for item in self._items:
            if len(item[1]) > depth:
                groups.setdefault(item[1][depth], []).append(item)
        return {byte: TokenTrie(items, depth + 1) for byte, items in groups.items()}

    def after(self, byte: int) -> "TokenTrie":
        """Return what goes on with a byte; an empty trie where nothing does."""
        return self.children.get(byte, _EMPTY)


_EMPTY = TokenTrie([])


class AnswerMasks:
    """Know which tokens may follow a state of the grammar.

    Args:
        tokenizer: a fast tokenizer of byte-level BPE or SentencePiece; for `ticks` it has the time tokens.
        grammar: the answers that are allowed.
        eos: ids that end an answer; the first is what may follow one that is over.

    Raises:
        ValueError: the tokenizer is of another kind, or lacks time tokens or a character that answers need.
    """

    def __init__(self, tokenizer, grammar: AnswerGrammar, eos: list[int]):
        self.grammar, self.eos = grammar, eos
        self.bytes_of = token_bytes(tokenizer)
        self.drops_first_space = drops_first_space(tokenizer)
        self.tick_ids, self.tick_of = None, {}
        if grammar.in_ticks:
            self.tick_ids = tokenizer.convert_tokens_to_ids(grammar.grid.tick_tokens())
            self.tick_of = {index: tick for tick, index in enumerate(self.tick_ids)}
            if len(self.tick_of) != grammar.grid.num_ticks or None in self.tick_of:
                raise ValueError("answer_format is 'ticks' but the tokenizer lacks time tokens of this grid; add them.")
        is_open = grammar.labels is None and grammar.task != "grounding"
        plain = [(index, spelled) for index, spelled in enumerate(self.bytes_of) if spelled and index not in eos]
        plain = [(index, spelled) for index, spelled in plain if index not in self.tick_of]
        self.trie = TokenTrie(plain)
        self._space_ids = self.trie.after(_SPACE).ids
        self.open_labels = self.spaced_labels = None
        if is_open:
            # Half of a vocabulary starts with the space that comes before a label.
            spaced = [(index, spelled[1:]) for index, spelled in plain if spelled[0] == _SPACE and len(spelled) > 1]
            self.open_labels = OpenLabels(grammar, plain, self._can_finish)
            self.spaced_labels = OpenLabels(grammar, spaced, self._can_finish)
        needed = set(b"0123456789." if not grammar.in_ticks else b"") | set(b"none")
        needed |= set({"grounding": b"-, ", "detection": b"-, :;", "captioning": b"-: ;"}[grammar.task])
        needed |= {byte for label in grammar.labels or () for byte in label} | (set(b"x\\") if is_open else set())
        missing = [chr(byte) for byte in sorted(needed) if not self.trie.after(byte).ids]
        if missing:
            raise ValueError(f"tokenizer has no single token for {missing}, which answers need; use another one.")

    def advance(self, state: AnswerState, token: int, is_first: bool = False) -> AnswerState | None:
        """Return the state after one more token; `None` if it ends the answer or may not come here."""
        if token in self.tick_of:
            return self.grammar.step_time(state, self.tick_of[token])
        spelled = self.bytes_of[token] if token < len(self.bytes_of) and token not in self.eos else None
        if not spelled:
            return None
        if is_first and self.drops_first_space:
            spelled = spelled.removeprefix(b" ")
        return self.grammar.walk(state, spelled)

    def allowed(self, state: AnswerState | None, is_first: bool = False) -> tuple[list[int], tuple | None]:
        """Return the ids of the tokens that may follow, and within an open label its kind, of which there are more.

        See [`AnswerMasks.ids_of_kind`] for those.

        Args:
            state: where the answer is, `None` if it is over.
            is_first: whether nothing was generated yet.
        """
        if state is None:
            return self.eos[:1], None
        grammar, kind = self.grammar, None
        ids = list(self.eos) if grammar.is_complete(state) else []
        if grammar.in_ticks and state.phase in ("onset", "offset"):
            low, high = grammar.time_range(state)
            ids += self.tick_ids[low : high + 1] if low <= high else []
        labels, label = self._open_label(state)
        if labels is not None:
            kind, others = labels.kind_of(label)
            is_spaced = labels is self.spaced_labels
            kind = (is_spaced, *kind)
            ids += others + (self._space_ids if is_spaced else [])
        else:
            ids += self._reachable(self.trie, state)
        if is_first and self.drops_first_space:
            ids += [*self._space_ids, *self._reachable(self.trie.after(_SPACE), state)]
        return ids, kind

    def ids_of_kind(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow; nearly a whole vocabulary."""
        is_spaced, *kind = kind
        return (self.spaced_labels if is_spaced else self.open_labels).ids_of(tuple(kind))

    def _open_label(self, state) -> "tuple[OpenLabels | None, AnswerState]":
        """Return the tokens of open labels, and the state within a label, if one goes on or starts here."""
        grammar, labels = self.grammar, self.open_labels
        if labels is not None and state.phase == "literal" and (state.text, state.then) == (b" ", "label"):
            labels, state = self.spaced_labels, grammar.step(state, _SPACE)
        is_label = labels is not None and state.phase == "label"
        goes_on = is_label and grammar.step(state._replace(tail=WHOLE), _X) is not None
        return labels if goes_on else None, state

    def _reachable(self, trie, state) -> list[int]:
        """Return the ids of the tokens of a trie that may follow."""
        ids, stack = [], [(trie, state)]
        while stack:
            trie, before = stack.pop()
            for byte, longer in trie.children.items():
                after = self.grammar.step(before, byte)
                if after is not None:
                    ids += longer.ids
                    stack.append((longer, after))
        return ids

    def _can_finish(self, tail) -> bool:
        return all(self.trie.after(byte).ids for byte in end_tail(tail))


class OpenLabels:
    """Know which tokens go on with a label of no given set, and which end it.

    Nearly every token of a vocabulary goes on with such a label. What may follow depends on what the last character has
    so far, on the next times that are possible, and hardly ever on what the label says; so it is worked out once for
    each *kind* of state, `(tail, endings)`, instead of once for each state.

    Args:
        grammar: answers with open labels.
        plain: `(id, bytes)` of the tokens that are text.
        can_finish: whether the last character can be made whole, from what it has so far.
    """

    def __init__(self, grammar: AnswerGrammar, plain, can_finish):
        self.grammar, self.can_finish = grammar, can_finish
        self.end = end = b":" if grammar.task == "detection" else b";"
        # An escape is a backslash and one more byte.
        split = re.compile(rb"(?s)((?:[^\\%s]|\\.)*\\?)(%s.*)?" % (end, end))
        begins_time = re.compile(rb"(?s). ?\Z|. [0-9]")
        # `{ending: {bytes before it: ids}}`, where an ending is `: ` say.
        self.inner, self.ending, self.endings = [], [], {}
        for index, spelled in plain:
            before, ending = split.fullmatch(spelled).groups()
            if ending is None:
                self.inner.append((index, spelled))
            elif begins_time.match(ending):
                self.endings.setdefault(ending, {}).setdefault(before, []).append(index)
            if end in spelled:
                self.ending.append((index, spelled))
        self._inner_ids, self._endings_after = {}, {}

    def kind_of(self, state: AnswerState) -> tuple[tuple, list[int]]:
        """Return the kind of a state whose label can go on, and the ids that it allows beyond those of its kind."""
        if state.tail == _BACKSLASH:
            # What ends a label otherwise is escaped here, and the other way round.
            walked = ((index, self.grammar.walk(state, spelled)) for index, spelled in self.ending)
            return (state.tail, ()), [index for index, after in walked if after is not None]
        # What would make the label one that there has been.
        rests = {name[len(state.text) :] for name, _ in state.past if name.startswith(state.text)}
        fresh = state._replace(text=b"-" * (1 + max((len(name) for name, _ in state.past), default=0)), tail=WHOLE)
        endings, others = [], []
        for ending, ids_by_rest in self._after(state.tail).items():
            may_end = self.grammar.walk(fresh, ending) is not None
            met = rests & ids_by_rest.keys()
            if may_end and not met:
                endings.append(ending)
            elif may_end:
                others += [index for rest, ids in ids_by_rest.items() if rest not in met for index in ids]
            for rest in met:
                if self.grammar.walk(state, rest + ending) is not None:
                    others += ids_by_rest[rest]
        return (state.tail, tuple(endings)), others

    def ids_of(self, kind: tuple) -> array:
        """Return the ids that all states of a kind allow, as C integers: there may be as many as tokens."""
        tail = kind[0]
        if tail not in self._inner_ids:
            self._inner_ids[tail] = array("i", self._inside(tail))
        endings = (ids for ending in kind[1] for ids in self._after(tail)[ending].values())
        return self._inner_ids[tail] + array("i", itertools.chain.from_iterable(endings))

    def _after(self, tail) -> dict[bytes, dict[bytes, list[int]]]:
        """Return of `endings` what makes the last character whole, and then ends the label."""
        if tail not in self._endings_after:
            self._endings_after[tail] = {
                ending: kept
                for ending, ids_by_rest in self.endings.items()
                if (kept := {rest: ids for rest, ids in ids_by_rest.items() if _step_all(tail, rest) == WHOLE})
            }
        return self._endings_after[tail]

    def _inside(self, tail):
        """Yield the ids that stay within a label whose last character has `tail` so far."""
        if tail == _BACKSLASH:
            # Tokens with what ends a label are those of `kind_of`.
            walked = ((i, _step_all(tail, spelled)) for i, spelled in self.inner if self.end not in spelled)
            yield from (index for index, after in walked if after is not None and self.can_finish(after))
            return
        for rest, (bare_ids, ids, spaced_ids) in self._by_rest_of_character.items():
            after = _step_all(tail, rest)
            if after == WHOLE:
                yield from (*bare_ids, *ids, *spaced_ids)
            elif after in (b"", b" "):
                # A label starts with no space, and has no two in a row.
                yield from ids
            elif after is not None and self.can_finish(after):
                yield from bare_ids

    @cached_property
    def _by_rest_of_character(self) -> dict[bytes, tuple[list[int], list[int], list[int]]]:
        """What stays within a label, by the bytes that complete a character of the token before.

        For each, the ids of the tokens that are no more than that, and of those where another character than a space
        follows, or a space does. So one walk through a vocabulary does for all characters that a token may cut.
        """
        found = {}
        for index, spelled in self.inner:
            rest = spelled[: len(spelled) - len(spelled.lstrip(_CONTINUING))]
            follows = spelled[len(rest) :]
            after = _step_all(WHOLE, follows)
            if after is not None and self.can_finish(after):
                place = 0 if not follows else 1 + (follows[:1] == b" ")
                found.setdefault(rest, ([], [], []))[place].append(index)
        return found


def _step_all(tail, spelled) -> bytes | None:
    for byte in spelled:
        tail = step_tail(tail, byte)
        if tail is None:
            break
    return tail
