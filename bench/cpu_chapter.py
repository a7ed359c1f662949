# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU's part of docs/benchmarks.md, tables and plots, made of a run's JSON (bench/run_cpu.py) by bench/write_docs.py."""

import cpu_report
import plot

DTYPES = cpu_report.DTYPES
PEER_NAMES = {"st": "sentence-transformers", "torch_bf16": "torch bfloat16", "onnx_fp32": "ONNX Runtime fp32", "onnx_int8": "ONNX Runtime int8"}
BASE_NAMES = {"bert_fp32": "Hugging Face BERT fp32", "bert_bf16": "Hugging Face BERT bfloat16"}
STAGE_LENGTHS = (21, 133, 8192)  # of the table of stages
OURS = {"st": ("float32", "texts"), "torch_bf16": ("bfloat16", "ids"), "onnx_fp32": ("float32", "ids"), "onnx_int8": ("int8", "ids"),
        "bert_fp32": ("float32", "ids"), "bert_bf16": ("bfloat16", "ids")}


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def rate(value):
    return "" if value is None else f"{value:,.0f}"


def percent(share):
    return "" if share is None else f"{100 * share:.0f} %"


def small(found):
    """The size that every variant and length was run at: 384x6, or a shortened run's."""
    return cpu_report.stage(found, "engine")["rows"][0]["size"]


def targets(found):
    return table(["aim", "found", "asked", "met"],
                 [(what, f"{value:.3g}", f"{asked:g}", "yes" if good else "**no**") for what, value, asked, good in cpu_report.targets(found)])


def engine(found, size):
    rows = []
    by = {dtype: {r["tokens"]: r for r in cpu_report.engine_rows(found, size, dtype=dtype)} for dtype in DTYPES}
    for length in sorted({n for entries in by.values() for n in entries}):
        row = [f"{length:,}"]
        for dtype in DTYPES:
            r = by[dtype].get(length)
            row += [rate(r["tokens_per_second"]), percent(r["cpu_share"])] if r else ["", ""]
        rows.append(row)
    return table(["tokens a row", *(cell for dtype in DTYPES for cell in (f"{dtype}, tokens/s", "of the floor"))], rows)


def others(found):
    rows = []
    for variant in ("lion-d", "lion-lit"):
        for dtype in DTYPES:
            entries = cpu_report.engine_rows(found, small(found), variant, dtype)
            if entries:
                rows.append([f"{variant} {dtype}", *(f"{rate(r['tokens_per_second'])} ({percent(r['cpu_share'])})" for r in entries)])
    lengths = [r["tokens"] for r in cpu_report.engine_rows(found, small(found), "lion-d", DTYPES[0])]
    return table(["", *(f"rows of {n:,}" for n in lengths)], rows)


def stages(found):
    """Where a token's time goes in a layer."""
    rows = []
    for dtype in DTYPES:
        for r in cpu_report.engine_rows(found, small(found), dtype=dtype):
            if r["tokens"] in STAGE_LENGTHS:
                us = r["stage_us_per_token_and_layer"]
                rows.append((dtype, f"{r['tokens']:,}", *(f"{us[name]:.2f}" for name in ("products", "attention", "rows", "gates")), f"{sum(us.values()):.2f}"))
    return table(["", "tokens a row", "products", "attention", "between them", "gates", "all, µs a token and layer"], rows)


def peers(found, names, size):
    rows = []
    for part, name in names.items():
        entry = (cpu_report.stage(found, "peers")["parts"].get(part)) or {}
        dtype, kind = OURS[part]
        ours = cpu_report.our_rates(found, size, dtype, kind)
        for e in entry.get("lengths", []):
            mine = ours.get(e["length"])
            rows.append((name, f"{e['length']:,}", rate(e["tokens_per_second"]), e["rows"], f"{dtype}, {kind}", rate(mine),
                         "" if mine is None else f"{mine / e['tokens_per_second']:.1f} ×"))
    return table(["peer, in its own process", "tokens a row", "tokens/s", "best batch, rows", "our service", "tokens/s", ""], rows)


def service(found):
    rows = []
    for dtype, part in cpu_report.stage(found, "service")["dtypes"].items():
        for load in part["loads"]:
            if load["kind"].startswith("open loop"):
                continue
            rows.append((dtype, load["kind"], f"{load['tokens']:,}", rate(load["tokens_per_second"]), percent(load.get("share_of_engine")), f"{load['p50_ms']:.2f}",
                         f"{load['p99_ms']:.2f}", f"{load['server_cores']:.1f}"))
    return table(["", "load", "tokens a row", "tokens/s", "of the engine", "p50 ms", "p99 ms", "server's cores"], rows)


def by_load(found):
    rows = []
    for dtype, part in cpu_report.stage(found, "service")["dtypes"].items():
        if alone := part.get("engine_alone"):
            rows.append((dtype, "the engine alone, one row", "", f"{alone[0]['p50_ms']:.2f}", f"{alone[0]['p99_ms']:.2f}"))
            rows.append((dtype, "the service, one caller", "", f"{part['latency_21']['p50_ms']:.2f}", f"{part['latency_21']['p99_ms']:.2f}"))
        for e in part.get("by_load", []):
            rows.append((dtype, percent(e["share"]) + " of the most", rate(e["rows_per_second"]), f"{e['p50_ms']:.2f}", f"{e['p99_ms']:.2f}"))
    return table(["", "load", "rows/s", "p50 ms", "p99 ms"], rows)


def memory(found):
    mib = 2**20
    part = cpu_report.stage(found, "memory")
    rows = [(e["dtype"], *(f"{e[key] / mib:,.0f}" for key in ("peak_bytes", "program_bytes", "weights_bytes", "activation_bytes")), f"{e['share']:.2f}") for e in part["peaks"]]
    growth = part["growth"]
    return (table(["768 × 12", "peak, MiB", "of an empty model", "weights", "activations", "(peak - empty) / (weights + activations)"], rows)
            + f"\n\nResident memory after {growth['calls'] // 10:,} calls {growth['before_bytes'] / mib:.1f} MiB, after {growth['calls']:,} more {growth['after_bytes'] / mib:.1f}.")


def sharing(found):
    part = cpu_report.stage(found, "sharing")
    beside = part["beside_documents"]
    rows = [(f"rows of {beside['short_tokens']}, {beside['rate']:.0f} a second, {where}", f"{beside['p50_ms'][i]:.2f}", f"{beside['p99_ms'][i]:.2f}", rate(beside["document_tokens_per_second"][i]))
            for i, where in enumerate(("or documents, alone", f"and documents of {beside['document_tokens']:,} tokens at once"))]
    text = table(["demo model, float32", "p50 ms", "p99 ms", "documents' tokens/s"], rows)
    for times in (1, 2):
        load = part[f"load_{times}x"]
        refusals = "" if load["refusal_p99_ms"] is None else f", p99 of a refusal {load['refusal_p99_ms']:.2f} ms"
        text += f"\n\nAt {times} × what it can do: {rate(load['goodput_rows_per_second'])} rows/s answered, {load['refused']:,} of {load['requests']:,} calls refused{refusals}."
    return text


def quality(found):
    part = cpu_report.stage(found, "quality")
    rows = [(dtype, *(f"{e['oracle'][m]['rms']:.1e} / {e['oracle'][m]['max']:.1e}" for m in part["models"]), f"{e['recall_at_1']:.4f}", f"{e['section_accuracy']:.4f}")
            for dtype, e in part["dtypes"].items()]
    return table(["precision", *(f"{m.removeprefix('text-')}, rms / max" for m in part["models"]), "recall@1", "section"], rows)


def versions(found):
    parts = (cpu_report.stage(found, "peers").get("parts") or {}).values()
    named = {key: value for part in parts if part for key, value in part.items() if isinstance(value, str)}
    return ", ".join(f"{key.replace('_', '-')} {value}" for key, value in sorted(named.items())) or "not run"


def chapter(found):
    machine, ran = found["machine"], found["stages"]
    dates = sorted({(part["date"], part["commit"]) for part in ran.values()})
    parts = [f"### {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB",
             f"{'; '.join(f'{date}, commit {commit}' for date, commit in dates)}; {', '.join(machine['features'])}; {machine['system']}. Peers: {versions(found)}.",
             targets(found)]
    if "engine" in ran:
        parts += ["The engine, LION-S, 384 × 6, batches of 4,096 tokens (longer rows alone): tokens a second, and the share of the floor by processor time.\n\n"
                  "![throughput](figures/cpu-throughput.svg)\n\n![share of the floor](figures/cpu-floor.svg)", engine(found, small(found))]
        if cpu_report.engine_rows(found, "768x12"):
            parts += ["768 × 12.", engine(found, "768x12")]
        if cpu_report.engine_rows(found, small(found), "lion-d"):
            parts += ["LION-D and LION-LIT, 384 × 6.", others(found)]
        parts += ["Where the time goes.", stages(found)]
    if "peers" in ran:
        parts += ["Peers at all-MiniLM-L6-v2's size.", peers(found, PEER_NAMES, "small"), "Peers at BERT base's size.", peers(found, BASE_NAMES, "base")]
    if "service" in ran:
        parts += ["The service, 384 × 6, its client on the same cores.", service(found),
                  "How long one row of 21 tokens takes as more are asked for (open loop).\n\n![latency by load](figures/cpu-latency.svg)", by_load(found)]
    if "memory" in ran:
        parts += ["Memory.", memory(found)]
    if "sharing" in ran:
        parts += ["How callers share the server: short rows beside documents, and more than it can do.", sharing(found)]
    if "quality" in ran:
        parts += ["What each precision costs: error on the oracle models, and the demo model's work through the service.", quality(found)]
    return "\n\n".join(parts)


def figures(found):
    """{file name: SVG}."""
    made, ran = {}, found["stages"]
    if "engine" in ran:
        series = {f"LION-S {d}": {r["tokens"]: r["tokens_per_second"] for r in cpu_report.engine_rows(found, small(found), dtype=d)} for d in DTYPES}
        if "peers" in ran:
            series |= {name: cpu_report.peer_rates(found, part) for part, name in PEER_NAMES.items()}
        made["cpu-throughput.svg"] = plot.curves("Tokens a second by tokens a row, 384 × 6", series, log_y=True)
        series = {f"LION-S {d}": {r["tokens"]: 100 * r["cpu_share"] for r in cpu_report.engine_rows(found, small(found), dtype=d)} for d in DTYPES}
        made["cpu-floor.svg"] = plot.curves("Share of the products' floor by tokens a row, 384 × 6, percent", series)
    if "service" in ran:
        series = {}
        for dtype, part in ran["service"]["dtypes"].items():
            for key in ("p50", "p99"):
                series[f"{dtype} {key}"] = {round(100 * e["share"]): e[f"{key}_ms"] for e in part.get("by_load", [])}
        made["cpu-latency.svg"] = plot.curves("Milliseconds of a row of 21 tokens by load, percent of the most", series, log_x=False, log_y=True)
    return made
