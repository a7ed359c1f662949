# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Puts a run's figures (cuda_bench.json of bench/run_cuda.py, cpu_bench.json of bench/run_cpu.py) into docs/benchmarks.md, with plots beside it in
docs/figures/.

    python3 bench/write_docs.py build/bench/cuda_bench.json [MORE.json]     one file a GPU
    python3 bench/write_docs.py build/bench/cpu/cpu_bench.json              the CPU's, of which the page has one
    python3 bench/write_docs.py --check                                     fails if the page is not what docs/figures/*.json makes

Each JSON is kept as docs/figures/GPU.json or cpu.json; what stands between the page's marks is made of these files alone, so that no figure is
copied by hand.
"""

import argparse
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import cpu_chapter  # noqa: E402
import plot  # noqa: E402
import report  # noqa: E402

PAGE = ROOT / "docs/benchmarks.md"
FIGURES = ROOT / "docs/figures"
BEGIN = "<!-- GPU figures: made by bench/write_docs.py -->"
END = "<!-- end of GPU figures -->"
BEGIN_CPU = "<!-- CPU figures: made by bench/write_docs.py -->"
END_CPU = "<!-- end of CPU figures -->"
LAYER_LENGTHS = [128, 8192, 131072]  # of the table of stages
PRODUCTS = ["qkv", "out", "up", "down"]
ONCE_A_BATCH = ["upload", "embed", "heads", "download", ""]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def mega(rate):
    return "" if rate is None else f"{rate / 1e6:.3f}" if rate < 1e6 else f"{rate / 1e6:.2f}"


def percent(share):
    return "" if share is None else f"{100 * share:.0f} %"


def times(ours, theirs):
    return "" if ours is None or theirs is None else f"{mega(theirs)} ({ours / theirs:.1f} ×)"


def targets(found):
    rows = [(what, f"{value:.3g}", f"{asked:g}", "yes" if good else "**no**") for what, value, asked, good in report.targets(found)]
    return table(["aim", "found", "asked", "met"], rows)


def throughput(found):
    ours = {name: report.run_of(found, *name) for name in (("lion-s", "bfloat16"), ("lion-d", "bfloat16"), ("lion-lit", "bfloat16"), ("lion-s", "fp8"))}
    rates = {name: report.engine_rates(found, *name) for name in ours}
    floors, rested = (report.by_length(ours["lion-s", "bfloat16"]["lengths"], f"{kind}floor_tokens_per_second") for kind in ("", "rested_"))
    shares = {name: report.by_length(run["lengths"], "share_of_floor") if run else {} for name, run in ours.items()}
    bert, plain = (report.by_length(report.peer(found, p).get("lengths"), "tokens_per_second") for p in ("bert", "plain"))
    rows = []
    for length in floors:
        s = rates["lion-s", "bfloat16"].get(length)
        row = [f"{length:,}", f"{mega(floors[length])} ({mega(rested.get(length))})", f"{mega(s)} ({percent(shares['lion-s', 'bfloat16'].get(length))})"]
        for name in (("lion-d", "bfloat16"), ("lion-lit", "bfloat16")):
            rate = rates[name].get(length)
            row.append(f"{mega(rate)} ({percent(shares[name].get(length))})" if rate else "")
        rows.append([*row, mega(rates["lion-s", "fp8"].get(length)), times(s, bert.get(length)), times(s, plain.get(length))])
    return table(["tokens a row", "floor (rested)", "LION-S", "LION-D", "LION-LIT", "LION-S fp8", "Hugging Face BERT", "plain masked LION-S"], rows)


def layer(found):
    run = report.run_of(found, "lion-s", "bfloat16")
    entries = {e["length"]: e for e in run["lengths"] if e["length"] in LAYER_LENGTHS and "stages_ms" in e}
    names = [n for n in next(iter(entries.values()))["stages_ms"] if n not in ONCE_A_BATCH] if entries else []
    names.sort(key=lambda n: -next(iter(entries.values()))["stages_ms"][n])
    rows = []
    for name in names:
        row = [name]
        for entry in entries.values():
            floor = entry["rested_floor_ms_per_layer"].get(name)
            row += [f"{entry['stages_ms'].get(name, 0) / run['layers']:.3f}", "" if floor is None else f"{floor:.3f}"]
        rows.append(row)
    total = ["all"]
    for entry in entries.values():
        total += [f"{sum(v for n, v in entry['stages_ms'].items() if n not in ONCE_A_BATCH) / run['layers']:.3f}", f"{entry['rested_floor_ms_per_layer']['sum']:.3f}"]
    return table(["stage, ms a layer"] + [cell for n in entries for cell in (f"rows of {n:,}", "floor")], rows + [total])


def attention(found):
    ours, theirs = report.attention_ms(found), report.fla_ms(found)
    return table(["tokens a row", "attention, ms", "chunk_simple_gla twice, ms", ""],
                 [(f"{n:,}", f"{ours[n]:.3f}", f"{theirs[n]:.3f}", f"{theirs[n] / ours[n]:.1f} ×") for n in sorted(set(ours) & set(theirs))])


def service(found):
    rows = []
    for load in found["service"]["loads"]:
        mean = load["server_mean_ms"]
        rows.append((load["kind"], f"{load['tokens']:,}", mega(load["tokens_per_second"]), f"{load['rows_per_second']:,.0f}", percent(load.get("share_of_engine")),
                     f"{load['p50_ms']:.2f}", f"{load['p99_ms']:.2f}", f"{mean['tokenize']:.2f} / {mean['queue']:.2f} / {mean['compute']:.2f}",
                     f"{load['server_cores']:.1f}"))
    return table(["load", "tokens a row", "M tokens/s", "rows/s", "of the engine", "p50 ms", "p99 ms", "tokenize / queue / compute ms", "server's cores"], rows)


def quality(found):
    part = found["quality"]
    rows = []
    for dtype, entry in part["dtypes"].items():
        rows.append((dtype, *(f"{entry['oracle'][m]['rms']:.1e} / {entry['oracle'][m]['max']:.1e}" for m in part["models"]), f"{entry['recall_at_1']:.4f}",
                     f"{entry['section_accuracy']:.4f}"))
    return table(["precision", *(f"{m.removeprefix('text-')}, rms / max" for m in part["models"]), "recall@1", "section"], rows)


def latency(found):
    lines = []
    if run := report.run_of(found, "lion-s", "bfloat16"):
        lines.append(("the engine", run["latency_128"]["p50_ms"], run["latency_128"]["p99_ms"]))
    if part := (found.get("service") or {}).get("latency_128"):
        lines.append(("through gRPC on loopback, token ids", part["p50_ms"], part["p99_ms"]))
    for name, label in (("graph_ms", "Hugging Face BERT as a CUDA graph"), ("eager_ms", "Hugging Face BERT, eager")):
        if name in report.peer(found, "bert").get("latency_128", {}):
            lines.append((label, report.peer(found, "bert")["latency_128"][name], None))
    return table(["one text of 128 tokens", "p50 ms", "p99 ms"], [(a, f"{b:.3f}", "" if c is None else f"{c:.3f}") for a, b, c in lines])


def documents(found):
    """One row of any length: time and memory, softmax attention's beside LION's; then what texts and the row itself notice."""
    part, softmax = found["documents"], {e["length"]: e for e in (found.get("length_peers") or {}).get("lengths", [])}
    ours = {e["length"]: e for e in part["rows"]}

    def cells(entry):
        return (f"{entry['ms']:,.1f}", mega(entry["tokens_per_second"]), f"{entry['device_bytes'] / 1e9:.2f}") if entry else ("", "", "")

    rows = []
    for length in sorted({*ours, *softmax}):
        formula = ours.get(length, {}).get("formula_bytes")
        rows.append((f"{length:,}", *cells(ours.get(length)), f"{formula / 1e9:.2f}" if formula else "", *cells(softmax.get(length))))
    if again := part.get("again"):
        rows.append((f"{again['length']:,}, q, k, v made twice", *cells(again), f"{again['formula_bytes'] / 1e9:.2f}", "", "", ""))
    header = ["tokens in one row", "LION-S ms", "M tokens/s", "GB", "GB by the formula", "softmax ms", "M tokens/s", "GB"]
    beside, steps = part["beside"], part["steps"]
    told = (f"One text of 128 tokens every {beside['text_every_ms']} ms, in the engine: p50 {beside['alone']['p50_ms']:.2f} and p99 {beside['alone']['p99_ms']:.2f} ms alone, "
            f"{beside['beside']['p50_ms']:.2f} and {beside['beside']['p99_ms']:.2f} ms while rows of {beside['document_tokens']:,} tokens run ({beside['p99_ratio']:.1f} ×); such a row takes "
            f"{beside['document_alone_ms']:,.0f} ms alone and {beside['document_beside_ms']:,.0f} ms beside the texts. A row of {steps['length']:,} tokens takes {100 * steps['loss']:.1f} % more in steps "
            f"than in one piece. Rows of 1,048,576 tokens run at {part['throughput']['ratio']:.2f} of the tokens a second of rows of 8,192.")
    return table(header, rows) + "\n\n" + told + f" ({part['date']}, commit {part['commit']}.)"


def document_curves(found, key, scale, title):
    series = {"LION-S": report.by_length(found["documents"]["rows"], key), "softmax (torch sdpa)": report.by_length((found.get("length_peers") or {}).get("lengths"), key)}
    scaled = {name: {length: value * scale for length, value in points.items()} for name, points in series.items()}
    return plot.curves(f"{title}, one row, base size, bfloat16, {found['machine']['gpu']}", scaled, log_y=True)


def image_rows(found, variant):
    """{pixels: what the engine's bench found} of a variant."""
    return {row["pixels"]: row for row in (found.get("images") or {}).get("rows", []) if row["variant"] == variant}


def vit_rows(found):
    return {row["pixels"]: row for row in (found.get("image_peers") or {}).get("rows", [])}


def images(found):
    """Pictures by resolution: speed in large batches, and the memory of one alone, ViT's beside LION's."""
    natural, lit, vit = image_rows(found, "lion-s-natural"), image_rows(found, "lion-lit"), vit_rows(found)

    def cells(row, other=None):
        if not row:
            return ["", ""]
        ratio = f" ({row['pictures_per_second'] / other['pictures_per_second']:.2f} ×)" if other else ""
        return [f"{row['pictures_per_second']:,.4g}{ratio}", f"{row['row_bytes'] / 1e6:,.0f}"]

    rows = [(f"{pixels:,}", f"{1 + (pixels // 16) ** 2:,}", *cells(natural.get(pixels), vit.get(pixels)), *cells(lit.get(pixels), vit.get(pixels)), *cells(vit.get(pixels)))
            for pixels in sorted({*natural, *lit, *vit})]
    header = ["pixels a side", "tokens", "LION-S ♮ pictures/s (× ViT)", "MB a picture", "LION-LIT pictures/s (× ViT)", "MB a picture", "ViT-B/16 pictures/s", "MB a picture"]
    part, peers = found["images"], found.get("image_peers") or {}
    return table(header, rows) + f"\n\n({part['date']}, commit {part['commit']}; timm {peers.get('timm', 'not run')}.)"


def image_curves(found, key, scale, title):
    series = {"LION-S ♮": image_rows(found, "lion-s-natural"), "LION-LIT": image_rows(found, "lion-lit"), "ViT-B/16 (timm, sdpa)": vit_rows(found)}
    scaled = {name: {pixels: row[key] * scale for pixels, row in rows.items() if row.get(key)} for name, rows in series.items()}
    return plot.curves(f"{title} by pixels a side, base size, bfloat16, {found['machine']['gpu']}", scaled, log_y=True)


def chapter(found, name):
    """A GPU's part of the page; what the run left out is left out."""
    machine, peers = found["machine"], found.get("peers") or {}
    versions = ", ".join(f"{k} {v}" for k, v in (("torch", peers.get("torch")), ("triton", peers.get("triton")), ("transformers", report.peer(found, "bert").get("transformers")),
                                                 ("flash-linear-attention", report.peer(found, "fla").get("flash_linear_attention"))) if v)
    parts = [f"### {machine['gpu']}",
             f"{found['date']}, driver {machine['driver']}, {machine['cores']} cores of {machine['cpu']}, commit {found['commit']}; peers: {versions or 'not run'}.",
             targets(found)]
    if report.run_of(found, "lion-s", "bfloat16"):
        parts += [f"M tokens/s by length, base size, batches of 65,536 tokens (longer rows alone); in brackets the share of the floor.\n\n![throughput](figures/{name}-throughput.svg)",
                  throughput(found), f"Where a layer's time goes, LION-S, bfloat16, beside the rested floor of its products.\n\n![a layer](figures/{name}-layer.svg)", layer(found), latency(found)]
    if report.fla_ms(found) and report.attention_ms(found):
        parts += ["The attention alone, 12 heads × 64, 65,536 tokens (131,072 for the last).", attention(found)]
    if found.get("documents"):
        parts += [f"Long documents: one row, 12 layers × 768, bfloat16.\n\n![time](figures/{name}-document-time.svg) ![memory](figures/{name}-document-memory.svg)", documents(found)]
    if found.get("images"):
        parts += [f"Image encoders, 12 layers × 768, patches of 16, bfloat16: pictures a second in batches of 50,000 tokens, and the memory that one picture alone takes beside the "
                  f"weights.\n\n![pictures a second](figures/{name}-images-rate.svg) ![memory](figures/{name}-images-memory.svg)", images(found)]
    if found.get("service"):
        parts += ["The service, clients on the same machine.", service(found)]
    if found.get("quality"):
        parts += ["What each precision costs: error on the oracle models, and the demo model's work through the service.", quality(found)]
    return "\n\n".join(parts)


def render():
    """{path: text} of everything that the kept JSONs make."""
    files, chapters, cpu = {}, [], ""
    for path in sorted(FIGURES.glob("*.json")):
        found = json.loads(path.read_text())
        if found.get("kind") == "cpu":
            cpu = cpu_chapter.chapter(found) + "\n\n"
            files |= {FIGURES / name: svg for name, svg in cpu_chapter.figures(found).items()}
            continue
        chapters.append(chapter(found, path.stem))
        if report.run_of(found, "lion-s", "bfloat16"):
            files[FIGURES / f"{path.stem}-throughput.svg"] = plot.throughput(found)
            files[FIGURES / f"{path.stem}-layer.svg"] = plot.layer(found, LAYER_LENGTHS, ONCE_A_BATCH)
        if found.get("documents"):
            files[FIGURES / f"{path.stem}-document-time.svg"] = document_curves(found, "ms", 1, "Milliseconds by tokens")
            files[FIGURES / f"{path.stem}-document-memory.svg"] = document_curves(found, "device_bytes", 1e-9, "GB of device memory by tokens")
        if found.get("images"):
            files[FIGURES / f"{path.stem}-images-rate.svg"] = image_curves(found, "pictures_per_second", 1, "Pictures a second")
            files[FIGURES / f"{path.stem}-images-memory.svg"] = image_curves(found, "row_bytes", 1e-6, "MB of device memory of one picture")
    page = PAGE.read_text()
    for begin, text, end in ((BEGIN, "".join(c + "\n\n" for c in chapters), END), (BEGIN_CPU, cpu, END_CPU)):
        before, rest = page.split(begin)
        page = before + begin + "\n" + text + end + rest.split(end)[1]
    files[PAGE] = page
    return files


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("json", nargs="*", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for path in args.json:
        FIGURES.mkdir(exist_ok=True)
        found = json.loads(path.read_text())
        assert not found["short"], f"{path} is of a shortened run"
        name = "cpu" if found.get("kind") == "cpu" else found["machine"]["gpu"].removeprefix("NVIDIA ").split()[0].lower()
        (FIGURES / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    stale = [str(path.relative_to(ROOT)) for path, text in render().items() if not path.exists() or path.read_text() != text]
    if args.check:
        if stale:
            print("not what bench/write_docs.py makes:", ", ".join(stale))
        return 1 if stale else 0
    for path, text in render().items():
        path.write_text(text)
    print("written:", ", ".join(stale) or "nothing new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
