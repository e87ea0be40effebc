"""Print the estimate: ``python -m benchmarks.roofline``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.roofline import margin, minmax
from benchmarks.roofline.bound import print_bound
from benchmarks.roofline.power_iteration_model import print_model
from benchmarks.roofline.work import CARDS, LAUNCH_MICROSECONDS, Work

OPS: tuple[Callable[[], Iterator[Work]], ...] = (minmax.work, margin.work)


def main() -> None:
    """Print a row an op and case, a column a card."""
    print("An ESTIMATE from bytes, arithmetic and launches at the cards' full rates; no GPU has run this.")
    print(f"{LAUNCH_MICROSECONDS} us a launch are assumed. Times in microseconds.")
    print()
    header = ["op", "case", "launches", "MB", "GFLOP", *(card.name for card in CARDS)]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for op in OPS:
        for work in op():
            numbers = [f"{work.launches}", f"{work.bytes_moved / 1e6:.2f}", f"{work.flops / 1e9:.2f}"]
            times = [f"{work.microseconds(card):.0f}" for card in CARDS]
            print("| " + " | ".join([work.op, work.case, *numbers, *times]) + " |")
    print_bound()
    print_model()


if __name__ == "__main__":
    main()
