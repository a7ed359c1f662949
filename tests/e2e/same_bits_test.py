# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The README's promise: a row's result does not depend on what shares its batch, its place in it, or the load, in every precision of the CPU."""

import concurrent.futures

import numpy as np
import pytest

from harness import DEMO, Server, ids_input, pb

CALLERS = 8
CALLS = 12  # of each caller
LENGTHS = (1, 2, 15, 16, 17, 33, 63, 64, 65, 100, 133, 200, 511, 513, 1100)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_row_under_load_has_the_bits_it_has_alone(dtype):
    random = np.random.default_rng(11)
    rows = [ids_input(random.integers(5, 16000, n)) for n in LENGTHS]
    with Server([DEMO / "model"], f"--dtype={dtype}") as server:
        alone = [server.call("Embed", pb.EmbedRequest(inputs=[row])).results[0].vectors[0].values for row in rows]

        def caller(seed):
            """Batches of some of the rows in some order, each among the other callers' rows as the server puts them together."""
            order = np.random.default_rng(seed)
            for _ in range(CALLS):
                chosen = order.choice(len(rows), size=order.integers(1, 2 * len(rows)), replace=True)
                answer = server.call("Embed", pb.EmbedRequest(inputs=[rows[i] for i in chosen]))
                for place, (i, result) in enumerate(zip(chosen, answer.results, strict=True)):
                    assert result.vectors[0].values == alone[i], f"{dtype}: {LENGTHS[i]} tokens at place {place} of {len(chosen)} have other bits than alone"

        with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
            for done in [pool.submit(caller, seed) for seed in range(CALLERS)]:
                done.result()
