"""Types of command line arguments, each with an error that says what to give."""

import argparse
import math


def positive_int(text: str) -> int:
    """Return a whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} given; give 1 or more")
    return value


def not_negative_int(text: str) -> int:
    """Return a whole number of 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} given; give 0 or more")
    return value


def seconds(text: str) -> float:
    """Return a time of 0 s or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} given; give seconds, 0 or more")
    return value


def probability(text: str) -> float:
    """Return a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} given; give a number from 0 to 1")
    return value


__all__ = ["not_negative_int", "positive_int", "probability", "seconds"]
