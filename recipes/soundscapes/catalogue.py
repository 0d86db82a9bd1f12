"""The catalogue of recordings: which file of which package is which sound, under which licence, in which split."""

import json
from dataclasses import dataclass
from pathlib import Path

SOUNDS = Path(__file__).with_name("sounds.json")


@dataclass(frozen=True)
class SoundFile:
    """One listed recording.

    Attributes:
        label: event label, the class name with spaces for underscores.
        kind: `event` or `background`.
        ref: where it comes from, `deb:PACKAGE=VERSION:/path` or `pypi:NAME==VERSION:path`; `!inner/path` follows for a
            file inside a Qt resource file.
        licence: licence of the recording.
        group: recording series; a series is never split over train and heldout.
        split: `train` or `heldout`.
    """

    label: str
    kind: str
    ref: str
    licence: str
    group: str
    split: str

    @property
    def package(self) -> tuple[str, str]:
        """Return `(registry, name)`, e.g. `("deb", "scratch")`."""
        registry, rest = self.ref.split(":", 1)
        return registry, rest.split("=", 1)[0]

    @property
    def requirement(self) -> tuple[str, str]:
        """Return `(registry, name)` with the version of a PyPI package, e.g. `("pypi", "onsen==0.1.1")`.

        Debian's archive holds one version of a package; other versions of its files are found out by their names.
        """
        registry, name = self.package
        return registry, self.ref.split(":")[1] if registry == "pypi" else name

    @property
    def path(self) -> str:
        """Return the path inside the package, without a leading slash; an epoch in a version may hold a colon too."""
        if self.ref.startswith("deb:"):
            return self.ref.split(":/", 1)[1]
        return self.ref.rsplit(":", 1)[1]


def load_catalogue(path=SOUNDS) -> list[SoundFile]:
    """Read the catalogue.

    Raises:
        ValueError: a recording series stands in both splits.
    """
    files = []
    for name, entry in json.loads(Path(path).read_text(encoding="utf-8")).items():
        for item in entry["files"]:
            fields = {key: item[key] for key in ("ref", "licence", "group", "split")}
            files.append(SoundFile(label=name.replace("_", " "), kind=entry["kind"], **fields))
    splits: dict[str, set[str]] = {}
    for file in files:
        splits.setdefault(file.group, set()).add(file.split)
    shared = sorted(group for group, found in splits.items() if len(found) > 1)
    if shared:
        raise ValueError(f"path is {str(path)!r}: groups {shared} stand in train and heldout; keep each in one split.")
    return files


def event_labels(path=SOUNDS) -> list[str]:
    """Return the sorted event labels of the catalogue."""
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    return sorted(name.replace("_", " ") for name, entry in entries.items() if entry["kind"] == "event")
