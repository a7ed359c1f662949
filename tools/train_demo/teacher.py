# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2, the model that the demo model imitates: mean over a text's first 256 tokens, normalised."""

import json

import torch
import torch.nn.functional as F
from lion import pad
from tokenizers import Tokenizer
from transformers import BertModel, logging

logging.set_verbosity_error()  # else it reports the pooler that we leave out


class Teacher:
    def __init__(self, directory, device, dtype):
        self.device = device
        self.model = BertModel.from_pretrained(directory, dtype=dtype, add_pooling_layer=False).to(device).eval()
        with open(f"{directory}/sentence_bert_config.json", encoding="utf-8") as f:
            self.max_tokens = json.load(f)["max_seq_length"]
        self.tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.width = self.model.config.hidden_size

    @torch.no_grad()
    def run(self, ids, mask):
        """ids (B, L) int64, mask (B, L) float, both on the device. Returns unit vectors (B, 384), float32."""
        x = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        return F.normalize((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)

    def embed(self, texts, batch=64):
        """Unit vectors (len(texts), 384) of texts, float32 on the CPU, in their order."""
        self.tokenizer.enable_truncation(self.max_tokens)
        encoded = [e.ids for e in self.tokenizer.encode_batch(texts)]
        self.tokenizer.no_truncation()
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        result = torch.empty(len(texts), self.width)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            result[rows] = self.run(*(t.to(self.device) for t in pad([encoded[i] for i in rows]))).cpu()
        return result
