# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks that a model directory means what the training code thinks it means.

    python verify_export.py --model demo/model

An independent reading: config.json and the tensors by name, numpy in float64, and the attention as a bidirectional
recurrence token by token (the training code uses masks and chunks). It shares no code with lion.py, whose float32
result it is compared with; both are judged on the last vector and the logits. Exits 1 if any value differs by more
than --tolerance.
"""

import argparse
import json
import math
import os
import sys

import numpy as np
import torch

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [TOOLS, os.path.join(TOOLS, "train")]

from lion import CHUNK, PARALLEL_MAX, read_model  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

erf = np.vectorize(math.erf)


def recurrent(q, k, v, a):
    """q, k, v (L, D), a (L,) for one head: y_i from two running D×D states."""
    L, D = q.shape
    y = (q * k).sum(-1, keepdims=True) * v
    state = np.zeros((D, D))
    for i in range(1, L):  # Σ_{j<i} (Π_{t=j}^{i-1} a_t) k_j v_jᵀ
        state = a[i - 1] * (state + np.outer(k[i - 1], v[i - 1]))
        y[i] += q[i] @ state
    state = np.zeros((D, D))
    for i in range(L - 2, -1, -1):  # Σ_{j>i} (Π_{t=i+1}^{j} a_t) k_j v_jᵀ
        state = a[i + 1] * state + a[i + 1] * np.outer(k[i + 1], v[i + 1])
        y[i] += q[i] @ state
    return y / math.sqrt(D)


def encode(config, w, dense, ids):
    """(unit vector, logits) of one sequence of token ids, float64."""

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    def norm(x, name, eps):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[name + ".weight"] + w[name + ".bias"]

    H, eps = config["num_attention_heads"], config["layer_norm_eps"]
    x = w["bert.embeddings.word_embeddings.weight"][ids] + w["bert.embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "bert.embeddings.LayerNorm", eps)
    for n in range(config["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{n}."
        q, k, v = (np.split(linear(x, f"{layer}attention.self.{m}"), H, axis=-1) for m in ("query", "key", "value"))
        a = 1 - 1 / (1 + np.exp(-linear(x, layer + "attention.self.Wa_i"))) + 1e-7
        z = np.concatenate([recurrent(q[h], k[h], v[h], np.minimum(a[:, h], 1)) for h in range(H)], axis=-1)
        z = norm(z, layer + "attention.self.layer_norm", 1e-5)
        x = norm(x + linear(z, layer + "attention.output.dense"), layer + "attention.output.LayerNorm", eps)
        z = linear(x, layer + "intermediate.dense")
        z = z * (1 + erf(z / math.sqrt(2))) / 2
        x = norm(x + linear(z, layer + "output.dense"), layer + "output.LayerNorm", eps)
    logits = linear(np.tanh(linear(x[0], "bert.pooler.dense")), "classifier")
    vector = dense["linear.weight"] @ x.mean(0) + dense["linear.bias"]
    return vector / np.linalg.norm(vector), logits


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="demo/model")
    p.add_argument("--tolerance", type=float, default=1e-3)
    args = p.parse_args()
    with open(f"{args.model}/config.json", encoding="utf-8") as f:
        config = json.load(f)
    if (
        config["arch_type"] != "lion-s"
        or not config["layer_norm_after"]
        or config["position_embedding_type"] == "absolute"
    ):
        sys.exit("not a LION-S text model without positions and with layer_norm_after")
    w = {k: v.astype(np.float64) for k, v in load_file(f"{args.model}/model.safetensors").items()}
    dense = {k: v.astype(np.float64) for k, v in load_file(f"{args.model}/2_Dense/model.safetensors").items()}
    model, _ = read_model(args.model)
    rng = np.random.default_rng(0)
    worst = 0.0
    for L in (1, 2, 63, PARALLEL_MAX, PARALLEL_MAX + 1, 4 * CHUNK, 1100):
        ids = rng.integers(5, config["vocab_size"], L)
        vector, logits = encode(config, w, dense, ids)
        with torch.no_grad():
            got = model(torch.from_numpy(ids)[None], torch.ones(1, L))
        error = max(
            np.abs(got[0][0].numpy() - vector).max(), np.abs(got[1][0].numpy() - logits).max() / np.abs(logits).max()
        )
        print(f"{L:5d} tokens: {error:.1e}")
        worst = max(worst, error) if np.isfinite(error) else math.inf
    if not worst <= args.tolerance:
        sys.exit(f"differs by {worst:.1e}, allowed {args.tolerance:.1e}")


if __name__ == "__main__":
    main()
