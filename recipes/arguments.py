"""What all commands share: options in both spellings, and checked numbers."""

import argparse
import logging
import math
import sys
from dataclasses import field

from recipes import DEFAULT_CHECKPOINT


class ArgumentParser(argparse.ArgumentParser):
    """A parser that also accepts `--min_score` for `--min-score`, as transformers' parser in the recipes does."""

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else list(args)
        end = args.index("--") if "--" in args else len(args)
        return super().parse_known_args([_hyphenated(text) for text in args[:end]] + args[end:], namespace)


def script_parser(description: str) -> ArgumentParser:
    """Return the parser of a module for `python -m`, described by its docstring, and turn on progress messages."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def option(default, help: str):
    """Return a dataclass field that transformers' parser turns into an option."""
    return field(default=default, metadata={"help": help})


def add_model(parser, flag="--model", **options):
    """Add the argument that names a checkpoint."""
    help = "checkpoint: a folder, or an id on the Hub (default: the embedded one)"
    parser.add_argument(flag, default=str(DEFAULT_CHECKPOINT), metavar="DIR", help=help, **options)


def add_hearing(parser):
    """Add the arguments for reading recordings, see [`~processing.audio_io.load_audio`]."""
    parser.add_argument(
        "--channel", type=channel, metavar="N", help="channel to use, from 0, or 'loudest' (default: the mean of all)"
    )
    parser.add_argument(
        "--strict", action="store_true",
        help="fail on recordings that are truncated or damaged, or whose length differs from their header "
        "(default: use what can be decoded, and warn)",
    )  # fmt: skip


def add_decode(parser):
    """Add `--decode` for checkpoints with a frame grounder, see `docs/frame-grounder.md`."""
    parser.add_argument(
        "--decode", choices=("text", "frames", "both", "either"),
        help="answer by the written text, by the scores of audio frames, by both, or each label by whichever of them "
        "was taught it (default: the checkpoint's)",
    )  # fmt: skip


def channel(text: str) -> int | str:
    """Return a number, counted from 0, or `loudest`."""
    if text != "loudest" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} given; give a number, counted from 0, or 'loudest'")
    return text if text == "loudest" else int(text)


def _hyphenated(text):
    name, equals, value = text.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else text


def _bounded(kind, lowest, highest, advice):
    def convert(text: str):
        value = kind(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} given; give {advice}")
        return value

    # The name of the type in argparse's error for a value that is not a number.
    convert.__name__ = kind.__name__
    return convert


positive_int = _bounded(int, 1, math.inf, "1 or more")
not_negative_int = _bounded(int, 0, math.inf, "0 or more")
seconds = _bounded(float, 0, sys.float_info.max, "seconds, 0 or more")
probability = _bounded(float, 0, 1, "a number from 0 to 1")
