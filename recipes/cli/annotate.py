"""`timepro annotate`: run a checkpoint on very many recordings, into Parquet files."""

import contextlib
import sys
from argparse import ArgumentError

from processing.answer_text import TASKS
from recipes.arguments import add_model, positive_int, probability
from recipes.cli.answer import EXIT_CODES, add_decoding_arguments, check_queries, decoding_options


def add_annotate_arguments(command):
    """Add the arguments of the command."""
    command.epilog = EXIT_CODES
    add = command.add_argument
    add(
        "source", metavar="SOURCE", help="folder of recordings; manifest (.jsonl or .parquet with audio_filepath or "
        "audio); WebDataset tar, or quoted pattern of tars; `datasets` data set, saved or on the Hub. All but the last "
        "may be at an address such as s3://",
    )  # fmt: skip
    add("--out", required=True, metavar="DIR", help="folder or address to write; run the command again to resume it")
    add("--task", choices=TASKS, default="detection", help="task (default detection)")
    add("--query", action="append", metavar="TEXT", help="query for grounding; may be repeated")
    add_model(command)
    add("--audio-dir", metavar="DIR", help="folder that names in a manifest are relative to (default: its own)")
    add("--split", default="train", metavar="NAME", help="split of a data set (default train)")
    add("--min-score", type=probability, metavar="P", help="omit events with a lower score, 0 to 1")
    add("--overwrite", action="store_true", help="start again instead of resuming")
    add = command.add_argument_group("execution").add_argument
    add("--engine", choices=("local", "ray"), default="local", help="processes on this machine, or Ray (default local)")
    add("--num-workers", type=positive_int, default=1, metavar="N", help="processes, or actors at most (default 1)")
    add("--num-gpus", type=float, default=0, metavar="N", help="GPUs per Ray actor, such as 0.5 (default 0)")
    add("--backend", metavar="URL", help="server that answers, as for `timepro detect`; all workers ask it")
    add(
        "--shard-size", type=positive_int, metavar="N",
        help="maximum recordings per file (default: 500, or fewer so that every worker gets four files)",
    )  # fmt: skip
    add_decoding_arguments(command)
    command.set_defaults(run=annotate_source)


def annotate_source(args) -> int:
    """Run the command and return its exit code: 1 if any recording failed.

    Raises:
        argparse.ArgumentError: arguments that do not fit together.
        ValueError, OSError: see [`~recipes.bulk.annotate.annotate`].
    """
    from recipes.bulk.annotate import annotate

    queries = args.query or [None]
    if (args.task == "grounding") != bool(args.query):
        raise ArgumentError(None, f"--query is {args.query} for --task {args.task}; grounding alone takes queries.")
    check_queries(queries)
    if args.num_gpus < 0 or args.num_gpus and args.engine != "ray":
        raise ArgumentError(
            None, f"--num-gpus is {args.num_gpus:g} with --engine {args.engine}; give 0 or more, and only with ray: "
            "processes of this machine take its GPUs in turn."
        )  # fmt: skip
    try:
        # stdout is for results.
        with contextlib.redirect_stdout(sys.stderr):
            counts = annotate(
                args.source, args.out, args.model, args.task, tuple(queries),
                options=decoding_options(args), batch_size=args.batch_size, engine=args.engine,
                num_workers=args.num_workers, num_gpus=args.num_gpus, shard_size=args.shard_size,
                audio_dir=args.audio_dir, split=args.split, overwrite=args.overwrite, backend=args.backend,
            )  # fmt: skip
    except ImportError as error:
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        print("timepro: stopped; run the same command to continue.", file=sys.stderr)
        raise
    failed = counts["num_failed"]
    told = f", {failed} failed: see {args.out}/failures; the same command tries them again" if failed else ""
    print(f"timepro: {counts['num_annotated']} recordings annotated in {args.out}/annotations{told}.", file=sys.stderr)
    return 1 if failed else 0
