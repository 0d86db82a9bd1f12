"""`ask`: put the same questions to many recordings, of which some may be bad."""

from collections.abc import Iterator


def ask(pipe, files: list[str], task: str, queries: list, **options) -> Iterator[tuple[str, list[dict] | Exception]]:
    """Yield each file with its results, one for each query, or with the error that it ended in.

    Args:
        pipe: a `TemporalAudioGroundingPipeline`.
        files: recordings; questions about several are answered together.
        task: what to ask.
        queries: what to look for in each; `[None]` if the task takes no query.
        options: of the pipeline.
    """
    asked = None if queries == [None] else queries
    taken = position = 0

    def take(some):
        nonlocal taken
        for taken, file in enumerate(some, position):  # noqa: B007 - read below
            yield file

    def results_of(some):
        return pipe(take(some), task=task, query=asked and [asked] * len(some), **options)

    while position < len(files):
        try:
            for result in results_of(files[position:]):
                yield files[position], result if asked else [result]
                position += 1
        except (OSError, ValueError) as error:
            outcome = error
            if taken > position:
                # It need not be this one that the batch has failed for.
                try:
                    (result,) = results_of([files[position]])
                    outcome = result if asked else [result]
                except (OSError, ValueError) as own_error:
                    outcome = own_error
            yield files[position], outcome
            position += 1


__all__ = ["ask"]
