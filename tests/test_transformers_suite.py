"""The suites that transformers tests its own models, processors and configurations with, run on TimePro's.

They are in the source distribution of transformers, which is fetched and unpacked here, `TRANSFORMERS_SDIST` names a
copy that is at hand. `transformers_adapter.py` makes small models of every shape for them, and says which of our tests
are in place of `GenerationTesterMixin`, which is not in the distribution; it runs too where `TRANSFORMERS_TESTS` names
the `tests` folder of a checkout. `nox -s suite` does all this with the oldest, the pinned and the newest version.
"""

import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import transformers

ADAPTER = Path(__file__).with_name("transformers_adapter.py")
# What fails on purpose, and why; everything else has to pass. Not every version has all of these tests.
REFUSED = {
    "Timepro*ProcessorTest::test_chat_template_message_objects": "its message shows a picture, and none is looked at",
    "TimeproQwen2AudioProcessorTest::test_subprocessor_defaults_3_audio": "mel features end with the clip, not at 30 s",
}
# What the suites import from folders that the distribution leaves out.
MISSING = {
    "tests/__init__.py": "",
    "tests/exporters/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/__init__.py": "",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "tests/utils/__init__.py": "",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {'output_hidden_states': True}\n",
    # The recordings are on the Hub; any will do.
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url):\n    return __file__[:-3] + '.wav'\n",
    "conftest.py": """
import json
def pytest_runtest_logreport(report):
    if report.when == "call" or report.failed:
        with open("outcomes.jsonl", "a") as file:
            print(json.dumps([report.nodeid.partition("::")[2], report.outcome]), file=file)
""",
}


def fetch_sdist(folder):
    if path := os.environ.get("TRANSFORMERS_SDIST"):
        return path
    name = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    subprocess.run([*command, "--dest", folder, name], check=True, capture_output=True)
    return next(folder.glob("transformers-*.tar.gz"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """Return a folder with the suites, as the package `tests`, and the adapter."""
    pytest.importorskip("parameterized")
    folder = tmp_path_factory.mktemp("suite")
    for name, text in MISSING.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with tarfile.open(fetch_sdist(tmp_path_factory.mktemp("sdist"))) as archive:
        for member in archive.getmembers():
            _, _, name = member.name.partition("/")
            if member.isfile() and fnmatch.fnmatch(name, "tests/test_*.py"):
                (folder / name).write_bytes(archive.extractfile(member).read())
    if checkout := os.environ.get("TRANSFORMERS_TESTS"):
        shutil.copy(Path(checkout) / "generation" / "test_utils.py", folder / "tests" / "generation")
    sound = 0.1 * np.random.default_rng(0).normal(size=16000)
    soundfile.write(folder / "utils" / "fetch_hub_objects_for_ci.wav", sound, 16000)
    shutil.copy(ADAPTER, folder)
    return folder


def run_suite(folder, kind):
    """Return the outcome of each test, `passed`, `skipped` or `failed`, by `class::test`."""
    environment = os.environ | {"TIMEPRO_SUITE": kind, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (folder, ADAPTER.parents[1])))
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir=.", "-W", "ignore", "--tb=short"]
    options = ["-p", "no:cacheprovider", ADAPTER.name]
    result = subprocess.run([*command, *options], cwd=folder, env=environment, capture_output=True, text=True)
    (folder / f"{kind}.log").write_text(result.stdout)
    outcomes = {}
    for line in (folder / "outcomes.jsonl").read_text().splitlines():
        name, outcome = json.loads(line)
        # A test whose parts did not all pass did not pass.
        outcomes[name] = "failed" if "failed" in (outcome, outcomes.get(name)) else outcome
    (folder / "outcomes.jsonl").unlink()
    return outcomes


def shares(outcomes):
    """Return the share of tests that pass, of those that ran, by shape and by what is tested."""
    counts = {}
    for name, outcome in outcomes.items():
        case = name.partition("::")[0].removeprefix("Timepro").removeprefix("Stock")
        passed, ran = counts.get(case, (0, 0))
        counts[case] = (passed + (outcome == "passed"), ran + (outcome != "skipped"))
    return counts


@pytest.mark.slow
@pytest.mark.network
def test_what_fails_is_refused_on_purpose_and_no_more_than_of_stock_models(suite):
    ours = run_suite(suite, "timepro")
    failed = {name for name, outcome in ours.items() if outcome == "failed"}
    unexpected = {name for name in failed if not any(fnmatch.fnmatch(name, pattern) for pattern in REFUSED)}
    assert not unexpected, (sorted(unexpected), (suite / "timepro.log").read_text()[-8000:])
    stale = [name for name in REFUSED if fnmatch.filter(ours, name) and not fnmatch.filter(failed, name)]
    assert not stale, f"{stale} pass; take them out of the table"
    counts, stock = shares(ours), shares(run_suite(suite, "stock"))
    print(f"ours {counts}\nstock {stock}")
    for case, (passed, ran) in stock.items():
        assert counts[case][0] / counts[case][1] >= passed / ran, (case, counts[case], (passed, ran))
