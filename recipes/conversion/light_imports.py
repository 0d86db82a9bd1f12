"""Start without what transformers imports for training on many machines, for compilers and for other models' losses.

`import transformers.modeling_utils` takes longer than `import torch`, and nearly all of that goes to modules of which
the answer about a recording needs none: distributed tensors, torch's compiler with its computer algebra, SciPy. A
stand-in takes their place until something of them is called or inherited from; then all are imported as ever.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from pathlib import Path

LATER = (
    "accelerate", "scipy", "sklearn", "sympy", "torch._dynamo", "torch._inductor", "torch._meta_registrations",
    "torch.distributed._composable", "torch.distributed.checkpoint", "torch.distributed.fsdp",
    "torch.distributed.tensor", "torch.distributions", "torch.export", "torch.fx.experimental.symbolic_shapes",
    "torch.nested", "torch.nn.attention.flex_attention",
)  # fmt: skip


class Later:
    """Stand for something of a module that is not imported yet, or for what a call of it returns.

    Modules that are being imported annotate and decorate with it, call it and keep what it returns. Later on a call
    is one of the thing itself.
    """

    def __init__(self, find):
        self.__dict__["_find"] = find

    def _found(self):
        if "_thing" not in self.__dict__:
            self.__dict__["_thing"] = self._find()
        return self._thing

    def __call__(self, *args, **kwargs):
        if FINDER.is_importing:
            return Later(lambda: self._found()(*args, **kwargs))
        return self._found()(*args, **kwargs)

    def __getattr__(self, name):
        if FINDER.is_importing and name.startswith("__"):
            raise AttributeError(name)
        return Later(lambda: getattr(self._found(), name)) if FINDER.is_importing else getattr(self._found(), name)

    # Of a class that nobody has imported there are no instances.
    def __instancecheck__(self, thing):
        return not FINDER.is_active and isinstance(thing, self._found())

    def __subclasscheck__(self, cls):
        return not FINDER.is_active and issubclass(cls, self._found())

    def __mro_entries__(self, bases):
        return (self._found(),)

    def __or__(self, other):
        return self

    __ror__ = __or__


class LaterModule(types.ModuleType):
    """Stand for a module that is not imported yet."""

    def __getattr__(self, name):
        def find():
            FINDER.stop()
            return getattr(importlib.import_module(self.__name__), name)

        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if name == "__version__" or not FINDER.is_active:
            return find()
        return sys.modules.get(f"{self.__name__}.{name}") or Later(find)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import stand-ins, while it is active; while it is importing, calls of them are put off too."""

    is_active = is_importing = False

    def find_spec(self, name, path, target=None):
        """Return what loads a stand-in, `None` for modules that are not put off."""
        if self.is_active and any(name == later or name.startswith(later + ".") for later in LATER):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        """Return the stand-in."""
        return LaterModule(spec.name)

    def exec_module(self, module):
        """Do nothing; there is nothing in it."""

    def stop(self):
        """Let all modules be imported as ever from here on."""
        if self.is_active:
            self.is_active = self.is_importing = False
            sys.meta_path.remove(self)
            for name in [name for name, module in sys.modules.items() if isinstance(module, LaterModule)]:
                del sys.modules[name]
            # What else it holds imports this in a circle, and expects it to have been the first.
            importlib.import_module("torch._meta_registrations")


FINDER = Finder()


def import_transformers_lightly(model):
    """Import what loads and runs a checkpoint, and put off `LATER`.

    Nothing is imported where torch is already, or for a checkpoint that is no folder with weights under 1 GB: their
    loading takes longer than that of modules.
    """
    weights = [path.stat().st_size for path in Path(model).glob("*.safetensors")]
    if "torch" in sys.modules or not 0 < sum(weights) < 1e9:
        return
    sys.meta_path.insert(0, FINDER)
    FINDER.is_active = FINDER.is_importing = True
    from transformers import GenerationMixin, pipeline  # noqa: F401

    FINDER.is_importing = False


@contextlib.contextmanager
def built_without_meta():
    """Let models that are loaded be built of memory that is not set, where imports are light.

    transformers builds them on torch's meta device, which computes in Python and would import the compiler.
    """
    if not FINDER.is_active:
        yield
        return
    import torch
    from transformers import PreTrainedModel
    from transformers.initialization import no_init_weights

    original = PreTrainedModel.get_init_context

    def contexts(cls, *args, **kwargs):
        found = original.__func__(cls, *args, **kwargs)
        return [no_init_weights() if isinstance(context, torch.device) else context for context in found]

    PreTrainedModel.get_init_context = classmethod(contexts)
    try:
        yield
    finally:
        PreTrainedModel.get_init_context = original
