"""The tokens of any fast tokenizer: the bytes each stands for, halves of characters included, and a trie of them."""

import json
import weakref
from functools import cached_property

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
