# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Writes tokenizer.json beside itself: a small WordPiece tokenizer of BERT's kind, for tests.

    build/venv/bin/python tests/model/testdata/make_tokenizer.py
"""

import pathlib
import string

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = (
    "the a an of to and in is it that for on with as at by from this be are was not or we you he she they what which "
    "server text token tokens sequence linear attention model small large file library package data python program "
    "hello world cat dog sat mat fast slow one two three four five quick brown fox jumps over lazy"
).split()
PIECES = "ing ed er est ly tion s es al able ment ness ful ize en re un".split()
# Letters of other scripts as they are after accents were stripped and case was folded.
LETTERS = "абвгдежзийклмнопрстуфхцчшщъыьэюя" "αβγδεζηθικλμνξοπρσςτυφχψω" "אבגדהוזחטיכלמנסעפצקרשת" "ابتثجحخدذرزسشصضطظعغفقكلمنهوي" "ßøłđæœ"
SYMBOLS = "你好世界中文字的一是不了人我在有他这日本語漢字。，、？！“”‘’…—–€£¥©°·" "😀😂🚀👍❤🔥"


def main() -> None:
    letters = list(string.ascii_lowercase + string.digits + LETTERS)
    vocabulary = SPECIAL + list(string.punctuation) + list(SYMBOLS) + letters
    vocabulary += ["##" + letter for letter in letters] + WORDS + ["##" + piece for piece in PIECES]
    vocabulary = list(dict.fromkeys(vocabulary))

    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(str(pathlib.Path(__file__).with_name("tokenizer.json")))


if __name__ == "__main__":
    main()
