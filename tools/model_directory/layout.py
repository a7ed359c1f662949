# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""The model directory: Hugging Face's files, and sentence-transformers' pipeline beside them, as the server reads them."""

import contextlib
import json
import os
import shutil
import tempfile

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@contextlib.contextmanager
def new_directory(path):
    """A folder beside path that becomes path when the block ends well; else nothing is left. path must not exist."""
    path = os.path.abspath(path)
    if os.path.exists(path):
        raise FileExistsError(f"{path}: exists already; it is left as it is")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        yield partial
        os.chmod(partial, 0o755)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path, value):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_pipeline(directory, width, pooling, dense_width=0, normalize=False):
    """modules.json and its folders: Pooling ("cls" or "mean") of `width`, Dense if dense_width is not 0, Normalize.

    The weights of Dense, 2_Dense/model.safetensors with linear.weight and linear.bias, are the caller's to write.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    write_json(
        f"{directory}/1_Pooling/config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if dense_width:
        modules.append(("2_Dense", "Dense"))
        write_json(
            f"{directory}/2_Dense/config.json",
            {
                "in_features": width,
                "out_features": dense_width,
                "bias": True,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
        )
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    write_json(
        f"{directory}/modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )


def wordpiece_tokenizer(words, lowercase=True):
    """BERT's WordPiece tokenizer on a vocabulary, a list of words by id. ValueError if it is not one of BERT's."""
    vocabulary = {word: i for i, word in enumerate(words)}
    if len(vocabulary) != len(words):
        twice = next(w for i, w in enumerate(words) if vocabulary[w] != i)
        raise ValueError(f"the vocabulary has {twice!r} twice")
    for token in SPECIAL_TOKENS:
        if token not in vocabulary:
            raise ValueError(f"the vocabulary has no {token}")
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary[t]) for t in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def train_wordpiece(texts, size):
    """A lower-case WordPiece tokenizer of at most `size` pieces, BERT's in all else, from an iterator over texts."""
    tokenizer = wordpiece_tokenizer(list(SPECIAL_TOKENS))
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS), show_progress=False, limit_alphabet=400
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
