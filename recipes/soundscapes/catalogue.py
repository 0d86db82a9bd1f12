"""The catalogue of recordings: package, file, label, licence and split of each."""

import json
from dataclasses import dataclass
from pathlib import Path

SOUNDS = Path(__file__).with_name("sounds.json")


# Banks of sounds: the attribute of their files, and its value.
BANKS = {
    "train": ("split", "train"),
    "heldout": ("split", "heldout"),
    "field_train": ("field", "train"),
    "field_validation": ("field", "validation"),
    "field_test": ("field", "test"),
    "all_train": ("field", "train"),
}


@dataclass(frozen=True)
class SoundFile:
    """One recording of the catalogue.

    Attributes:
        label: event label, the class name with spaces for underscores.
        kind: `event`, `background`, or `distractor`: a sound that is mixed in but not annotated.
        ref: source, `deb:PACKAGE=VERSION:/path` or `pypi:NAME==VERSION:path`; `!inner/path` follows for a file inside a
            zip archive or a Qt resource file.
        licence: licence of the recording.
        group: recording series; a series is never split between train and heldout.
        split: `train` or `heldout` for the 18 labels whose recordings are split by series, or `None`.
        field: `train`, `validation` or `test` for the labels whose recordings are split by package, or `None`.
    """

    label: str
    kind: str
    ref: str
    licence: str
    group: str
    split: str | None = None
    field: str | None = None

    @property
    def package(self) -> tuple[str, str]:
        """Return `(registry, name)`, e.g. `("deb", "scratch")`."""
        registry, rest = self.ref.split(":", 1)
        return registry, rest.split("=", 1)[0]

    @property
    def requirement(self) -> tuple[str, str]:
        """Return `(registry, name)` with the version of a PyPI package, e.g. `("pypi", "onsen==0.1.1")`.

        Debian's archive has only one version of a package; a different version is noticed by missing files.
        """
        registry, name = self.package
        return registry, self.ref.split(":")[1] if registry == "pypi" else name

    @property
    def path(self) -> str:
        """Return the path inside the package, without leading slash; versions with an epoch also contain a colon."""
        if self.ref.startswith("deb:"):
            return self.ref.split(":/", 1)[1]
        return self.ref.rsplit(":", 1)[1]


def load_catalogue(path=SOUNDS) -> list[SoundFile]:
    """Read the catalogue.

    Raises:
        ValueError: a recording series is in both train and heldout, or the files of one package are in several fields.
    """
    files = []
    for name, entry in json.loads(Path(path).read_text(encoding="utf-8")).items():
        for item in entry["files"]:
            fields = {key: item.get(key) for key in ("ref", "licence", "group", "split", "field")}
            files.append(SoundFile(label=name.replace("_", " "), kind=entry["kind"], **fields))
    for key, owner, what in (("split", "group", "groups"), ("field", "package", "packages")):
        found: dict = {}
        for file in files:
            if getattr(file, key):
                found.setdefault(getattr(file, owner), set()).add(getattr(file, key))
        shared = sorted(name for name, values in found.items() if len(values) > 1)
        if shared:
            values = "train and heldout" if key == "split" else "several fields"
            raise ValueError(f"path is {str(path)!r}: {what} {shared} are in {values}; keep each in one {key}.")
    return files


def bank_files(bank, path=SOUNDS) -> list[SoundFile]:
    """Return the files of one of [`BANKS`], in the order of the catalogue.

    `all_train` has the files for training of both families, except those of packages that validate or test.
    """
    key, value = BANKS[bank]
    files = load_catalogue(path)
    if bank != "all_train":
        return [file for file in files if getattr(file, key) == value]
    kept_out = {file.package for file in files if file.field in ("validation", "test")}
    learnt = [file for file in files if "train" in (file.split, file.field) and file.split != "heldout"]
    return [file for file in learnt if file.package not in kept_out]


def event_labels(bank="train", path=SOUNDS) -> list[str]:
    """Return the sorted event labels of a bank's family: split by series (18 labels), or by package."""
    key, _ = BANKS[bank]
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    return sorted(
        name.replace("_", " ")
        for name, entry in entries.items()
        if entry["kind"] == "event" and ("generator" in entry or any(item.get(key) for item in entry["files"]))
    )
