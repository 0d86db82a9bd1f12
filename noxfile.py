"""The versions of transformers that checkpoints must work with: `nox -s contract`, or one of them by its name.

    nox -s "contract(transformers='5.20.0')"
    nox -s suite                                # the suites of transformers itself, of the same versions

The tests named here are the contract: model, processor, remote code and pipeline. CI runs all tests with the pinned
versions (`.ci/run`).
"""

import nox

CONTRACT = ("test_modeling_timepro.py", "test_processing_timepro.py", "test_hub_native.py", "test_pipeline.py")
# The oldest and the newest that setup.cfg allows, and the one that constraints.txt pins.
OLDEST, PINNED, NEWEST = "5.20.0", "5.23.0", "5.24.0"
# What depends on the version of transformers, and is therefore not pinned with the rest.
FREE = ("transformers", "huggingface-hub", "tokenizers", "trl", "peft", "accelerate", "datasets", "gradio", "hf-")

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["contract"]


def install_with(session, transformers, *packages):
    """Install this package and others with a version of transformers, everything else as pinned as it can be."""
    with open("constraints.txt", encoding="utf-8") as file:
        pins = [line for line in file if not line.startswith(FREE)]
    constraints = f"{session.create_tmp()}/constraints.txt"
    with open(constraints, "w", encoding="utf-8") as file:
        file.writelines([*pins, f"transformers=={transformers}\n"])
    session.install("-c", constraints, "-e", ".[train,test]", *packages)


@nox.session(python="3.11")
@nox.parametrize("transformers", [OLDEST, PINNED, NEWEST])
def contract(session, transformers):
    """Run the contract tests with a version of transformers."""
    install_with(session, transformers)
    tests = [f"tests/{name}" for name in CONTRACT]
    session.run("python", "-m", "pytest", "-q", *tests, *session.posargs, env={"HF_HUB_OFFLINE": "1"})


@nox.session(python="3.11")
def package(session):
    """Build sdist and wheel, and run what an empty directory has of them."""
    session.install("-c", "constraints.txt", "-e", ".[train,dev]")
    session.run("python", "-m", "pytest", "-q", "-m", "slow", "tests/test_packaging.py")


@nox.session(python="3.11")
@nox.parametrize("transformers", [OLDEST, PINNED, NEWEST])
def suite(session, transformers):
    """Run the suites that transformers tests its own models with; it fetches them from the package index."""
    install_with(session, transformers, "pip", "wheel")
    command = ["python", "-m", "pytest", "-q", "-s", "-m", "slow", "tests/test_transformers_suite.py"]
    session.run(*command, *session.posargs)
