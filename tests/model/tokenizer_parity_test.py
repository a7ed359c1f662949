# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""lion::Tokenizer gives what the crate's own Python binding gives: ids, type ids, tokens, byte spans, truncation.

Run by ctest, or: LION_TOKENIZE=BUILD/bin/tokenize_for_test build/venv/bin/python -m pytest THIS_FILE
More tokenizer.json files to compare: LION_TOKENIZERS=PATH[:PATH...].
"""

import functools
import gzip
import itertools
import json
import os
import pathlib
import random
import struct
import subprocess
import threading

import pytest
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers)

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("LION_TOKENIZE", str(ROOT / "build/release/bin/tokenize_for_test"))
FILES = [ROOT / "tests/model/testdata/tokenizer.json", ROOT / "demo/model/tokenizer.json"]
FILES += [pathlib.Path(p) for p in os.environ.get("LION_TOKENIZERS", "").split(":") if p]

RIGHT, LEFT = 0, 1
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

# ---------------------------------------------------------------------------------------------------------- tokenizers


def bert() -> Tokenizer:
    return Tokenizer.from_file(str(FILES[0]))


def bert_variant(**parts) -> Tokenizer:
    tokenizer = bert()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return tokenizer


def byte_level_bpe(post_processor, **pre) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**pre)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    tokenizer.train_from_iterator(demo_texts(), trainer)
    tokenizer.post_processor = post_processor
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(),
                                                 normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(demo_texts(), trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return tokenizer


def with_added_tokens() -> Tokenizer:
    tokenizer = bert()
    tokenizer.add_tokens([AddedToken("new york", normalized=True), AddedToken("<x>", lstrip=True, rstrip=True),
                          AddedToken("cat", single_word=True)])
    return tokenizer


def with_added_punctuation() -> Tokenizer:
    tokenizer = bert()
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in ("..", "!#", "#x]", "a.", "[[[[")])
    return tokenizer


def with_added_words() -> Tokenizer:
    tokenizer = bert()
    tokenizer.add_tokens([AddedToken(content, normalized=False, single_word=True) for content in ("server", "#", "_a")])
    return tokenizer


def with_file_limits() -> Tokenizer:
    tokenizer = bert()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    return tokenizer


# Between them: text cut into pieces and whole, spans moved by the post-processor or not, special tokens or none.
MADE = {
    "no-post-processor": lambda: bert_variant(post_processor=None),
    "bert-processing": lambda: bert_variant(post_processor=processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))),
    "pair-b-first": lambda: bert_variant(post_processor=processors.TemplateProcessing(
        single="$A:3 [SEP]:2", pair="[CLS] $B:1 [SEP]:1 $A:0 [SEP]:5", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])),
    "cased": lambda: bert_variant(normalizer=normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)),
    "nfkd-sequence": lambda: bert_variant(
        normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(),
                                               pre_tokenizers.Digits(individual_digits=True)])),
    "nfc-whitespace": lambda: bert_variant(normalizer=normalizers.NFC(), pre_tokenizer=pre_tokenizers.Whitespace()),
    # NFC makes one letter of "=" and a stroke, which BERT's pre-tokenizer does not take for punctuation.
    "nfc-bert": lambda: bert_variant(normalizer=normalizers.NFC()),
    "bert-digits": lambda: bert_variant(pre_tokenizer=pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)])),
    "accents-kept": lambda: bert_variant(normalizer=normalizers.BertNormalizer(strip_accents=False, lowercase=True)),
    "no-normalizer": lambda: bert_variant(normalizer=None),
    "no-pre-tokenizer": lambda: bert_variant(pre_tokenizer=None),
    "added-tokens": with_added_tokens,
    "added-punctuation": with_added_punctuation,
    "added-words": with_added_words,
    "file-limits": with_file_limits,
    "roberta": lambda: byte_level_bpe(processors.RobertaProcessing(("</s>", 1), ("<s>", 0)), add_prefix_space=True),
    "roberta-untrimmed": lambda: byte_level_bpe(
        processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=False, add_prefix_space=False),
        add_prefix_space=False),
    "byte-level": lambda: byte_level_bpe(processors.ByteLevel(trim_offsets=True), add_prefix_space=False),
    "byte-level-template": lambda: byte_level_bpe(processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1",
                                      special_tokens=[("<s>", 0), ("</s>", 1)])]), add_prefix_space=True),
    "unigram": unigram,
}

# --------------------------------------------------------------------------------------------------------------- texts


@functools.cache
def demo_texts() -> list[str]:
    texts = [
        "Python is a programming language that lets you work quickly.",
        "hello world, the quick brown fox jumps over the lazy dog",
        "A linear attention server: one token, two tokens, three files!",
    ]
    for path in sorted((ROOT / "demo/texts").glob("*")):
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        if ".jsonl" in path.name:
            rows = [json.loads(line) for line in text.splitlines()[:100]]
            texts += [value for row in rows for value in row.values() if isinstance(value, str)]
        else:
            texts.append(text)
    return texts


def noise(seed: int, characters: int) -> str:
    """Every kind of character, surrogates excepted, with words and white space among them."""
    rng = random.Random(seed)
    ranges = [(0x00, 0x7F), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0x97F),
              (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x214F), (0x3000, 0x30FF),
              (0x4E00, 0x4E80), (0xAC00, 0xAC80), (0xF900, 0xFAFF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
              (0x1D400, 0x1D44F), (0x1F300, 0x1F6FF), (0x2F800, 0x2F81F), (0xE0000, 0xE007F), (0x10FFF0, 0x10FFFF)]
    words = ["the", "server", "[SEP]", "[CLS]", "<s>", "new york", "cat", "Café", "naïve", "İstanbul", "ﬁle", "x" * 120]
    out, length = [], 0
    while length < characters:
        kind = rng.random()
        if kind < 0.25:
            piece = rng.choice(words)
        elif kind < 0.55:
            piece = rng.choice(["  ", " ", " ", " ", "\n", "\t", "\r\n", "\u00a0", "\u2003", "\u200b", "\u0301", " \u0301"])
        else:
            piece = "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 6)))
        out.append(piece)
        length += len(piece)
    return "".join(out)


def unbroken(seed: int, size: int, pieces: list[str]) -> str:
    """At least `size` bytes of these at random, nothing between them."""
    rng = random.Random(seed)
    out, length = [], 0
    while length < size:
        out.append(rng.choice(pieces))
        length += len(out[-1].encode())
    return "".join(out)


SHORT = {
    "empty": "",
    "space": " ",
    "blank": " \t\r\n\u00a0\u2003\u3000 ",
    "one": "a",
    "padded": "  hello  world  ",
    "punctuation": "?!... (a) [b] {c} <d> \"e\" 'f' #g $h %i &j *k ~l ^m `n` \\o/ |p|",
    "accents": "Élève naïve, Ångström, São Tomé, Việt Nam, ǅ ǆ, ß ẞ, İ ı, ŉ",
    "combining": "e\u0301 a\u0308\u0304 o\u0323\u0302 \u0301alone q\u0307\u0323 q\u0323\u0307 \u1100\u1161\u11a8",
    "compatibility": "ﬁ ﬀ ½ ² ㎏ Ⅷ ﷺ ℌ 𝔾𝕠𝕠𝕕 ｆｕｌｌ",
    "chinese": "你好，世界！这是一个测试。漢字かな交じり文 日本語",
    "chinese-mixed": "linear 注意 server你好world 𠀀𪜀 豈",
    "korean": "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "right-to-left": "שלום עולם مرحبا بالعالم\u200f \u202eabc\u202c العربية ١٢٣",
    "indic": "नमस्ते दुनिया क्‍ष ক্ষ தமிழ் ไทย สวัสดี",
    "cyrillic-greek": "Привет, мир! Ёлка й Γειά σου Κόσμε ΌΣΟΣ",
    "emoji": "😀😂 👍🏽 👨‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ☺︎ 🏳️‍🌈 1️⃣",
    "zero-width": "a\u200bb a\u200cb a\u200db a\u2060b \ufeffstart a\u00adb",
    "controls": "".join(map(chr, range(0x20))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))) + "end",
    "nul": "a\0b \0 \0\0c",
    "only-nul": "\0\0\0",
    "replacement": "a\ufffdb \ufffd",
    "unassigned": "\u0378 \ue000 \U000f0000 \U0010ffff \ufdd0 \uffff",
    "special-tokens": "[CLS] hello [SEP] world[SEP][MASK]x [sep] <s> a</s> [UNK][PAD]",
    "added-tokens": "I love New York and new  york, <x> a  <x>  cat cats concat",
    "unknown": "ꙮ ☃ ⁂ hello☃world",
    "long-word": "x" * 5000 + " " + "é" * 3000 + " hello" * 3 + "un" * 60,
    "hundred": "a" * 100 + " " + "a" * 101 + " " + "e\u0301" * 60,
    "newlines": "one\ntwo\r\nthree\rfour\u2028five\u2029six\x0bseven\x0ceight\x85nine",
}


@functools.cache
def long_texts() -> dict[str, str]:
    hundred_kb = ("The quick brown fox, 1,234 tokens of naïve text; 你好 😀. " * 2000).encode()[:100_000].decode(errors="ignore")
    return {
        "100-kB": hundred_kb,
        "100-kB-one-line-each": hundred_kb.replace(" ", "\n"),
        "100-kB-no-space": hundred_kb.replace(" ", ""),
        "100-kB-blank": " \n" * 50_000,
        "100-kB-word": "word" * 25_000,
        "100-kB-controls": "\x01a\0 " * 25_000,
        "special-tokens": "[SEP] [CLS]x " * 15_000,
        # Several pieces (64 KiB each), cut wherever the white space happens to be.
        **{f"noise-{seed}": noise(seed, 80_000) for seed in range(3)},
        # No white space: cut at punctuation and ideographs, but not inside an added token.
        "dots": "." * 150_000,
        "brackets": "a" + "[" * 70_000 + "]" * 70_000,
        "added-tokens": "x[MASK]" * 20_000,
        "almost-added-tokens": "K][MASK" * 20_000,
        "unbroken-marks": unbroken(
            1, 150_000, [".", ",", "!", "[MASK]", "[", "]", "#", "x", "_a", "MASK]", "server", "Σ"]),
        "unbroken-combining": unbroken(
            2, 150_000, ["=", "\u0338", ".", "\u0301", "\u0323", "e", "É", "\0", "\x0b", "\u200d"]),
        "unbroken-scripts": unbroken(
            3, 150_000, ["、", "。", "！", "«", "\u3000", "\u00a0", "\u2028", "؟", "।", "word", "слово", "\x85", "\x0c",
                         "\u0301", "\u093c", "\u037e", "\u2329"]),
        "han": unbroken(4, 150_000, [chr(c) for c in range(0x4E00, 0x5200)]),
        "han-punctuated": unbroken(
            5, 150_000, [*"你好世界这是一个测试，。！", "\u0301", "豈", "𠀀", "\U0002f800", "\ufada", "A", "[SEP]"]),
        # Many parts (128 KiB each) for many threads.
        "noise-parts": noise(7, 300_000),
        # One word of more than 128 KiB: its middle is not looked at where it can only be unknown.
        "giant-word": "so: " + "x" * 300_000 + " it is",
        "giant-letters": "so, it is " + unbroken(
            8, 300_000, ["a", "Z", "7", "é", "Ж", "е\u0301", "가", "ก", "\u0e31", "ß", "İ", "ǅ", "ﬁ", "½", "\u0323"]) + "! Or not.",
        "giant-mixed": "[MASK]" + unbroken(
            9, 300_000, ["a" * 4000, "é" * 4000, "\u0301" * 9000, "\u200d", "😀", "\0", "한글" * 50_000]) + "\u0301 end",
    }


# ----------------------------------------------------------------------------------------------------------- comparing


class Ours:
    """Our tokenizer in a process of its own."""

    def __init__(self, path):
        self.process = subprocess.Popen([PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def encode(self, texts, max_tokens=0, side=RIGHT):
        request = struct.pack("=III", max_tokens, side, len(texts))
        for text in texts:
            data = text.encode()
            request += struct.pack("=I", len(data)) + data
        self.process.stdin.write(request)
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(60) == 0


class Theirs:
    """The Python binding, its character offsets turned into bytes."""

    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(str(path))

    def encode(self, texts, max_tokens=0, side=RIGHT):
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        if max_tokens:
            self.tokenizer.enable_truncation(max_tokens, direction="left" if side == LEFT else "right")
        encoding = self.tokenizer.encode(*texts)
        to_bytes = [[0, *itertools.accumulate(len(c.encode()) for c in text)] for text in texts]
        spans = [[0, 0] if which is None else [to_bytes[which][start], to_bytes[which][end]]
                 for which, (start, end) in zip(encoding.sequence_ids, encoding.offsets)]
        return {"ids": encoding.ids, "type_ids": encoding.type_ids, "tokens": encoding.tokens, "spans": spans}


class Both:

    def __init__(self, path):
        self.ours, self.theirs = Ours(path), Theirs(path)

    def check(self, texts, max_tokens=0, side=RIGHT):
        ours, theirs = self.ours.encode(texts, max_tokens, side), self.theirs.encode(texts, max_tokens, side)
        assert "error" not in ours, ours
        assert ours["bare_is_equal"]
        assert ours["split_is_equal"]  # the same on many threads
        for key in ("ids", "type_ids", "tokens", "spans"):
            if ours[key] != theirs[key]:  # whole lists would take pytest minutes to print
                at = next((i for i, (a, b) in enumerate(zip(ours[key], theirs[key])) if a != b), "the end")
                near = slice(max(0, at - 3), at + 3) if at != "the end" else slice(-3, None)
                pytest.fail(f"{key} differ at {at}: ours {ours[key][near]}, theirs {theirs[key][near]}; "
                            f"lengths {len(ours[key])} and {len(theirs[key])}")
        if not max_tokens:
            assert ours["untruncated"] == len(ours["ids"])
        return ours


@pytest.fixture(scope="module", params=[*FILES, *MADE], ids=lambda p: p if isinstance(p, str) else str(p.parent.name + "-file"))
def both(request, tmp_path_factory):
    path = request.param
    if isinstance(path, str):
        tokenizer = MADE[path]()
        path = tmp_path_factory.mktemp(path) / "tokenizer.json"
        tokenizer.save(str(path))
    pair = Both(path)
    yield pair
    pair.ours.close()


@pytest.mark.parametrize("name", SHORT)
def test_short(both, name):
    both.check([SHORT[name]])


@pytest.mark.parametrize("name", long_texts())
def test_long(both, name):
    both.check([long_texts()[name]])


def test_demo_texts(both):
    for text in demo_texts():
        both.check([text])


def test_pairs(both):
    names = list(SHORT)
    for first, second in zip(names, names[1:] + names[:1]):
        both.check([SHORT[first], SHORT[second]])
        both.check([SHORT[first], SHORT[first]])
    long = long_texts()
    both.check([long["noise-0"], long["noise-1"]])
    both.check([long["unbroken-marks"], long["han-punctuated"]])


@pytest.mark.parametrize("side", [RIGHT, LEFT], ids=["right", "left"])
def test_truncation(both, side):
    texts = [SHORT[name] for name in ("empty", "one", "padded", "chinese-mixed", "emoji")] + [noise(99, 150)]
    for rows in [[text] for text in texts] + [[a, b] for a in texts for b in texts]:
        full = both.check(rows)
        specials = len(full["ids"]) - sum(map(len, [both.ours.encode([t])["ids"] for t in rows]))
        specials += len(rows) * len(both.ours.encode([""])["ids"])  # each text alone had its own
        for max_tokens in {max(specials, 1), specials + 1, specials + 2, specials + 5, specials + 6, 64}:
            cut = both.check(rows, max_tokens, side)
            assert cut["untruncated"] == len(full["ids"])
            assert len(cut["ids"]) == min(max_tokens, len(full["ids"]))


@pytest.mark.parametrize("side", [RIGHT, LEFT], ids=["right", "left"])
def test_truncation_of_long_texts(both, side):
    # The binding also builds every overflowing part, for a pair every combination of them: gigabytes for longer pairs.
    long, middle, short = long_texts()["noise-2"], noise(98, 1500), noise(99, 600)
    for rows in ([long], [middle, short], [short, middle], [middle, middle[::-1]]):
        full = both.check(rows)
        for max_tokens in (64, 512, 40_001):
            assert both.check(rows, max_tokens, side)["untruncated"] == len(full["ids"])


@pytest.mark.parametrize("side", [RIGHT, LEFT], ids=["right", "left"])
@pytest.mark.parametrize("name", ["unbroken-marks", "han-punctuated"])
def test_truncation_of_unbroken_texts(both, name, side):
    text = long_texts()[name]
    untruncated = len(both.ours.encode([text])["ids"])  # test_long looks at them
    assert both.check([text], 40_001, side)["untruncated"] == untruncated
