"""Characters of a label in an answer, byte by byte: escapes, and characters of several bytes that a token may cut."""

from bisect import bisect_left

from .answer_text import escape_label

_BACKSLASH, _SPACE = b"\\ "
# The last character is complete and no space. Any other `tail` is what the last character has so far.
WHOLE = b"x"


def step_tail(tail: bytes, byte: int) -> bytes | None:
    r"""Return what the last character of an open label has after one more byte; `None` if no label goes on with it.

    Args:
        tail: `b""` at the start of a label, `b" "` after a space, `b"x"` after another whole character, or the bytes of
            a character or an escape that is not whole yet.
    """
    grown = tail + bytes((byte,))
    if tail[:1] == b"\\":
        if len(tail) == 1 and byte in b"\\:;lg":
            return WHOLE
        place = bisect_left(_UNSAFE, grown)
        if place == len(_UNSAFE) or not _UNSAFE[place].startswith(grown):
            return None
        return WHOLE if grown == _UNSAFE[place] else grown
    if tail and tail[0] >= 0x80:
        return _step_utf8(grown)
    if byte == _SPACE:
        return b" " if tail else None
    if byte >= 0x80:
        return _step_utf8(bytes((byte,)))
    if byte == _BACKSLASH:
        return b"\\"
    return None if byte < 0x20 or byte == 0x7F or byte in b"<>:;" else WHOLE


def end_tail(tail: bytes) -> bytes:
    """Return the first bytes that make the last character of an open label whole."""
    if tail == WHOLE:
        return b""
    if tail in (b"", b" "):
        return WHOLE
    if tail == b"\\":
        return b"\\"
    if tail[:1] == b"\\":
        return _UNSAFE[bisect_left(_UNSAFE, tail)][len(tail) :]
    rest = b""
    while (after := _step_utf8(tail + rest)) not in (None, WHOLE):
        rest += bytes((next(byte for byte in range(0x80, 0xC0) if _step_utf8(after + bytes((byte,))) is not None),))
    return rest


def _step_utf8(part: bytes) -> bytes | None:
    try:
        character = part.decode()
    except UnicodeDecodeError as error:
        # Of a cut character Python says that the data ended; every cut character has a safe whole one.
        return part if error.reason == "unexpected end of data" else None
    return None if _is_unsafe(character) else WHOLE


def _is_unsafe(character: str) -> bool:
    return escape_label(f"x{character}x").startswith("x\\u")


# Every escape by number that is needed: white space and controls, which lie before U+3001. Surrogates, which would be
# escaped too, are no characters, and no label that is heard has one.
_UNSAFE = sorted(b"\\u%06x" % code for code in range(0x3001) if code == _SPACE or _is_unsafe(chr(code)))


__all__ = ["WHOLE", "end_tail", "step_tail"]
