"""`timepro detect`, `ground` and `caption`: run a checkpoint on recordings, and print or write the events."""

import contextlib
import os
import sys
import time
from argparse import ArgumentError, ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path

from recipes.arguments import add_decode, add_hearing, add_model, positive_int, probability, seconds
from recipes.cli.beside_speech import add_speech_arguments, check_speech_arguments, write_beside_speech
from recipes.cli.output import (
    check_format,
    format_answers,
    format_json,
    format_of,
    merge_answers,
    name_first,
    print_answers,
    write_answers,
)
from recipes.data.find_recordings import find_recordings
from recipes.data.label_files import LABEL_FORMATS, means_folder
from recipes.evaluation.resume import keep_rows
from recipes.evaluation.runner import Request, Unavailable, run

EXIT_CODES = "Exit code: 0, 1 if a recording failed, 2 for wrong arguments. Results go to stdout, the rest to stderr."


def add_answer_arguments(command: ArgumentParser, task: str):
    """Add the arguments of a command that runs on recordings; `task` is one of `processing.answer_text.TASKS`."""
    command.epilog = EXIT_CODES
    command.add_argument(
        "files", nargs="+", metavar="FILE",
        help="recording of any length, - for standard input, folder of recordings, or quoted pattern such as "
        "'night/**/*.flac'",
    )  # fmt: skip
    if task == "grounding":
        query = 'what to look for, e.g. "dog barking"; may be repeated'
        command.add_argument("--query", required=True, action="append", metavar="TEXT", help=query)
    add_model(command)
    command.add_argument(
        "--backend", metavar="URL", help="server to use, vLLM at http://HOST:8000/v1 (see docs/serving.md); only the "
        "processor of --model is loaded",
    )  # fmt: skip
    output = command.add_argument_group("output")
    form = output.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object per recording (and query)")
    form.add_argument(
        "--format", choices=tuple(LABEL_FORMATS), metavar="NAME",
        help=f"{', '.join(LABEL_FORMATS)} (default: a table, or the format that --out ends in); formats without a "
        "field for scores omit them",
    )  # fmt: skip
    output.add_argument(
        "--out", metavar="PATH",
        help="file to write, or folder for one file per recording. Run the command again to resume it",
    )  # fmt: skip
    add_speech_arguments(output)
    output.add_argument("--plot", metavar="PNG", help="draw waveform, spectrogram and events of one recording")
    output.add_argument("--min-score", type=probability, metavar="P", help="omit events with a lower score, 0 to 1")
    add_decoding_arguments(command)
    command.set_defaults(task=task)


def add_decoding_arguments(command: ArgumentParser):
    """Add the arguments for reading recordings and decoding answers, see [`decoding_options`]."""
    add = command.add_argument_group("windows and decoding").add_argument
    add("--chunk-length", type=seconds, metavar="S", help="seconds per window (default: the checkpoint's)")
    add("--stride-length", type=seconds, metavar="S", help="seconds of overlap on each side (default: a sixth)")
    add("--batch-size", type=positive_int, default=8, metavar="N", help="questions per batch (default 8)")
    add_hearing(command)
    add("--max-events", type=positive_int, metavar="N", help="maximum number of events per window")
    add("--unconstrained", action="store_true", help="do not constrain answers to the grammar; some may fail to parse")
    add_decode(command)


def decoding_options(args) -> dict:
    """Return the pipeline options given by arguments.

    Raises:
        argparse.ArgumentError: mutually exclusive arguments.
    """
    if args.unconstrained and args.max_events:
        raise ArgumentError(None, "--max-events given with --unconstrained; leave one of them out.")
    if args.backend and args.decode:
        raise ArgumentError(None, "--decode given with --backend; a server answers by text.")
    return {
        "min_score": args.min_score, "chunk_length_s": args.chunk_length, "stride_length_s": args.stride_length,
        "max_events": args.max_events, "constrained": False if args.unconstrained else None,
        "channel": args.channel, "strict": args.strict or None, "decode": args.decode,
    }  # fmt: skip


def check_queries(queries: list[str | None]):
    """Refuse empty and repeated queries.

    Raises:
        argparse.ArgumentError: an empty or repeated query.
    """
    if any(query is not None and not query.strip() for query in queries):
        raise ArgumentError(None, "--query is empty; describe the event to look for.")
    if len(set(queries)) < len(queries):
        raise ArgumentError(None, f"--query is {queries}; give each query once.")


def answer(args, plot: Callable[[str, list[dict], str, str], None]) -> int:
    """Run the command and return its exit code: 1 if any recording failed.

    Args:
        args: parsed by [`add_answer_arguments`].
        plot: function that draws a recording's events, from its path, the events, a title and an output path.

    Raises:
        argparse.ArgumentError: arguments that are inconsistent, or do not suit the recordings.
        ValueError, OSError: no such checkpoint, unsupported windows, or a file that cannot be written.
    """
    queries = getattr(args, "query", None) or [None]
    files, failures = find_recordings(args.files)
    is_folder = _check(args, queries, files)
    options = decoding_options(args)
    partial = Path(args.out, "timepro.partial.jsonl") if is_folder else args.out and Path(f"{args.out}.partial.jsonl")
    stdout = sys.stdout
    # stdout is for results, whatever libraries print.
    with contextlib.redirect_stdout(sys.stderr), _opened(partial, args, queries, options) as (done, keep):
        states = {file: _state(file) for file in files}
        rows = {file: done[file] for file in files if file in done and done[file]["state"] == states[file]}
        if rows:
            print(f"timepro: {len(rows)} of {len(files)} recordings were answered before.", file=sys.stderr)
        if forgotten := len(done.keys() - set(files)):
            print(f"timepro: {forgotten} recordings in {partial} are not among those given; ignored.", file=sys.stderr)
        todo = [file for file in files if file not in rows]
        for job, results in _answers(args, todo, len(rows), queries, options) if todo else ():
            file = job.audio
            try:
                row = _row(file, states[file], queries, results)
            except (ImportError, OSError, ValueError) as error:
                failures[file] = str(error)
                continue
            rows[file] = row
            keep(row)
            if partial is None and args.format is None:
                print_answers(format_json(**_shown(row)) if args.json else format_answers(**_shown(row)), stdout)
        rows = [rows[file] for file in files if file in rows]
        if args.subtitles or args.speakers:
            for row in rows:
                write_beside_speech(args, row, merge_answers(row["answers"]))
        elif args.format:
            failures |= write_answers(rows, args.format, args.out, stdout)
    is_partial = partial is not None and bool(failures) and bool(rows)
    if partial and not is_partial:
        partial.unlink(missing_ok=True)
    if args.plot and rows:
        name = ", ".join(f"'{query}'" for query in queries if query)
        title = Path(rows[0]["file"]).name + (f": {name}" if name else "")
        plot(rows[0]["file"], merge_answers(rows[0]["answers"]), title, args.plot)
    for file, error in failures.items():
        print(f"timepro: {file}: {name_first(error).removeprefix(f'{file}: ')}", file=sys.stderr)
    if failures:
        way_out = f"; answers are kept in {partial}: fix this and run the command again" if is_partial else ""
        num_asked = len(failures.keys() | set(files))
        print(f"timepro: {len(failures)} of {num_asked} recordings failed{way_out}.", file=sys.stderr)
    return 1 if failures else 0


def _check(args, queries, files) -> bool:
    """Refuse inconsistent arguments, set the format implied by --out, and return whether --out is a folder."""
    check_queries(queries)
    if args.plot and len(files) > 1:
        raise ArgumentError(None, f"--plot draws one recording, but {len(files)} are given; run the command for each.")
    for name in ("plot", "out"):
        folder = Path(getattr(args, name) or ".").parent
        if not folder.is_dir():
            raise ArgumentError(
                None, f"--{name} is {getattr(args, name)!r}, but the folder {str(folder)!r} does not exist."
            )
    out = args.out
    is_folder = out is not None and means_folder(out)
    if out is not None:
        if args.json:
            raise ArgumentError(None, "--json prints; to write with --out give --format jsonl instead.")
        if not is_folder and Path(out).resolve() in {Path(file).resolve() for file in files}:
            raise ArgumentError(None, f"--out is {out!r}, one of the recordings; choose another file.")
    speech_format = check_speech_arguments(args, files, is_folder)
    if out is not None:
        args.format = speech_format or args.format or format_of(out, is_folder)
    if args.format:
        check_format(args.format, args.out, files, is_folder)
    return is_folder


@contextlib.contextmanager
def _opened(partial, args, queries, options):
    """Open the file of partial answers, if any."""
    if partial is None:
        yield {}, lambda row: None
        return
    from recipes.conversion.checkpoint_folder import weight_states

    model = str(Path(args.model).resolve()) if Path(args.model).exists() else args.model
    settings = {"task": args.task, "queries": queries, "model": model, "weights": weight_states(args.model), **options}
    # Its parent was checked to exist.
    partial.parent.mkdir(exist_ok=True)
    try:
        with keep_rows(partial, settings, ("file", "state", "answers")) as (rows, keep):
            yield {row["file"]: row for row in rows}, keep  # a later row of a file counts
    except (KeyboardInterrupt, Unavailable):
        print(f"timepro: stopped; answers so far are in {partial}: run the same command to continue.", file=sys.stderr)
        raise


def _answers(args, files, num_done, queries, options) -> Iterable:
    """Load the model and return its answers about files, with a progress bar for several files."""
    from recipes.conversion.checkpoint_folder import load_pipeline
    from recipes.conversion.light_imports import import_transformers_lightly

    if args.backend:
        from recipes.serving.client import ServedPipeline

        pipe = ServedPipeline(args.backend, args.model)
    else:
        import_transformers_lightly(args.model)
        pipe = load_pipeline(args.model)
    from processing.frame_decoding import frame_options

    # Check here, or every recording would fail with the same error.
    try:
        pipe.plan_windows(args.chunk_length, args.stride_length)
    except ValueError as error:
        raise ArgumentError(None, f"--chunk-length and --stride-length: {error}") from None
    try:
        frames = frame_options(pipe.model.config, args.task, options["decode"])
    except ValueError as error:
        raise ArgumentError(None, f"--decode: {error}") from None
    labels = pipe.model.config.event_labels
    if labels and frames:
        labels = sorted({*labels, *frames["labels"]})
    for query in queries:
        if warning := _untaught(query, labels):
            print(f"timepro: {warning}", file=sys.stderr)
    jobs = [Request(file, args.task, tuple(queries)) for file in files]
    show_progress = False if num_done + len(jobs) < 2 else None
    return run(pipe, jobs, num_done, show_progress, batch_size=args.batch_size, **options)


def _untaught(query, labels) -> str | None:
    """Return a warning if a query is neither a label that a checkpoint was trained on nor a known paraphrase."""
    from recipes.data.nearest_labels import is_taught, nearest_labels

    if query is None or labels is None or is_taught(query, labels):
        return None
    near = nearest_labels(query, labels)
    offer = f"the nearest of its labels are {', '.join(near)}" if near else f"its labels are {', '.join(labels)}"
    return f"warning: this checkpoint was not trained on {query!r}; {offer}."


def _row(file, state, queries, results) -> dict:
    """Return what is kept of a recording."""
    if isinstance(results, Exception):
        raise results
    for result in results:
        if result["events"] is None:
            raise ValueError(f"the model's answer {result['text']!r} cannot be read")
    answers = [
        {"query": query, "events": result["events"], **({"truncated": True} if result.get("truncated") else {})}
        for query, result in zip(queries, results, strict=True)
    ]
    return {"file": file, "state": state, "duration": results[0]["duration"], "answers": answers}


def _state(file) -> list[int] | None:
    """Return size and modification time (ns), to notice replaced recordings; `None` if it is missing."""
    if file == "-":  # never the same twice
        return [0, time.time_ns()]
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _shown(row):
    return {name: row[name] for name in ("file", "duration", "answers")}
