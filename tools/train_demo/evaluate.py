# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Judges a model directory on the held-out texts; with --teacher also the teacher, whose recall goes to teacher.json.

    python evaluate.py --model demo/model --texts demo/texts --teacher build/train_demo/teacher

Figures, all from the directory as written (float16 weights, computed in float32):
    recall@1        share of the 2,000 synopses whose nearest description is their own
    accuracy        share of the 2,000 texts whose highest section is the true one
    cosine          between the model's and the teacher's vectors, mean over synopses and over descriptions (--teacher)
    long documents  held-out texts of one section joined to 1,024 … 32,768 tokens, one document a section: the cosine
                    between a document's vector and the token-weighted mean of its parts' vectors, how many documents
                    are nearest to their own mean, and how many get their section
"""

import argparse
import collections
import gzip
import json
import os
import random
import sys

import torch
import torch.nn.functional as F

TOOLS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path += [TOOLS, os.path.join(TOOLS, "train")]

from lion import read_model, run_texts  # noqa: E402
from model_directory.layout import write_json  # noqa: E402


def read_rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def recall_at_1(queries, texts):
    return ((queries @ texts.T).argmax(-1) == torch.arange(len(queries))).float().mean().item()


@torch.no_grad()
def long_documents(model, tokenizer, rows, labels, num_tokens, num_documents=16):
    rng = random.Random(num_tokens)
    device = next(model.parameters()).device
    sections = [s for s, _ in collections.Counter(r["section"] for r in rows).most_common(num_documents)]
    encoded = [e.ids for e in tokenizer.encode_batch([r["text"] for r in rows], add_special_tokens=False)]
    vectors, _ = run_texts(model, tokenizer, [r["text"] for r in rows])
    documents, means, right, largest = [], [], 0, 0.0
    for section in sections:
        pool = [i for i, r in enumerate(rows) if r["section"] == section]
        ids, mean = [tokenizer.token_to_id("[CLS]")], torch.zeros(vectors.shape[1])
        while len(ids) < num_tokens - 1:
            i = rng.choice(pool)
            part = encoded[i][: num_tokens - 1 - len(ids)]
            ids += part
            mean += len(part) * vectors[i]
        ids = torch.tensor([ids + [tokenizer.token_to_id("[SEP]")]], device=device)
        vector, logits = model(ids, torch.ones(ids.shape, device=device))
        if not (torch.isfinite(vector).all() and torch.isfinite(logits).all()):
            raise SystemExit(f"{num_tokens} tokens: a value is not finite")
        right += labels[int(logits[0].argmax())] == section
        largest = max(largest, logits.abs().max().item())
        documents.append(vector[0].cpu()), means.append(F.normalize(mean, dim=-1))
    documents, means = torch.stack(documents), torch.stack(means)
    return {
        "tokens": num_tokens,
        "documents": len(sections),
        "cosine": round((documents * means).sum(-1).mean().item(), 4),
        "nearest_own": round(recall_at_1(documents, means), 4),
        "accuracy": round(right / len(sections), 4),
        "largest_logit": round(largest, 2),
    }


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="demo/model")
    p.add_argument("--texts", default="demo/texts")
    p.add_argument("--teacher", default="", help="teacher directory that prepare_data.py wrote")
    p.add_argument("--long", type=int, nargs="*", default=[1024, 8192, 32768])
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = p.parse_args()
    pairs, sections = read_rows(f"{args.texts}/retrieval.jsonl.gz"), read_rows(
        f"{args.texts}/sections_heldout.jsonl.gz"
    )
    synopses, descriptions = [r["synopsis"] for r in pairs], [r["description"] for r in pairs]

    model, tokenizer = read_model(args.model)
    model.to(args.device)
    labels = [model.config["id2label"][str(i)] for i in range(model.config["num_labels"])]
    queries, texts = (run_texts(model, tokenizer, t)[0] for t in (synopses, descriptions))
    logits = run_texts(model, tokenizer, [r["text"] for r in sections])[1]
    figures = {
        "recall_at_1": round(recall_at_1(queries, texts), 4),
        "accuracy": round(
            sum(labels[i] == r["section"] for i, r in zip(logits.argmax(-1).tolist(), sections)) / len(sections), 4
        ),
        "pairs": len(pairs),
        "texts": len(sections),
    }
    if args.teacher:
        from teacher import Teacher

        teacher = Teacher(args.teacher, args.device, torch.float32)
        t_queries, t_texts = teacher.embed(synopses), teacher.embed(descriptions)
        reference = {
            "model": "all-MiniLM-L6-v2",
            "recall_at_1": round(recall_at_1(t_queries, t_texts), 4),
            "pairs": len(pairs),
        }
        write_json(f"{args.texts}/teacher.json", reference)
        figures["teacher_recall_at_1"] = reference["recall_at_1"]
        figures["recall_ratio"] = round(figures["recall_at_1"] / reference["recall_at_1"], 4)
        figures["cosine_synopses"] = round((queries * t_queries).sum(-1).mean().item(), 4)
        figures["cosine_descriptions"] = round((texts * t_texts).sum(-1).mean().item(), 4)
    print(json.dumps(figures, indent=2), flush=True)
    for num_tokens in args.long:
        print(json.dumps(long_documents(model, tokenizer, sections, labels, num_tokens)), flush=True)


if __name__ == "__main__":
    main()
