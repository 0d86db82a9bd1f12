"""Link the code and the card of the embedded checkpoint to their sources, to avoid copies.

    python -m recipes.small.link_code

Every checkpoint contains the files of `modeling_timepro/` and `processing/`. `save_pretrained` refuses to overwrite
links, so `recipes/small/release.py` writes a new folder and links again.
"""

import os
from pathlib import Path

from recipes import DEFAULT_CHECKPOINT

REPOSITORY = Path(__file__).resolve().parents[2]


def code_sources() -> dict[str, Path]:
    """Return the sources of a checkpoint's code files by name."""
    files = (path for package in ("modeling_timepro", "processing") for path in (REPOSITORY / package).glob("*.py"))
    return {path.name: path for path in sorted(files) if path.name != "__init__.py"}


def link_code(folder=DEFAULT_CHECKPOINT, beside=None) -> None:
    """Replace the code and the card in a checkpoint folder by relative links to their sources.

    Args:
        beside: the final location of the folder, if it will be moved.
    """
    folder = Path(folder)
    for path in (*folder.glob("*.py"), folder / "README.md"):
        path.unlink(missing_ok=True)
    start = os.path.abspath(folder if beside is None else beside)
    for name, source in (code_sources() | {"README.md": REPOSITORY / "MODEL_CARD.md"}).items():
        (folder / name).symlink_to(os.path.relpath(source, start))


if __name__ == "__main__":
    link_code()
