"""Text files that label programs write: their lines, in UTF-8 or UTF-16 with a byte order mark, numbers and names."""

import codecs
import math
import re
from pathlib import Path

# What programs put between the name of a recording and the suffix.
_ADDED = re.compile(r"(?:\.Table\.\d+)?(?:\.selections?)$|\.BirdNET\.(?:selection\.table|results)$", re.IGNORECASE)


def text_lines(path) -> list[str]:
    """Return the lines of a text file without their ends, of whichever system.

    Raises:
        ValueError: the file is in another encoding.
    """
    data = Path(path).read_bytes()
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def finite_number(text: str) -> float | None:
    """Return the number that a text spells; `None` where it spells none, or one that is not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def recording_of(path) -> str:
    """Return the name of the recording that a file is called after: `night` of `night.Table.1.selections.txt`."""
    return _ADDED.sub("", Path(path).stem)
