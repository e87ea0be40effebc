"""Bound random layers of every kind by every method, and check each bound against exact integers.

    python tests/bounds/soak.py --layers 100000 --seed 0

Not part of the test suite. It stops with an error at the first layer whose bound is below its norm, and prints how to
draw that layer again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import torch
from exact_norms import squared_norm_from_below, unrolled
from random_layers import draw_layer

from gloro_fast.bounds import METHODS


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first, to go on or to share the work")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    methods = sorted(METHODS.keys() - {"power"})
    used: Counter[str] = Counter()
    largest: dict[str, float] = {}
    started = last = time.monotonic()
    for number in range(options.first, options.first + options.layers):
        # A generator of its own for each layer, so that any one can be drawn again.
        layer = draw_layer(random.Random(f"{options.seed}/{number}").choice)
        square = squared_norm_from_below(unrolled(layer))
        for method in methods:
            found = METHODS[method]("layer", layer)
            if not (found.value == float("inf") or Fraction(found.value) ** 2 >= square):
                print(f"BELOW: {method} gives {found.value!r} for layer {number} of seed {options.seed}: {layer}")
                return 1
            if (found.value == 0) != (not bool(layer.weight.any())):
                print(f"ZERO: {method} gives {found.value!r} for layer {number} of seed {options.seed}: {layer}")
                return 1
            used[f"{method} by {found.method}"] += 1
            if 1e-250 < square < 1e250:
                largest[found.method] = max(largest.get(found.method, 0.0), found.value / float(square) ** 0.5 - 1)
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"{number + 1 - options.first} layers, {last - started:.0f} s", flush=True)
    which = f"{options.layers} layers from number {options.first} on of seed {options.seed}"
    print(f"{which}, {len(methods)} methods each: no bound below its norm.")
    print("bounds found:", ", ".join(f"{name} {count}" for name, count in sorted(used.items())))
    print("furthest above the norm:", ", ".join(f"{name} {excess:.2g}" for name, excess in sorted(largest.items())))
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
