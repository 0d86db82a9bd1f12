"""Settings of the test suite, made before anything else is imported: offline, and nothing written outside tmp."""

import os
import shutil
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# Remote code of checkpoints is copied to the cache before it is imported.
_CACHE = tempfile.mkdtemp(prefix="timepro-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_MODULES_CACHE"] = os.path.join(_CACHE, "modules")
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings  # noqa: E402

settings.register_profile("timepro", database=None, deadline=None)
settings.load_profile("timepro")


def pytest_unconfigure(config):
    shutil.rmtree(_CACHE, ignore_errors=True)
