# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""tools/train with torch: small runs on the CPU, killed and gone on with, whose directories serve what was trained.

Run by tests/clients/run.sh training, in an environment that has torch, sentence-transformers and the wire's stubs.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
for folder in ("tools", "tools/train", "tools/convert_checkpoint", "tools/verify_model", "tests/tools"):
    sys.path.append(str(ROOT / folder))

import checkpoints  # noqa: E402
import lion  # noqa: E402
import plain  # noqa: E402
import sentence_teacher  # noqa: E402
import texts as data  # noqa: E402
import torch_file  # noqa: E402
from model_directory import layout  # noqa: E402

SERVER = ROOT / "build/release/bin/lion-server"
SMALL = ("--layers=2", "--width=32", "--heads=2", "--feed_forward=64", "--vocabulary=200", "--batch=16", "--held_out=0.2", "--report_every=1")
TOPICS = {"games": "chess cards dice puzzle board score", "network": "server router packet proxy socket port", "sound": "music player volume mixer audio tune"}


def command(*arguments):
    return [sys.executable, str(ROOT / "tools/train/train.py"), *map(str, arguments)]


KILLED_AT_STEP_10 = """
import os, runpy, signal, sys
import torch

updates = 0
step = torch.optim.AdamW.step

def counted(self, *arguments, **named):
    global updates
    updates += 1
    if updates == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments, **named)

torch.optim.AdamW.step = counted
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# One thread: sums are taken in one order, whatever the machine.
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")


def train(*arguments, code=0):
    """What a run prints: standard output, or standard error where it fails as it should."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr if code else done.stdout


def losses(said):
    """{step: loss} of the lines of progress."""
    return {int(step): float(loss) for step, loss in re.findall(r"step +(\d+) of \d+: loss ([\d.]+)", said)}


def held_out(said, figure):
    """The figure on the texts held out, after the training."""
    return float(re.search(rf"held out +{figure} (-?[\d.]+).* on \d+ texts, after", said)[1])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """(lines.txt, labelled.tsv): 150 short texts of three topics."""
    tmp, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(1)
    rows = []
    for i in range(150):
        topic = list(TOPICS)[i % 3]
        words = [*rng.choice(TOPICS[topic].split(), 4), *rng.choice(["a", "the", "for", "with"], 3)]
        rng.shuffle(words)
        rows.append((topic, " ".join(words)))
    (tmp / "lines.txt").write_text("".join(f"{text}\n" for _, text in rows))
    (tmp / "labelled.tsv").write_text("".join(f"{topic}\t{text}\n" for topic, text in rows))
    return tmp / "lines.txt", tmp / "labelled.tsv"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, corpus):
    """A sentence-transformers directory with random weights: BERT, mean, normalise; 24 wide."""
    directory = tmp_path_factory.mktemp("teacher")
    tokenizer = layout.train_wordpiece(corpus[0].read_text().splitlines(), 150)
    tokenizer.save(str(directory / "tokenizer.json"))
    torch.manual_seed(1)
    config = transformers.BertConfig(vocab_size=150, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, max_position_embeddings=64)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
                                         mask_token="[MASK]", model_max_length=64).save_pretrained(directory)
    layout.write_pipeline(directory, 24, "mean", normalize=True)
    layout.write_json(f"{directory}/sentence_bert_config.json", {"max_seq_length": 64, "do_lower_case": False})
    return directory


def verify(directory):
    """The directory through the server, against the plain implementation."""
    done = subprocess.run([sys.executable, ROOT / "tools/verify_model/verify.py", directory, f"--server={SERVER}", "--lengths=1,30,80"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------------------------------------------ runs


def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, corpus):
    layout.train_wordpiece(corpus[0].read_text().splitlines(), 200).save(str(tmp_path / "tokenizer.json"))
    flags = ("classify", f"--texts={corpus[1]}", f"--tokenizer={tmp_path / 'tokenizer.json'}", "--variant=lion-d", "--steps=16", "--warmup=4",
             "--save_every=4", *SMALL)
    whole = train(*flags, f"--out={tmp_path / 'whole'}", f"--work={tmp_path / 'work-whole'}")

    # The same program, which a SIGKILL ends between two checkpoints, in the middle of step 10.
    cut = (*flags, f"--out={tmp_path / 'cut'}", f"--work={tmp_path / 'work-cut'}")
    killed = [sys.executable, "-c", KILLED_AT_STEP_10, *command(*cut)[1:]]
    done = subprocess.run(killed, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "cut").exists()
    after = train(*cut)
    assert "resumed" in after and "at step 8\n" in after
    everything = losses(whole)
    assert list(everything) == list(range(1, 17))
    assert losses(done.stdout) == {k: v for k, v in everything.items() if k <= 9}
    assert losses(after) == {k: v for k, v in everything.items() if k > 8}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()

    other = train(*cut[:-2], f"--work={tmp_path / 'work-cut'}", f"--out={tmp_path / 'other'}", "--seed=2", code=1)
    assert "another --seed" in other
    assert "exists already" in train(*cut, code=1)


def test_a_classifier_learns_and_serves(tmp_path, corpus):
    said = train("classify", f"--texts={corpus[1]}", "--variant=lion-lit", "--steps=60", "--warmup=5", "--rate=3e-3", f"--out={tmp_path / 'out'}", f"--work={tmp_path}/work", *SMALL)
    assert held_out(said, "accuracy") > 0.9 and re.search(r", that of always '(games|network|sound)' 0\.\d{4} on ", said)
    assert "logits" in verify(tmp_path / "out")
    model, tokenizer = lion.read_model(tmp_path / "out")
    _, logits = lion.run_texts(model, tokenizer, ["a puzzle with dice", "the router and its port"])
    assert [model.config["id2label"][str(i)] for i in logits.argmax(-1).tolist()] == ["games", "network"]


def test_a_student_comes_near_its_teacher(tmp_path, corpus, teacher):
    said = train("distill", f"--texts={corpus[0]}", f"--teacher={teacher}", "--steps=40", "--warmup=5", "--rate=3e-3",
                 f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", *SMALL)
    steps = losses(said)
    assert steps[40] < steps[1] / 2
    assert held_out(said, "cosine") > 0.8
    assert "vector" in verify(tmp_path / "out")


def test_the_teachers_vectors_are_kept(tmp_path, teacher, capsys):
    texts = ["chess and dice", "a router", "music"]
    first = sentence_teacher.vectors(str(teacher), texts, tmp_path, "cpu")
    assert first.shape == (3, 24)
    np.testing.assert_allclose(np.linalg.norm(first.astype(float), axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(sentence_teacher.vectors(str(teacher), texts, tmp_path, "cpu"), first)
    assert "3 vectors read from" in capsys.readouterr().out
    with pytest.raises(ValueError, match="neither a directory nor an installed package"):
        sentence_teacher.find("no_such_teacher")


def test_a_converted_checkpoint_is_fine_tuned(tmp_path, corpus):
    tree = checkpoints.composer(checkpoints.text_weights("lion-d", head="mlm"), {"arch_type": "nova"}, checkpoints.vocabulary())
    checkpoints.write_torch(tmp_path / "mlm.pt", tree)
    convert = [sys.executable, ROOT / "tools/convert_checkpoint/convert.py", tmp_path / "mlm.pt", f"--out={tmp_path / 'encoder'}"]
    subprocess.run(convert, check=True, capture_output=True)
    said = train("classify", f"--texts={corpus[1]}", f"--init={tmp_path / 'encoder'}", "--steps=5", f"--out={tmp_path / 'out'}", f"--work={tmp_path}/work", *SMALL)
    assert "new: bert.pooler.dense.weight, bert.pooler.dense.bias, classifier.weight, classifier.bias; unused: none" in said
    assert "logits" in verify(tmp_path / "out")


def test_a_file_without_labels_is_refused_in_one_line(tmp_path, corpus):
    error = train("classify", f"--texts={corpus[0]}", "--steps=1", f"--out={tmp_path / 'out'}", f"--work={tmp_path / 'work'}", code=1)
    assert error == f"train.py: {corpus[0]}:1: is not a label, a tab and a text\n"
    assert not (tmp_path / "out").exists()


def test_texts_that_cannot_be_learned_from(tmp_path):
    path = tmp_path / "texts"
    for text, read, complaint in (("a\tone\na\ttwo\n", data.read_labelled, "has 1 different labels"), ("one\n\n", data.read_lines, "has 1 lines with a text")):
        path.write_text(text)
        with pytest.raises(ValueError, match=complaint):
            read(path)
    with pytest.raises(ValueError, match="leaves no text"):
        data.split(["a", "b"], 1)


# ---------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("variant, after", [("lion-lit", True), ("lion-d", True), ("lion-d", False), ("lion-s", True), ("lion-s", False)])
def test_what_trains_is_what_plain_computes(tmp_path, variant, after):
    torch.manual_seed(3)
    config = lion.new_config(["a", "b"], 200, 0.0, variant, layers=2, width=32, heads=4, feed_forward=64) | {"layer_norm_after": after}
    model = lion.LionTextModel(config, 16).eval()
    lion.write_model(model, layout.wordpiece_tokenizer(list(layout.SPECIAL_TOKENS)), tmp_path, torch.float32)
    reference, rng = plain.load(tmp_path), np.random.default_rng(4)
    rows = [rng.integers(0, 200, n) for n in (1, 30, lion.PARALLEL_MAX + 5)]
    vectors, logits = lion.run_ids(model, [r.tolist() for r in rows])
    for row, vector, logit in zip(rows, vectors, logits):
        wanted = reference.run((row, np.zeros(len(row), dtype=int)))
        np.testing.assert_allclose(vector.numpy(), wanted["vector"], atol=2e-5)
        np.testing.assert_allclose(logit.numpy(), wanted["logits"], atol=2e-5)


def test_batches_hold_every_row_once_an_epoch_and_depend_on_the_step_alone():
    rng = np.random.default_rng(5)
    encoded = [[7] * n for n in rng.integers(1, 40, 101)]
    rows = np.arange(101)

    def make():
        return data.Batches(encoded, rows, 8, 100, seed=6)

    first, seen, step = make(), [], 0
    drawn = []
    while len(seen) < 202:
        drawn.append(first.rows(step))
        assert len(drawn[-1]) == 1 or (len(drawn[-1]) <= 8 and len(drawn[-1]) * max(len(encoded[i]) for i in drawn[-1]) <= 100)
        seen += drawn[-1].tolist()
        step += 1
    assert sorted(seen[:101]) == sorted(seen[101:]) == rows.tolist()
    assert seen[:101] != seen[101:]
    for late in (0, 5, step - 1):
        np.testing.assert_array_equal(make().rows(late), drawn[late])


def test_split_puts_equal_texts_on_one_side():
    texts = [f"text {i % 40}" for i in range(200)]
    learned, held_out = data.split(texts, 0.3)
    assert sorted([*learned, *held_out]) == list(range(200))
    assert not {texts[i] for i in learned} & {texts[i] for i in held_out}


# ------------------------------------------------------------------------------------------------- torch's own file format


def test_the_converter_reads_what_torch_saves(tmp_path):
    torch.manual_seed(7)
    base = torch.randn(6, 8)
    layer = torch.nn.Linear(3, 4)
    adam = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    tree = {
        "model": layer.state_dict() | {
            "view": base[1:5, 2:7:2], "turned": base.T, "half": base.half(), "brain": base.bfloat16(), "whole": torch.arange(5),
            "flag": torch.tensor([True, False]), "scalar": torch.tensor(2.5, dtype=torch.float64), "none": torch.empty(0, 3), "parameter": layer.weight,
        },
        "optimizer": adam.state_dict(), "rng": torch.get_rng_state(), "numpy": np.random.RandomState(1).get_state(), "size": base.size(),
    }  # fmt: skip
    torch.save(tree, tmp_path / "real.pt")
    read, skipped = torch_file.load(str(tmp_path / "real.pt"))
    assert not skipped
    assert read["size"] == (6, 8)
    assert read["model"].keys() == tree["model"].keys()
    for name, tensor in tree["model"].items():
        assert read["model"][name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(read["model"][name].values(np.float64), tensor.detach().double().numpy())
    np.testing.assert_array_equal(read["optimizer"]["state"][0]["exp_avg"].read(), adam.state_dict()["state"][0]["exp_avg"].numpy())


def test_torch_reads_what_the_tests_write(tmp_path):
    weights = checkpoints.text_weights("lion-s", head="classifier")
    checkpoints.write_torch(tmp_path / "made.pt", checkpoints.composer(weights))
    checkpoints.write_torch(tmp_path / "image.pt", checkpoints.deit(checkpoints.image_weights("Decay"), input_size=32))
    made = torch.load(tmp_path / "made.pt", weights_only=False, map_location="cpu")["state"]["model"]
    assert set(made) == {f"model.{k}" for k in weights}
    for name, array in weights.items():
        np.testing.assert_array_equal(made[f"model.{name}"].numpy(), array)
    image = torch.load(tmp_path / "image.pt", weights_only=False, map_location="cpu")
    assert image["args"].input_size == 32 and image["model"]["module.cls_token"].shape == (1, 1, checkpoints.WIDTH)


def test_the_vocabulary_is_berts(tmp_path):
    """transformers' own BERT tokenizer on the same vocab.txt gives the same ids."""
    words = checkpoints.vocabulary()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    theirs = transformers.BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    ours = layout.wordpiece_tokenizer(words)
    for text in ("Lions SERVE", "naïve café", "a-b_c. 日本 x", "", "[MASK] lion", "w12 \t\n w3"):
        assert ours.encode(text).ids == theirs(text)["input_ids"], text
    assert isinstance(ours, Tokenizer)
