"""Load and run a checkpoint as other users do: `python -I isolated_load.py DIR [RECORDING QUERY]`.

The process sees only what `pip install transformers torch soundfile` installs: all other packages, including this one,
are hidden, and the network is disabled. The script imports none of our code, and is run by its path. It prints one JSON
object: `classes` of the pipeline, model and processor; the `result`; `modules`, the packages that the checkpoint's code
imports; `unpickled`, the names that pickles looked up; `written`, the paths that were opened for writing.
"""

import importlib.metadata
import json
import os
import re
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

DISTRIBUTIONS = ("transformers", "torch", "soundfile")
OURS = {"modeling_timepro", "processing", "recipes", "space_app"}
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def other_modules(distributions=DISTRIBUTIONS) -> set[str]:
    """Return the top-level modules of everything installed except some distributions and their requirements."""
    from packaging.requirements import Requirement

    found, todo = set(), list(distributions)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        requirements = map(Requirement, lines)
        todo += [item.name for item in requirements if not item.marker or item.marker.evaluate({"extra": ""})]
    owners = importlib.metadata.packages_distributions()
    return OURS | {m for m, names in owners.items() if not found & {re.sub(r"[-_.]+", "-", n).lower() for n in names}}


def hide(modules: set[str]):
    """Make modules look as if they were not installed."""

    class Only(PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if path is None and name in modules:
                return None
            return PathFinder.find_spec(name, path, target)

    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]


def watch(allow_loopback: bool) -> dict[str, set[str]]:
    """Disable the network; return sets that will collect what is `unpickled` and `written`."""
    seen = {"unpickled": set(), "written": set()}

    def hook(event, arguments):
        if event == "pickle.find_class":
            seen["unpickled"].add(".".join(arguments))
        elif event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            # Python may cache compiled code.
            if "__pycache__" not in arguments[0]:
                seen["written"].add(arguments[0])
        elif event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
            host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
            if not (allow_loopback and host in LOOPBACK):
                raise OSError(f"{event} of {host!r}; this process has no network.")

    sys.addaudithook(hook)
    return seen


def main(folder: str, recording: str | None = None, query: str = "dog bark") -> dict:
    """Return what the script prints.

    Args:
        folder: folder of the checkpoint; or its id on a local Hub, `OWNER/NAME@REVISION`.
        recording: path of the recording; by default a second of noise.
    """
    name, _, revision = folder.partition("@") if not os.path.isdir(folder) else (folder, "", "")
    hide(other_modules())
    seen = watch(allow_loopback=bool(revision))
    import torch
    from transformers import pipeline
    from transformers.dynamic_module_utils import get_imports

    options = {"revision": revision} if revision else {}
    pipe = pipeline("temporal-audio-grounding", model=name, trust_remote_code=True, **options)
    if recording is None:
        recording = 0.1 * torch.randn(pipe.processor.sampling_rate, generator=torch.Generator().manual_seed(0)).numpy()
    result = pipe(recording, task="grounding", query=query, max_new_tokens=32)
    code = {sys.modules[type(item).__module__] for item in (pipe, pipe.model, pipe.processor)}
    names = {os.path.dirname(module.__file__) for module in code}
    files = [os.path.join(name, file) for name in names for file in os.listdir(name) if file.endswith(".py")]
    modules = {module for file in files for module in get_imports(file)} - set(sys.stdlib_module_names)
    return {
        "classes": [type(item).__name__ for item in (pipe, pipe.model, pipe.processor)],
        "modules": sorted(modules),
        "result": result,
        **{key: sorted(value) for key, value in seen.items()},
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
