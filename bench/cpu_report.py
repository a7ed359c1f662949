# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a CPU run's JSON (bench/run_cpu.py): its figures by name, and what was asked of them. Stages that a run left out are left out here too."""

DTYPES = ["float32", "bfloat16", "int8"]
FLOOR_SHARES = {"float32": 0.90, "bfloat16": 0.83, "int8": 0.65}
# What was asked against whom: (peer, our dtype, our input, {length: times}).
PEERS = [("st", "sentence-transformers", "float32", "texts", {21: 2.2, 133: 2.2, 8192: 10}), ("st", "sentence-transformers", "bfloat16", "texts", {21: 4, 133: 4}),
         ("st", "sentence-transformers", "int8", "texts", {21: 6, 133: 6}), ("onnx_int8", "ONNX Runtime int8", "int8", "ids", {21: 1.2, 133: 1.35, 8192: 10}),
         ("onnx_fp32", "ONNX Runtime fp32", "float32", "ids", {8192: 10}), ("torch_bf16", "torch bfloat16", "bfloat16", "ids", {8192: 10})]


def stage(found, name):
    return found["stages"].get(name) or {}


def engine_rows(found, size, variant="lion-s", dtype=None):
    return [r for r in stage(found, "engine").get("rows", []) if r["size"] == size and r["variant"] == variant and dtype in (None, r["dtype"])]


def engine_alone(found, size, dtype):
    return next((a for a in stage(found, "engine").get("alone", []) if a["size"] == size and a["dtype"] == dtype), None)


def peer_rates(found, part):
    """{length: tokens a second} of a peer at its best batch size."""
    return {e["length"]: e["tokens_per_second"] for e in (stage(found, "peers").get("parts", {}).get(part) or {}).get("lengths", [])}


def our_rates(found, size, dtype, kind):
    """The same of our service, as the peers' stage measured it."""
    rates = stage(found, "peers").get("ours", {}).get(size, {}).get(dtype, {}).get(kind, {})
    return {int(length): rate for length, rate in rates.items()}


def service_loads(found, dtype, kind):
    return [e for e in stage(found, "service").get("dtypes", {}).get(dtype, {}).get("loads", []) if e["kind"].startswith(kind)]


def targets(found):
    """Rows of (what, found, asked, good)."""
    rows = []

    def at_least(what, value, asked):
        if value is not None:
            rows.append((what, value, asked, value >= asked))

    def at_most(what, value, asked):
        if value is not None:
            rows.append((what, value, asked, value <= asked))

    for dtype in DTYPES:
        for size in ("384x6", "768x12"):
            shares = {r["tokens"]: r["cpu_share"] for r in engine_rows(found, size, dtype=dtype) if 16 <= r["tokens"] <= 32768}
            if shares:
                worst = min(shares, key=shares.get)
                at_least(f"{size} {dtype}, share of the floor, least of {len(shares)} lengths (at {worst:,})", shares[worst], FLOOR_SHARES[dtype])
    for part, label, dtype, kind, asked in PEERS:
        theirs, ours = peer_rates(found, part), our_rates(found, "small", dtype, kind)
        for length, times in asked.items():
            if length in theirs and length in ours:
                at_least(f"our {dtype} service, times {label}, at {length:,}", ours[length] / theirs[length], times)
    for dtype in DTYPES:
        for kind, asked in (("ids, several", 0.95), ("texts, several", 0.90)):
            for load in service_loads(found, dtype, kind):
                at_least(f"service {dtype}, {kind.split(',')[0]}, share of the engine at {load['tokens']:,}", load.get("share_of_engine"), asked)
        part = stage(found, "service").get("dtypes", {}).get(dtype)
        if part and "latency_21" in part:
            at_most(f"one row of 21 through gRPC beyond the engine, {dtype}, p50 ms", part["latency_21"]["p50_ms"] - part["engine_alone"][0]["p50_ms"], 0.5)
    for entry in stage(found, "memory").get("peaks", []):
        at_most(f"peak memory {entry['dtype']}, over 1.3 x weights + activations", entry["model_bytes"] / (1.3 * entry["weights_bytes"] + entry["activation_bytes"]), 1)
    if growth := stage(found, "memory").get("growth"):
        at_most(f"memory over {growth['calls']:,} calls, MiB more", (growth["after_bytes"] - growth["before_bytes"]) / 2**20, 4)
    if beside := stage(found, "sharing").get("beside_documents"):
        at_most(f"short rows' p99 beside documents of {beside['document_tokens']:,}, times alone", beside["p99_ms"][1] / beside["p99_ms"][0], 3)
    if "goodput_2x_over_1x" in stage(found, "sharing"):
        at_least("rows answered at twice what the server can do, over those at once", found["stages"]["sharing"]["goodput_2x_over_1x"], 0.95)
        at_most("a refusal then, p99 ms", found["stages"]["sharing"]["load_2x"]["refusal_p99_ms"], 5)
    return rows


def targets_table(found):
    lines = [f"{'what was asked':76} {'found':>9} {'asked':>7}"]
    for what, value, asked, good in targets(found):
        lines.append(f"{what:76} {value:9.3f} {asked:7.2f}{'' if good else '  missed'}")
    return "\n".join(lines)
