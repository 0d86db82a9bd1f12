"""Files at local paths and at any address of fsspec (`s3://...`): found, read, and written whole or not at all."""

import os
import tempfile
from pathlib import Path

from recipes.conversion.atomic_folder import show_to_others


def filesystem(address: str):
    """Return the fsspec filesystem of an address, and the path in it; what has no `://` is a local path.

    Raises:
        ImportError: the package for such addresses is missing; the message names it.
        ValueError: nobody knows such addresses.
    """
    import fsspec

    # Local names may hold what means something in addresses, such as `::` and `#`.
    return fsspec.core.url_to_fs(address) if is_remote(address) else (fsspec.filesystem("file"), address)


def is_remote(address: str) -> bool:
    """Tell whether an address is none of a local file."""
    return "://" in address


def join(address: str, *names: str) -> str:
    """Return the address of something below another; a name that is an address itself stays."""
    for name in names:
        address = name if is_remote(name) or os.path.isabs(name) else f"{address.rstrip('/')}/{name}"
    return address


def list_names(address: str) -> set[str]:
    """Return the names of the files in a folder, none if there is no such folder."""
    fs, path = filesystem(address)
    try:
        found = fs.ls(path, detail=False, refresh=True) if is_remote(address) else fs.ls(path, detail=False)
    except FileNotFoundError:
        return set()
    return {os.path.basename(name.rstrip("/")) for name in found}


def write_whole(address: str, content: bytes | Path) -> None:
    """Write a file that appears complete or not at all; object stores write so anyway.

    Args:
        content: the bytes, or a local file of them.
    """
    is_file = isinstance(content, Path)
    if is_remote(address):
        fs, path = filesystem(address)
        fs.put_file(str(content), path) if is_file else fs.pipe_file(path, content)
        return
    target = Path(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.read_bytes() if is_file else content)
        show_to_others(name, 0o666)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def read_bytes(address: str, start: int | None = None, size: int | None = None) -> bytes:
    """Return the content of a file, or `size` bytes of it from `start` on.

    Raises:
        OSError: it cannot be read, or ends before.
    """
    fs, path = filesystem(address)
    content = fs.cat_file(path) if start is None else fs.cat_file(path, start=start, end=start + size)
    if start is not None and len(content) < size:
        raise OSError(f"{address} ends before byte {start + size}; it was cut off after it was listed.")
    return content


def remove(address: str) -> None:
    """Remove a file or folder, if it is there."""
    fs, path = filesystem(address)
    if fs.exists(path):
        fs.rm(path, recursive=True)
