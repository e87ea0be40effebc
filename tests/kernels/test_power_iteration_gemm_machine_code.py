"""Products of matrices and loads of shared memory in the machine code of wide convolutions, against the fewest needed.

A warp's tile of 32 pixels x 64 channels takes 32 products of 16 x 8 x 8 for 16 terms, three times as many where it is
exact, and 12 loads of 16 bytes a lane: every number of both factors once.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
from simulated_launch import cuda_tool, library

PIXELS, CHANNELS, TERMS = 32, 64, 16
PRODUCTS = PIXELS * CHANNELS * TERMS // (16 * 8 * 8)
LOADS = (PIXELS + CHANNELS) * TERMS // (32 * 4)


class Loop(NamedTuple):
    """How many instructions a loop has: products of matrices, loads of 16 bytes of shared memory, all."""

    products: int
    loads: int
    instructions: int

    def needed(self, products: int) -> float:
        """The part of its products and loads that a slice which takes so many products needs."""
        return (products + LOADS) / (self.products + self.loads)


@cache
def listings(kernel: str) -> dict[str, list[tuple[int, str]]]:
    """The machine code of a kernel, address and instruction, by architecture."""
    text = subprocess.run(
        [cuda_tool("cuobjdump"), "-sass", str(library())], capture_output=True, text=True, check=True
    ).stdout
    found = {}
    for part in text.split("code for ")[1:]:
        for function in part.split("Function : ")[1:]:
            if re.search(rf"\d{kernel}", function.split("\n", 1)[0]):
                found[part.split()[0]] = [
                    (int(at, 16), instruction)
                    for at, instruction in re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", function, re.M)
                ]
    return found


def innermost_loops(code: list[tuple[int, str]]) -> list[Loop]:
    """The loops with products of matrices that have no such loop within."""
    ranges = []
    for at, instruction in code:
        jump = re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", instruction)
        if jump and int(jump[1], 16) <= at:
            ranges.append((int(jump[1], 16), at))
    loops = {}
    for first, last in ranges:
        names = Counter(
            name
            for at, instruction in code
            if first <= at <= last
            for name in re.findall(r"HMMA|LDS\S*\.128", instruction)
        )
        loads = sum(count for name, count in names.items() if name != "HMMA")
        if names["HMMA"]:
            size = sum(first <= at <= last for at, _ in code)
            loops[first, last] = Loop(names["HMMA"], loads, size)
    return [
        loop
        for (first, last), loop in loops.items()
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in loops)
    ]


def test_a_product_reads_and_multiplies_little_more_than_it_must() -> None:
    for architecture, code in listings("power_iteration_wide_kernel").items():
        loops = sorted(innermost_loops(code))
        # Plain and transposed, and the exact product of three parts, which reads the weights once a row of tiles.
        assert [loop.products for loop in loops] == [PRODUCTS, PRODUCTS, 3 * PRODUCTS]
        for loop, products in zip(loops, (PRODUCTS, PRODUCTS, 3 * PRODUCTS), strict=True):
            print(f"{architecture}: {loop}, {loop.needed(products):.2f} of its products and loads are needed")
            assert loop.needed(products) >= 0.9
            assert (products + LOADS) / loop.instructions >= 0.3


def test_the_gradient_does_too() -> None:
    for architecture, code in listings("power_iteration_wide_gradient_kernel").items():
        (loop,) = innermost_loops(code)
        print(f"{architecture}: {loop}")
        assert loop.products == 3 * PRODUCTS // 2
        assert loop.loads == LOADS // 2


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ([(0, "MOV R1"), (16, "HMMA.1688.F32.TF32 R4"), (32, "LDS.128 R8"), (48, "@P0 BRA 0x10")], [Loop(1, 1, 3)]),
        ([(0, "HMMA R4"), (16, "BRA 0x30"), (32, "@P0 BRA 0x20")], []),
    ],
)
def test_loops_are_found(code: list[tuple[int, str]], expected: list[Loop]) -> None:
    assert innermost_loops(code) == expected
