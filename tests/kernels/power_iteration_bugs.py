"""Bugs to plant in the CUDA kernels of power iteration and their planner.

All for one program are compiled into it at once, each behind a switch ``BUG``.
"""

from __future__ import annotations

from device_program import Bug

VALUES, ORDERS = "wrong values", "other bits in another order"
FORGOTTEN = "copies under way, for which it never waited"
OVERFLOW = "heap-buffer-overflow"
GEMM, GRADIENT = "power_iteration_gemm.cuh", "power_iteration_gemm_gradient.cuh"

BUGS = {
    "missing barrier": Bug(
        "power_iteration_group.cuh",
        "if (layer.blocks == 1) return mine;",
        "if (BUG || layer.blocks == 1) return mine;",
        "plain",
        VALUES,
    ),
    "barrier that does not wait": Bug(
        "power_iteration_group.cuh",
        "while ((word & kPhaseBits) != phase) word = published(words + block);",
        "while (!BUG && (word & kPhaseBits) != phase) word = published(words + block);",
        "plain",
        VALUES,
    ),
    "phases that are not told apart": Bug(
        "power_iteration_group.cuh",
        "phase = 1 + step / 2 % 2;",
        "phase = BUG ? 1 : 1 + step / 2 % 2;",
        "plain",
        VALUES,
    ),
    "the norm of one block": Bug(
        "power_iteration_group.cuh",
        "return sum_over_warp(sum);",
        "return BUG ? mine : sum_over_warp(sum);",
        "plain",
        VALUES,
    ),
    # The fence is in the words that the harness gives the kernels: the bug says a weaker one.
    "missing fence": Bug(
        "power_iteration_group.cuh",
        "    publish(words + (static_cast<int>(blockIdx.x) - layer.first_block), (bits & ~kPhaseBits) | phase);",
        """    uint64_t* const word = words + (static_cast<int>(blockIdx.x) - layer.first_block);
    if (BUG) {
      __atomic_store_n(word, (bits & ~kPhaseBits) | phase, __ATOMIC_RELAXED);
      fibers::changed();
    } else {
      publish(word, (bits & ~kPhaseBits) | phase);
    }""",
        "threads",
        "data race",
    ),
    "words that are not cleared": Bug(
        "power_iteration_group.cuh",
        "layer.squares_u[block] = layer.squares_v[block] = 0;",
        "layer.squares_u[block] = layer.squares_v[block] = BUG;",
        "plain",
        VALUES,
    ),
    # What is stale, or was never written, is a table of places, too.
    "weights that stay where they must not": Bug(
        "power_iteration.cuh", "= !tiling.resident ||", "= (!BUG && !tiling.resident) ||", "addresses", "runtime error"
    ),
    "resident weights of one product only": Bug(
        "power_iteration.cuh", "step < 2;", "step < 2 - BUG;", "addresses", "runtime error"
    ),
    "copies that nobody waits for": Bug(
        "power_iteration_conv.cuh",
        "      wait_for_copies<0>();\n",
        "      if (!BUG) wait_for_copies<0>();\n",
        "plain",
        "copies under way",
    ),
    "an item found while others write the one before": Bug(
        "power_iteration_conv.cuh",
        "      __syncthreads();\n      if (threadIdx.x == 0) board.item",
        "      if (!BUG) __syncthreads();\n      if (threadIdx.x == 0) board.item",
        "plain",
        VALUES,
        multiprocessors=1,
    ),
    "sums joined while others write them": Bug(
        "power_iteration_tile.cuh",
        "    if (half > 0) __syncthreads();\n",
        "    if (half > 0 && !BUG) __syncthreads();\n",
        "threads",
        "data race",
    ),
    "half of the joined sums": Bug(
        "power_iteration_tile.cuh",
        "if (k < part.count) values[k] +=",
        "if (k < part.count / (1 + BUG)) values[k] +=",
        "plain",
        VALUES,
    ),
    "wrong padding of the adjoint": Bug(
        "power_iteration_item.cuh",
        "const int reach = phase + axis.padding;",
        "const int reach = phase + axis.padding + BUG * axis.stride;",
        "plain",
        VALUES,
    ),
    "tile off by one": Bug(
        "power_iteration_item.cuh",
        "view.outputs = min(most, axis.output - start);",
        "view.outputs = min(most - BUG, axis.output - start);",
        "plain",
        VALUES,
    ),
    "row off by one": Bug(
        "power_iteration_dense.cuh",
        "if (column < count && first_row + r < rows)",
        "if (column < count && first_row + r < rows + BUG)",
        "addresses",
        OVERFLOW,
    ),
    # What atomicAdd would do: every thread adds to one sum when its turn comes. A fiber's += is not interrupted.
    "sums in the order of arrival": Bug(
        "power_iteration_dense.cuh",
        "    for (int i = 0; i < Unit::kCount; ++i) joined[down * strip + along * Unit::kCount + i] = sums[i];\n",
        """    for (int i = thread; BUG && i < strip * row_step; i += kThreads) joined[i] = 0;
    if (BUG) __syncthreads();
    for (int i = 0; i < Unit::kCount; ++i) {
      if (BUG)
        joined[along * Unit::kCount + i] += sums[i];
      else
        joined[down * strip + along * Unit::kCount + i] = sums[i];
    }
""",
        "plain",
        ORDERS,
    ),
    "shared memory reused too early": Bug(
        "power_iteration_conv.cuh",
        "min((place.split + 1) * share, terms));\n      __syncthreads();",
        "min((place.split + 1) * share, terms));\n      if (!BUG) __syncthreads();",
        "threads",
        "data race",
    ),
    "more blocks than the card holds": Bug(
        "power_iteration_residency.cpp",
        "if (resident < plan.blocks_per_multiprocessor) held",
        "if (!BUG && resident < plan.blocks_per_multiprocessor) held",
        "plain",
        "too many blocks in cooperative launch",
        resident=1,
    ),
}

# In wide convolutions: what copies and products on tensor cores can get wrong.
WIDE_BUGS = {
    "no wait for copies": Bug(
        GEMM, "        wait_for_step(ahead);\n", "        if (!BUG) wait_for_step(ahead);\n", "plain", FORGOTTEN
    ),
    "a wait that leaves a group too many": Bug(
        "power_iteration_fragments.cuh",
        "  if (ahead == 1)\n    wait_for_copies<0>();",
        "  if (BUG && ahead > 1)\n    wait_for_copies<2>();\n  else if (ahead == 1 && !BUG)\n    wait_for_copies<0>();",
        "plain",
        FORGOTTEN,
    ),
    "no barrier after the wait": Bug(
        GEMM,
        "        __syncthreads();  // for the copies of the others,",
        "        if (!BUG) __syncthreads();  // for the copies of the others,",
        "threads",
        "data race",
    ),
    "a stage overwritten while it is read": Bug(
        GEMM, "const int ahead = tiling.stages - 1;", "const int ahead = tiling.stages - !BUG;", "plain", VALUES
    ),
    "a window overwritten while it is read": Bug(
        "power_iteration_gemm_tiling.cpp",
        "ceil_div(stages - 1, ceil_div(few_taps, step_taps)) + 1)",
        "ceil_div(stages - 1, ceil_div(few_taps, step_taps)) + !BUG)",
        "plain",
        VALUES,
    ),
    "sums joined over what others still read": Bug(
        GEMM,
        "    __syncthreads();\n    const WarpPlace place(tiling);",
        "    if (!BUG) __syncthreads();\n    const WarpPlace place(tiling);",
        "threads",
        "data race",
    ),
    "rows of a fragment swapped": Bug(
        GEMM, "a[2 * m][k], a[2 * m + 1][k],", "a[2 * m + BUG][k], a[2 * m + !BUG][k],", "plain", VALUES
    ),
    "terms of a fragment in another order": Bug(
        GEMM, "add(n + i, 0, b[0], b[1]);", "add(n + i, 0, b[BUG], b[!BUG]);", "plain", VALUES
    ),
    "units of transposed weights not swapped back": Bug(
        GEMM, "4 * (place.g ^ (2 * place.t))", "4 * (place.g ^ (!BUG * 2 * place.t))", "plain", VALUES
    ),
    "units of weights not swapped back": Bug(
        GEMM, "const int odd = (place.g & 1) * kSlice;", "const int odd = (place.g & !BUG) * kSlice;", "plain", VALUES
    ),
    "columns in another order": Bug(
        GEMM,
        "half / 2 * 32 + 8 * place.t + half % 2 * 4;",
        "half / 2 * 32 + (BUG ? 4 * place.t + half % 2 * 16 : 8 * place.t + half % 2 * 4);",
        "plain",
        VALUES,
    ),
    "no zeros beyond the picture": Bug(
        GEMM, "iy < item.in_height && ", "(BUG || iy < item.in_height) && ", "plain", VALUES
    ),
    "no zeros beyond the channels": Bug(
        "power_iteration_pack.cuh", "= real ? load_weight(", "= BUG || real ? load_weight(", "addresses", OVERFLOW
    ),
    "the scale forgotten": Bug(GEMM, "a[p][k] *= scale;", "a[p][k] *= BUG ? 1 : scale;", "plain", VALUES),
    "the last product cut like the others": Bug(
        "power_iteration.cuh",
        "step == 2 * launch.iterations)",
        "!BUG && step == 2 * launch.iterations)",
        "plain",
        VALUES,
    ),
    "gradient: no wait for copies": Bug(
        GRADIENT, "    wait_for_step(ahead);\n", "    if (!BUG) wait_for_step(ahead);\n", "plain", FORGOTTEN
    ),
    "gradient: a stage overwritten while it is read": Bug(
        GRADIENT, "ahead = stages - 1;", "ahead = stages - !BUG;", "plain", VALUES
    ),
    "gradient: no zeros beside the picture": Bug(
        GRADIENT,
        " && ix >= 0 && ix < layer.width.input;",
        " && (BUG || (ix >= 0 && ix < layer.width.input));",
        "plain",
        VALUES,
    ),
    "gradient: halves of a fragment swapped": Bug(
        GRADIENT,
        "a[0][2 * m], a[0][2 * m + 1], a[1][2 * m],",
        "a[BUG][2 * m], a[0][2 * m + 1], a[!BUG][2 * m],",
        "plain",
        VALUES,
    ),
}


def of_program(name: str) -> list[Bug]:
    """Return the bugs for a program, each in the place of its number."""
    return [bug for bug in (*BUGS.values(), *WIDE_BUGS.values()) if bug.program == name]
