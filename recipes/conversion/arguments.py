"""The arguments of `timepro convert`, in a module of their own because a parser needs no torch."""

from argparse import ArgumentParser


def add_convert_arguments(parser: ArgumentParser):
    """Add one argument for each of [`~recipes.conversion.convert.convert`]'s, under its name."""
    parser.add_argument("--backbone", required=True, metavar="DIR_OR_HUB_ID", help="directory or Hub id")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to write")
    parser.add_argument(
        "--time-step", type=float, default=0.04, metavar="S", help="seconds between ticks (default 0.04)"
    )
    parser.add_argument(
        "--max-time", type=float, default=30.0, metavar="S", help="seconds that ticks cover (default 30)"
    )
    parser.add_argument(
        "--time-stride", type=int, default=1, metavar="N", help="every so many ticks stand among frames (default 1)"
    )
    parser.add_argument("--no-time-prompt", dest="time_prompt", action="store_false", help="ticks in answers at most")
    parser.add_argument(
        "--time-init", choices=("mean", "place", "random"), default="mean", help="how ticks start (default mean)"
    )
    parser.add_argument(
        "--answer-format", choices=("digits", "ticks"), default="digits", help="how times are said (default digits)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of random ticks (default 0)")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weights file (default 5GB)")
    parser.add_argument("--overwrite", action="store_true", help="replace the checkpoint that --out holds")


__all__ = ["add_convert_arguments"]
