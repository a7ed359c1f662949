# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes a model directory of random weights, of BERT base's size unless told otherwise.

    build/venv/bin/python bench/random_model.py DIR [--variant lion-s]
"""

import argparse
import json
import pathlib
import shutil

import numpy as np
import safetensors.numpy


def write(directory, variant="lion-s", layers=12, width=768, heads=12, inner=3072, vocab=30522, gate_bias=-4.0, tokenizer=None, seed=1):
    """The directory, made and filled. No positions; layer_norm_after for lion-lit alone. tokenizer: a tokenizer.json to copy, or None."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    after = variant == "lion-lit"
    tensors = {}

    def linear(name, n, k, bias=0.0):
        tensors[name + ".weight"] = random.standard_normal((n, k), np.float32) / np.float32(np.sqrt(k))
        tensors[name + ".bias"] = np.float32(0.1) * random.standard_normal(n, np.float32) + np.float32(bias)

    def norm(name):
        tensors[name + ".weight"] = 1 + np.float32(0.1) * random.standard_normal(width, np.float32)
        tensors[name + ".bias"] = np.float32(0.1) * random.standard_normal(width, np.float32)

    tensors["bert.embeddings.word_embeddings.weight"] = random.standard_normal((vocab, width), np.float32)
    tensors["bert.embeddings.token_type_embeddings.weight"] = random.standard_normal((2, width), np.float32)
    norm("bert.embeddings.LayerNorm")
    for n in range(layers):
        layer = f"bert.encoder.layer.{n}."
        for part in ("query", "key", "value"):
            linear(layer + "attention.self." + part, width, width)
        if after:
            norm(layer + "attention.self.layer_norm")
        if variant == "lion-s":
            linear(layer + "attention.self.Wa_i", heads, width, gate_bias)
        if variant == "lion-d":
            tensors[layer + "attention.self.ai"] = 2 + random.standard_normal(heads, np.float32)
        linear(layer + "attention.output.dense", width, width)
        norm(layer + "attention.output.LayerNorm")
        linear(layer + "intermediate.dense", inner, width)
        linear(layer + "output.dense", width, inner)
        norm(layer + "output.LayerNorm")
    safetensors.numpy.save_file(tensors, directory / "model.safetensors")
    config = {"model_type": "bert", "arch_type": variant, "layer_norm_after": after, "position_embedding_type": "none", "hidden_act": "gelu",
              "layer_norm_eps": 1e-12, "type_vocab_size": 2, "vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers,
              "num_attention_heads": heads, "intermediate_size": inner, "max_position_embeddings": 512}
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    if tokenizer is not None:
        shutil.copy(tokenizer, directory / "tokenizer.json")
    return directory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--variant", default="lion-s")
    args = parser.parse_args()
    write(args.directory, args.variant)


if __name__ == "__main__":
    main()
