"""Prepare chat messages for the template: escape text, and resolve or refuse audio blocks."""

import base64
import binascii
import dataclasses
import urllib.parse
import urllib.request

from .answer_text import escape_text

AUDIO_TYPES = ("audio", "input_audio", "audio_url")
# Seconds to wait for a silent host.
TIMEOUT = 30


def prepare_message(message, load=None):
    """Return a message with escaped text, unless it is the assistant's, and uniform audio blocks.

    Args:
        message: `{"role", "content"}`; the content is text, a list of blocks, or missing, as with `tool_calls`. It, and
            what is in it, may be dataclasses or pydantic models, as of the OpenAI client, in place of dicts.
        load: function from an audio block to `{"type": "audio", "audio": array}`; `None` omits the audio.

    Raises:
        ValueError: a block that is neither text nor audio.
    """
    message = _as_dicts(message)
    escape = (lambda text: text) if message["role"] == "assistant" else escape_text
    # Arrow adds the keys of other messages and blocks, with the value None.
    message = {key: value for key, value in message.items() if value is not None}
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = escape(content)
    elif content is not None:
        blocks = [{key: value for key, value in block.items() if value is not None} for block in content]
        message["content"] = [_prepare_block(block, escape, load) for block in blocks]
    return message


def _as_dicts(value):
    """Return a value with dicts in place of dataclasses and pydantic models; sound is left alone."""
    if callable(getattr(value, "model_dump", None)):
        value = value.model_dump()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _as_dicts(item) for key, item in value.items()}
    return [_as_dicts(item) for item in value] if isinstance(value, (list, tuple)) else value


def _prepare_block(block, escape, load):
    kind = block.get("type") or next((name for name in (*AUDIO_TYPES, "text") if name in block), None)
    if kind in AUDIO_TYPES:
        return load(block) if load else {"type": "audio"}
    # The template renders the text of every block that is not audio.
    if "text" not in block or any("audio" in str(name).lower() for name in (kind, *block)):
        shown = {key: value if isinstance(value, str) and len(value) < 80 else "..." for key, value in block.items()}
        raise ValueError(
            f"content has the block {shown}, which is neither text nor audio that can be read; give audio as "
            '{"type": "audio", "path": ...}, {"type": "input_audio", "input_audio": {"data": ...}} or '
            '{"type": "audio_url", "audio_url": {"url": ...}}.'
        )
    return block | {"type": kind, "text": escape(block["text"])}


def block_sound(block, url_schemes=("data",)):
    """Return the audio of a block as [`load_audio`] accepts it; `None` if the block has none.

    Raises:
        ValueError: invalid base64, a URL whose scheme is not in `url_schemes`, or unknown keys.
        OSError: a URL that cannot be read.
    """
    if "input_audio" in block:
        sound = block["input_audio"]
        return _decode(sound["data"] if isinstance(sound, dict) and "data" in sound else sound)
    if "audio_url" in block:
        sound = block["audio_url"]
        return _fetch(sound["url"] if isinstance(sound, dict) and "url" in sound else sound, url_schemes)
    sound = next((block[key] for key in ("audio", "path", "url") if key in block), None)
    if sound is None and set(block) - {"type", "text"}:
        raise ValueError(f"content has a block of audio with keys {sorted(block)}; call its sound audio, path or url.")
    if isinstance(sound, str) and sound[:5].lower() == "data:":
        return _fetch(sound, url_schemes)
    return sound


def _decode(text):
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"input_audio holds no base64 of an audio file ({error}).") from None


def _fetch(url, schemes):
    scheme, _, rest = url.partition(":") if isinstance(url, str) else ("", "", "")
    scheme = scheme.lower()
    if scheme not in schemes or scheme not in ("data", "file", "http", "https"):
        raise ValueError(
            f"audio_url is {str(url)[:80]!r}, of which only {', '.join(schemes)} may be read here; send the audio as "
            f"data:audio/wav;base64,..., or allow others with audio_url_schemes."
        )
    if scheme == "data":
        head, _, data = rest.partition(",")
        return _decode(data) if head.endswith(";base64") else urllib.parse.unquote_to_bytes(data)
    if scheme == "file":
        return urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return response.read()


__all__ = ["block_sound", "prepare_message"]
