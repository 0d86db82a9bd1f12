"""The page: `python space_app/app.py [--model DIR]`, on this machine or as a Space of the Hugging Face Hub."""

import argparse
import importlib.util
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Bytes: a few MB of compressed silence could be decoded into more than the disk holds.
LARGEST_FILE = 4 << 30

if "space_app" not in sys.modules:
    # The folder deploys alone and under any name; its files call it by the one that it has here.
    spec = importlib.util.spec_from_file_location(
        "space_app", HERE / "__init__.py", submodule_search_locations=[str(HERE)]
    )
    sys.modules["space_app"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["space_app"])


def parse_arguments(argv=None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="checkpoint directory or Hub id (default: TIMEPRO_MODEL, or the embedded one)")
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to listen on"
    )
    parser.add_argument(
        "--port", type=int, help="port (default: GRADIO_SERVER_PORT, or the first free one from 7860 on)"
    )
    arguments = parser.parse_args(argv)
    arguments.parser = parser
    return arguments


def main(argv=None):
    """Load the model once and serve the page until it is stopped."""
    from space_app.checkpoint_code import find_model
    from space_app.limits import read_limits

    arguments = parse_arguments(argv)
    try:
        model, limits = find_model(arguments.model), read_limits()
    except ValueError as error:
        arguments.parser.error(str(error))
    # So that the folder is also deleted when a service manager stops this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="timepro-", ignore_cleanup_errors=True) as folder:
        # Uploads are kept apart from other programs' files, and deleted with this process.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_EXAMPLES_CACHE": os.path.join(folder, "examples")}
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}
        from space_app.server import serve
        from space_app.service import Service

        try:
            service = Service(model, limits, folder)
        except (OSError, ValueError) as error:
            arguments.parser.error(str(error))
        # From here on: weights that were just fetched may be larger.
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        soft = LARGEST_FILE if hard == resource.RLIM_INFINITY else min(LARGEST_FILE, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        serve(service, arguments.host, arguments.port)


if __name__ == "__main__":
    main()
