# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""What the CUDA engine is compared with, on the same GPU: throughput of others at BERT base's size, random weights, bfloat16.

    python3 bench/peers/cuda_peers.py --json peers.json [--only bert,plain,fla] [--compile] [--short]

bert    Hugging Face's BertModel, scaled-dot-product attention: eager at every length, the best of several batch sizes, positions
        raised to the length; with --compile also torch.compile's at 128; one text of 128 alone, eager and as a CUDA graph
plain   LION-S as the paper's formula has it: M built whole, two products around it, plain torch operations
fla     flash-linear-attention's chunk_simple_gla, the attention alone, run twice, since it has one direction and LION has two

Needs torch with CUDA, transformers, flash-linear-attention; no network. Every figure is the median of at least 5 runs. Checked, each
against something slower: bert's vectors against fp32 without the fused attention, plain's M against the product that defines it,
fla's two directions together against the plain form. Exits 1 if one errs by more than its precision explains.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

LENGTHS = [128, 512, 2048, 8192, 32768, 131072]
PLAIN_LENGTHS = [128, 512, 2048, 8192]
BATCH_TOKENS = [16384, 65536, 262144]
RELATIVE_ERROR = 2**-6  # rms over rms, of bfloat16 against fp32 after a few layers: a rounding is 2^-9
REPEATS = 5


def milliseconds(run, repeats=REPEATS, warm=2):
    """The median over repeats of the time that run takes on the GPU."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def latency(run, repeats=200):
    """The median over repeats of the time until the answer of run is on the host."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[repeats // 10 :])


def relative_error(actual, expected):
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


class Checks:
    """The answers' errors; a NaN fails."""

    def __init__(self):
        self.found, self.failed = {}, 0

    def add(self, name, error, limit=RELATIVE_ERROR):
        good = error <= limit
        self.found[name] = {"relative_error": error, "limit": limit}
        self.failed += not good
        print(f"  check: {name}: relative error {error:.2g}, allowed {limit:.2g}{'' if good else ' FAILED'}", flush=True)


def best_batch(make_run, length, candidates, vocab, device):
    """The tokens a second of the best batch size, and that size in rows. make_run(ids) gives what is timed."""
    best = None
    for rows in sorted({max(1, tokens // length) for tokens in candidates}):
        ids = torch.randint(vocab, (rows, length), device=device)
        try:
            taken = milliseconds(make_run(ids))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rate = rows * length / taken * 1e3
        if best is None or rate > best[0]:
            best = (rate, rows)
    torch.cuda.empty_cache()
    return best


# ----------------------------------------------------------------------------------------------------------------- bert


def bert(args, checks):
    import transformers

    def build(length, dtype, attention, layers=args.layers):
        torch.manual_seed(1)
        config = transformers.BertConfig(num_hidden_layers=layers, max_position_embeddings=length)
        config._attn_implementation = attention
        return transformers.BertModel(config, add_pooling_layer=False).to(args.device, dtype).eval()

    found = {"transformers": transformers.__version__, "lengths": []}
    vocab = transformers.BertConfig().vocab_size
    for length in args.lengths:
        model = build(length, torch.bfloat16, "sdpa")
        if length == args.lengths[0]:
            ids = torch.randint(vocab, (3, length), device=args.device)
            wide = build(length, torch.float32, "eager")
            checks.add("bert", relative_error(model(ids).last_hidden_state, wide(ids).last_hidden_state), 2 * RELATIVE_ERROR)
        rate, rows = best_batch(lambda ids: lambda: model(ids), length, args.batch_tokens, vocab, args.device)
        found["lengths"].append({"length": length, "rows": rows, "tokens_per_second": rate})
        print(f"  bert {length:7}: {rate / 1e6:.3f} Mtok/s, best batch {rows} rows", flush=True)
        if length == 128:
            alone = torch.randint(vocab, (1, length), device=args.device)
            found["latency_128"] = {"eager_ms": latency(lambda: model(alone).last_hidden_state.mean(1).cpu())}
            found["latency_128"]["graph_ms"] = graph_latency(model, alone)
            print(f"  bert, one text of 128: {found['latency_128']}", flush=True)
            if args.compile:
                compiled = torch.compile(model, dynamic=False)
                ids = torch.randint(vocab, (rows, length), device=args.device)
                started = time.perf_counter()
                found["compiled_128"] = rows * length / milliseconds(lambda: compiled(ids)) * 1e3
                print(f"  bert {length:7}, compiled in {time.perf_counter() - started:.0f} s: {found['compiled_128'] / 1e6:.3f} Mtok/s", flush=True)
        del model
        torch.cuda.empty_cache()
    return found


def graph_latency(model, ids):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            model(ids).last_hidden_state.mean(1)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = model(ids).last_hidden_state.mean(1)

    def run():
        graph.replay()
        out.cpu()

    return latency(run)


# ---------------------------------------------------------------------------------------------------------------- plain


def mask(log_a):
    """M (…, L, L) of log a (…, L), in its type: M_ij is the product of a over [j, i) below the diagonal, over (i, j] above it."""
    after = log_a.cumsum(-1)
    before = after - log_a
    i = torch.arange(log_a.shape[-1], device=log_a.device)
    below = i.unsqueeze(1) > i.unsqueeze(0)
    return torch.where(below, before.unsqueeze(-1) - before.unsqueeze(-2), after.unsqueeze(-2) - after.unsqueeze(-1)).exp_()


def plain_attention(q, k, v, log_a):
    """y (B, H, L, D) of q, k, v in one type and log a (B, H, L) in fp32: M and its product with the scores are fp32."""
    scores = q @ k.transpose(-1, -2)
    return ((scores * mask(log_a)).mul_(q.shape[-1] ** -0.5)).to(v.dtype) @ v


class PlainLionS(torch.nn.Module):
    """LION-S without positions and without layer_norm_after, in the parallel form. Gates are fp32."""

    def __init__(self, layers=12, width=768, heads=12, inner=3072, vocab=30522):
        super().__init__()
        self.heads = heads
        self.words = torch.nn.Embedding(vocab, width)
        self.norm = torch.nn.LayerNorm(width, eps=1e-12)
        self.layers = torch.nn.ModuleList()
        for _ in range(layers):
            layer = torch.nn.Module()
            layer.qkv = torch.nn.Linear(width, 3 * width)
            layer.gates = torch.nn.Linear(width, heads)
            torch.nn.init.constant_(layer.gates.bias, -4)
            layer.out, layer.up, layer.down = torch.nn.Linear(width, width), torch.nn.Linear(width, inner), torch.nn.Linear(inner, width)
            layer.attention_norm, layer.output_norm = torch.nn.LayerNorm(width, eps=1e-12), torch.nn.LayerNorm(width, eps=1e-12)
            self.layers.append(layer)
        for module in self.modules():  # as BERT is initialised
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                torch.nn.init.normal_(module.weight, std=0.02)

    def rounded(self):
        """Itself in bfloat16, but for the gates."""
        self.to(torch.bfloat16)
        for layer in self.layers:
            layer.gates.float()
        return self

    def forward(self, ids):
        rows, length = ids.shape
        x = self.norm(self.words(ids))
        for layer in self.layers:
            q, k, v = layer.qkv(x).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            z = layer.gates(x.float())
            log_a = (torch.sigmoid(-z) + 1e-7).log().clamp_max(0).transpose(1, 2)
            y = plain_attention(q, k, v, log_a).transpose(1, 2).reshape(rows, length, -1)
            x = layer.attention_norm(x + layer.out(y))
            x = layer.output_norm(x + layer.down(F.gelu(layer.up(x))))
        return x


def defined_mask(log_a):
    """M of log a (L), entry by entry."""
    a, length = log_a.double().exp().tolist(), len(log_a)
    return torch.tensor([[math.prod(a[j:i]) if j < i else math.prod(a[i + 1 : j + 1]) for j in range(length)] for i in range(length)])


def plain(args, checks):
    torch.manual_seed(1)
    log_a = F.logsigmoid(torch.randn(70, device=args.device) + 2)
    checks.add("plain: M", relative_error(mask(log_a).cpu(), defined_mask(log_a)), 1e-5)
    # The answers of two layers: random ones amplify a rounding with depth.
    sample = PlainLionS(2).to(args.device).eval()
    ids = torch.randint(30522, (2, 200), device=args.device)
    wide = sample(ids)
    checks.add("plain", relative_error(sample.rounded()(ids), wide), 2 * RELATIVE_ERROR)
    model = PlainLionS(args.layers).to(args.device).eval().rounded()
    found = {"lengths": []}
    for length in [n for n in PLAIN_LENGTHS if n <= max(args.lengths)]:
        # M of all heads in fp32, several times over, must fit; more rows than that are no faster either.
        candidates = [n for n in args.batch_tokens if n <= 65536 and max(n, length) * length * 12 * 4 <= 2**34]
        best = best_batch(lambda ids: lambda: model(ids), length, candidates or [length], 30522, args.device)
        found["lengths"].append({"length": length, "rows": best[1], "tokens_per_second": best[0]})
        print(f"  plain LION-S {length:7}: {best[0] / 1e6:.4f} Mtok/s, best batch {best[1]} rows", flush=True)
    return found


# ------------------------------------------------------------------------------------------------------------------ fla


def fla(args, checks):
    import importlib.metadata

    from fla.ops.simple_gla import chunk_simple_gla

    heads, width, tokens = 12, 64, 65536 if not args.short else 2048
    torch.manual_seed(1)

    def inputs(rows, length):
        q, k, v = (torch.randn(rows, length, heads, width, device=args.device, dtype=torch.bfloat16) for _ in range(3))
        return q, k, v, F.logsigmoid(torch.randn(rows, length, heads, device=args.device) + 4)

    def one_direction(q, k, v, log_a):
        # It multiplies a over (j, i] where LION does over [j, i): its gates are LION's, one token later.
        return chunk_simple_gla(q, k, v, g=F.pad(log_a, (0, 0, 1, -1)))[0]

    def both_directions(q, k, v, log_a):
        flipped = one_direction(*(x.flip(1) for x in (q, k, v, log_a))).flip(1)
        diagonal = (q.float() * k.float()).sum(-1, keepdim=True) * v.float() * width**-0.5  # it is in both
        return one_direction(q, k, v, log_a).float() + flipped.float() - diagonal

    chunk_simple_gla(*inputs(tokens // 512, 512))  # it tunes itself on the first shape that it sees: let that be a large one
    sample = inputs(2, 700)
    heads_first = [x.transpose(1, 2) for x in sample[:3]]
    expected = plain_attention(*(x.double() for x in heads_first), sample[3].double().transpose(1, 2)).transpose(1, 2)
    checks.add("fla", relative_error(both_directions(*sample), expected))

    found = {"flash_linear_attention": importlib.metadata.version("fla-core"), "heads": heads, "head_width": width, "lengths": []}
    for length in args.lengths:
        rows = max(1, tokens // length)
        values = inputs(rows, length)
        packed = [x.reshape(1, rows * length, *x.shape[2:]) for x in values]
        borders = torch.arange(0, rows * length + 1, length, device=args.device)
        host_borders = borders.cpu()

        def twice(values=values):
            for _ in range(2):
                chunk_simple_gla(*values)

        def twice_packed(packed=packed, borders=borders, host_borders=host_borders):
            for _ in range(2):
                chunk_simple_gla(*packed, cu_seqlens=borders, cu_seqlens_cpu=host_borders)

        entry = {"length": length, "rows": rows, "batch_ms": milliseconds(twice, 2 * REPEATS), "packed_ms": milliseconds(twice_packed, 2 * REPEATS)}
        found["lengths"].append(entry)
        print(f"  fla twice, {rows * length} tokens in rows of {length:6}: {entry['batch_ms']:.3f} ms as a batch, {entry['packed_ms']:.3f} ms packed", flush=True)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", required=True)
    parser.add_argument("--only", default="bert,plain,fla")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--compile", action="store_true", help="also BERT compiled by torch.compile, at 128: takes a minute more")
    parser.add_argument("--short", action="store_true", help="two layers, lengths 128 and 512: to see that it runs")
    args = parser.parse_args()
    args.device = "cuda"
    args.layers = 2 if args.short else 12
    args.lengths = [128, 512] if args.short else [int(n) for n in args.lengths.split(",")]
    args.batch_tokens = [2048] if args.short else BATCH_TOKENS
    torch.set_grad_enabled(False)

    import triton

    found = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    checks = Checks()
    for name, measure in (("bert", bert), ("plain", plain), ("fla", fla)):
        if name not in args.only.split(","):
            continue
        started = time.perf_counter()
        found[name] = measure(args, checks)
        print(f"  {name}: {time.perf_counter() - started:.0f} s", flush=True)
        found["checks"] = checks.found
        with open(args.json, "w") as out:  # after each: what is measured outlives a time limit
            json.dump(found, out, indent=1)
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
