# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The vectors that a student imitates: any sentence-transformers model, run once and kept beside the checkpoint."""

import hashlib
import importlib.util
import os

import numpy as np

PART = 10000  # texts between lines of progress


def find(name):
    """The directory of a teacher: a directory, or a Python package that carries one in its folder `model`."""
    if os.path.isdir(name):
        return name
    spec = importlib.util.find_spec(name.replace("-", "_")) if "/" not in name and "." not in name else None
    for folder in spec.submodule_search_locations or [] if spec else []:
        if os.path.isdir(os.path.join(folder, "model")):
            return os.path.join(folder, "model")
    raise ValueError(f"--teacher={name}: is neither a directory nor an installed package with a folder `model`")


def vectors(name, texts, work, device):
    """Unit vectors (len(texts), W), float16. Read from `work` if the same teacher has run there on the same texts."""
    directory = find(name)
    key = hashlib.sha256(os.path.abspath(directory).encode())
    for text in texts:
        key.update(hashlib.sha256(text.encode()).digest())
    path = os.path.join(work, f"teacher-{key.hexdigest()[:16]}.npy")
    if os.path.exists(path):
        print(f"teacher   {directory}: {len(texts)} vectors read from {path}", flush=True)
        return np.load(path)
    import transformers  # seconds to import: only where it runs
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()
    model = SentenceTransformer(directory, device=str(device), local_files_only=True)
    parts = []
    for begin in range(0, len(texts), PART):
        print(f"teacher   {directory}: {begin} of {len(texts)} texts", flush=True)
        part = model.encode(texts[begin : begin + PART], batch_size=64 if str(device) == "cpu" else 512, normalize_embeddings=True, show_progress_bar=False)
        parts.append(np.asarray(part, dtype=np.float16))
    result = np.concatenate(parts)
    if not np.isfinite(result).all():
        raise ValueError(f"{directory}: the teacher gave a vector that is not finite")
    with open(path + ".new", "wb") as f:
        np.save(f, result)
    os.replace(path + ".new", path)
    return result
