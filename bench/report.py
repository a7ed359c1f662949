# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a run's JSON (bench/run_cuda.py): its figures by name, and what was asked of them. Parts that a run left out are left out here too."""

H200 = "H200"


def run_of(found, variant, dtype):
    """What the engine bench found for a variant in a precision, or None."""
    runs = ((found.get("engine") or {}).get("runs")) or []
    return next((r for r in runs if r.get("variant") == variant and r.get("dtype") == dtype), None)


def by_length(entries, key):
    """{length: entry[key]} of those that have it."""
    return {e["length"]: e[key] for e in entries or [] if key in e}


def engine_rates(found, variant="lion-s", dtype="bfloat16"):
    run = run_of(found, variant, dtype)
    return by_length(run["lengths"], "tokens_per_second") if run else {}


def peer(found, name):
    return (found.get("peers") or {}).get(name) or {}


def attention_ms(found, variant="lion-s", dtype="bfloat16"):
    """{length: milliseconds of one layer's attention}, from the engine's table of stages."""
    run = run_of(found, variant, dtype)
    if not run:
        return {}
    return {e["length"]: e["stages_ms"]["attention"] / run["layers"] for e in run["lengths"] if "attention" in e.get("stages_ms", {})}


def fla_ms(found):
    """{length: milliseconds of fla's kernel, twice}: the faster of its two ways to take a batch."""
    return {e["length"]: min(e["batch_ms"], e["packed_ms"]) for e in peer(found, "fla").get("lengths", [])}


def targets(found):
    """Rows of (what, found, asked, good); found and asked are numbers, good says whether one satisfies the other."""
    rows = []

    def at_least(what, value, asked):
        if value is not None:
            rows.append((what, value, asked, value >= asked))

    def at_most(what, value, asked):
        if value is not None:
            rows.append((what, value, asked, value <= asked))

    h200 = H200 in found["machine"]["gpu"]
    for variant in ("lion-s", "lion-d", "lion-lit"):
        run = run_of(found, variant, "bfloat16")
        for length, share in by_length(run["lengths"], "share_of_floor").items() if run else ():
            at_least(f"{variant} bfloat16, share of the floor at {length:,}", share, 0.74 if h200 else 0.70 if length < 100_000 else 0.66)
    run = run_of(found, "lion-s", "fp8")
    for length, share in by_length(run["lengths"], "share_of_bfloat16_floor").items() if run else ():
        at_least(f"lion-s fp8, share of bfloat16's floor at {length:,}", share, 1.0)
    rates = engine_rates(found)
    for name, label, asked in (("bert", "Hugging Face BERT", {128: 1.2, 8192: 2.5, 131072: 25}), ("plain", "plain masked LION-S", {128: 4, 8192: 100})):
        others = by_length(peer(found, name).get("lengths"), "tokens_per_second")
        for length, times in asked.items():
            if length in rates and length in others:
                at_least(f"times {label} at {length:,}", rates[length] / others[length], times)
    ours, theirs = attention_ms(found), fla_ms(found)
    for length in sorted(set(ours) & set(theirs)):
        at_least(f"attention alone, times fla's kernel twice at {length:,}", theirs[length] / ours[length], 3)
    run = run_of(found, "lion-s", "bfloat16")
    if run:
        at_most("one text of 128, the engine, p50 ms", run["latency_128"]["p50_ms"], 0.6)
    service = found.get("service") or {}
    at_most("one text of 128, through gRPC, p50 ms", service.get("latency_128", {}).get("p50_ms"), 1.0)
    for load in service.get("loads", []):
        if load["kind"].startswith("ids, several"):
            at_least(f"service, share of the engine, ids, at {load['tokens']:,}", load.get("share_of_engine"), 0.9)
    for length, ratio in (service.get("ratio_to_one_gpu") or {}).items():
        at_least(f"service on all GPUs, times one, at {int(length):,}", ratio, 1.9)
    documents = found.get("documents") or {}
    at_least("documents: tokens/s at 1,048,576 over those at 8,192", (documents.get("throughput") or {}).get("ratio"), 0.9)
    at_most("documents: short texts' p99 beside them over theirs alone", (documents.get("beside") or {}).get("p99_ratio"), 3)
    at_most("documents: what steps cost, share of the time in one piece", (documents.get("steps") or {}).get("loss"), 0.1)
    return rows


def targets_table(found):
    lines = [f"{'what was asked':62} {'found':>9} {'asked':>7}"]
    for what, value, asked, good in targets(found):
        lines.append(f"{what:62} {value:9.3f} {asked:7.2f}{'' if good else '  missed'}")
    return "\n".join(lines)
