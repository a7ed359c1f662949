# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Image models over the wire: the oracle's numbers from pixels, pictures in files as Pillow prepares them, what is refused, the sample client
over folders, and pictures beside texts on one server."""

import io
import json
import shutil
import subprocess
import threading

import grpc
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import models
import wires
from harness import BINARY, HANG_SECONDS, ORACLE, Server, assert_close, ids_input, pb, refused, text_input, values

NAMES = ("image-lit-normal-pos-mean", "image-decay-normal-nopos-mean", "image-decay-s-nopos-cls", "image-selective-normal-pos-cls",
         "image-selective-s-nopos-mean")
VARIANTS = ("lion-lit", "lion-d", "lion-d-natural", "lion-s", "lion-s-natural")
S, PATCH, TOKENS = 32, 8, 17
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PREPROCESSOR = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"shortest_edge": 36}, "resample": 3,
                "do_center_crop": True, "crop_size": {"height": S, "width": S}, "do_rescale": True, "rescale_factor": 1 / 255,
                "do_normalize": True, "image_mean": MEAN, "image_std": STD}
VISION = "image-selective-s-nopos-mean"  # of any resolution
FORMS = ((pb.COMPUTE_MODE_PARALLEL, 0), (pb.COMPUTE_MODE_CHUNKED, 0), (pb.COMPUTE_MODE_CHUNKED, 5), (pb.COMPUTE_MODE_RECURRENT, 0))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The oracle's image models, which have no preprocessor_config.json; `vision`, which has; and `text`."""
    root = tmp_path_factory.mktemp("models")
    vision = shutil.copytree(ORACLE / VISION, root / "vision")
    (vision / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    with Server([vision, *(ORACLE / name for name in NAMES), f"text={models.with_tokenizer(root / 'text')}"], "--parallel_max_tokens=64",
                "--max_batch_tokens=2048", "--max_image_pixels=1000000", "--max_sequence_tokens=300") as running:
        yield running


def pixels_input(pixels):
    return pb.Input(pixels=pb.PixelTensor(data=np.ascontiguousarray(pixels, "<f4").tobytes()))


def picture(width, height, seed=1):
    """Smooth, so that it survives JPEG, and no two alike."""
    random = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(random).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def prepared(image):
    """By Pillow, for pictures that are wider than high."""
    width, height = image.size
    resized = image.resize((int(36 * width / height), 36), Image.Resampling.BICUBIC)
    left = (resized.size[0] - S) // 2
    cropped = np.asarray(resized.crop((left, 2, left + S, 2 + S)), np.float64)
    return ((cropped / 255 - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)


def embed(server, inputs, model="vision", **fields):
    return server.call("Embed", pb.EmbedRequest(model=model, inputs=inputs, **fields))


@pytest.mark.parametrize("mode,chunk", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits(server, name, mode, chunk):
    data = safetensors.numpy.load_file(ORACLE / name / "expected.safetensors")
    inputs = [pixels_input(p) for p in data["pixel_values"]]
    options = pb.EncodeOptions(mode=mode, chunk_tokens=chunk)
    answer = embed(server, inputs, name, options=options)  # the features are the model's own pooling
    assert [(r.token_count, r.truncated, r.mode) for r in answer.results] == [(TOKENS, False, mode)] * len(inputs)
    assert_close([values(r.vectors[0]) for r in answer.results], data["features"])
    scores = server.call("Classify", pb.ClassifyRequest(model=name, inputs=inputs, options=options, raw_scores=True))
    assert_close([[s.score for s in sorted(r.scores, key=lambda s: s.index)] for r in scores.results], data["logits"])


def test_list_models(server):
    found = {m.name: m for m in server.call("ListModels", pb.ListModelsRequest()).models}
    assert [(found[n].input, found[n].variant, found[n].embedding_dimensions) for n in NAMES] == [("image", v, 48) for v in VARIANTS]
    assert found["text"].input == "text" and not found["text"].HasField("image")
    vision, fixed = found["vision"].image, found["image-lit-normal-pos-mean"].image
    assert (vision.size, vision.patch_size, vision.max_size, vision.size_fixed, vision.channels) == (S, PATCH, 17 * PATCH, False, 3)
    assert (vision.prepared_size, vision.media_types, vision.max_image_pixels) == (S, ["image/jpeg", "image/png", "image/webp"], 1000000)
    assert (fixed.max_size, fixed.size_fixed, fixed.prepared_size, fixed.media_types) == (S, True, 0, [])
    assert found["image-lit-normal-pos-mean"].max_sequence_tokens == TOKENS and found["vision"].max_sequence_tokens == 300


@pytest.mark.parametrize("kind,options,limit", [("PNG", {}, 1e-5), ("WEBP", {"lossless": True}, 1e-5), ("JPEG", {"quality": 95}, 1e-5)])
@pytest.mark.parametrize("size", [(36, 36), (64, 48), (300, 200), (1200, 700)], ids=str)
def test_a_file_is_prepared_as_by_pillow(server, kind, options, limit, size):
    data = encoded(picture(*size), kind, **options)
    as_file, as_pixels = embed(server, [pb.Input(image=data), pixels_input(prepared(Image.open(io.BytesIO(data))))]).results
    np.testing.assert_allclose(values(as_file.vectors[0]), values(as_pixels.vectors[0]), atol=limit)


def test_pixels_of_any_size_that_fits_the_patches(server):
    random = np.random.default_rng(2)
    sizes = (8, 16, 40, 128)
    inputs = [pixels_input(random.standard_normal((3, s, s))) for s in sizes]
    together = embed(server, inputs).results
    assert [r.token_count for r in together] == [1 + (s // PATCH) ** 2 for s in sizes]
    for row, alone in zip(together, inputs):  # the same bits alone
        assert row.vectors[0].values == embed(server, [alone]).results[0].vectors[0].values


@pytest.mark.parametrize("model,content,words", [
    ("vision", pb.Input(image=b""), ["inputs[0].image: is empty"]),
    ("vision", pb.Input(image=b"GIF89a"), ["inputs[0].image: is neither JPEG, PNG nor WebP", "a GIF"]),
    ("vision", pb.Input(image=encoded(picture(64, 48))[:200]), ["inputs[0].image: this PNG cannot be decoded", "cut short"]),
    ("vision", pb.Input(image=encoded(picture(64, 48), "JPEG")[:-50]), ["inputs[0].image: this JPEG cannot be decoded", "cut short"]),
    ("vision", pb.Input(image=encoded(Image.new("1", (1001, 1000)))), ["inputs[0].image: 1001 x 1000 pixels", "1000000", "max_image_pixels"]),
    ("vision", pixels_input(np.zeros((3, 12, 12))), ["inputs[0].pixels.data: ", "S is 12", "patch size 8"]),
    ("vision", pixels_input(np.zeros((3, 144, 144))), ["inputs[0].pixels.data: ", "325 tokens", "300", "max_sequence_tokens"]),
    ("vision", pixels_input(np.full((3, 8, 8), np.nan)), ["inputs[0].pixels.data: ", "value 0 is not finite"]),
    ("vision", pb.Input(pixels=pb.PixelTensor(data=b"12345")), ["inputs[0].pixels.data: 5 bytes"]),
    ("vision", text_input("a cat"), ["inputs[0].text: model vision takes image, not text"]),
    ("vision", ids_input([1]), ["inputs[0].token_ids: model vision takes image, not text"]),
    ("text", pb.Input(image=encoded(picture(64, 48))), ["inputs[0].image: model text takes text, not image"]),
    ("text", pixels_input(np.zeros((3, 8, 8))), ["inputs[0].pixels: model text takes text, not image"]),
    (NAMES[0], pb.Input(image=encoded(picture(64, 48))), ["inputs[0].image: ", "no preprocessor_config.json", "pixels"]),
    (NAMES[0], pixels_input(np.zeros((3, 64, 64))), ["inputs[0].pixels.data: ", "S is 64", "S = 32 only"]),
])
@pytest.mark.parametrize("method,request_type", [("Embed", pb.EmbedRequest), ("Classify", pb.ClassifyRequest)])
def test_refused_by_name(server, method, request_type, model, content, words):
    with refused(grpc.StatusCode.INVALID_ARGUMENT, *words):
        server.call(method, request_type(model=model, inputs=[content]))


def test_a_bad_picture_fails_its_row_alone_and_is_counted(server):
    before = server.metrics()
    rows = embed(server, [pb.Input(image=b"GIF89a"), pb.Input(image=encoded(picture(64, 48)))]).results
    assert rows[0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0] and len(rows[1].vectors) == 1
    after = server.metrics()
    count = 'lion_tokenize_duration_seconds_count{model="vision"}'
    assert after[count] - before.get(count, 0) == 2  # preparing a picture is what tokenizing is to a text
    tokens = 'lion_tokens_total{mode="parallel",model="vision"}'
    assert after[tokens] - before.get(tokens, 0) == TOKENS


@pytest.mark.parametrize("change,words", [
    ({"resample": 5}, ["preprocessor_config.json: resample: 5"]),
    ({"size": 224}, ["preprocessor_config.json: size: 224"]),
    ({"do_pad": True}, ["preprocessor_config.json: do_pad"]),
    ({"crop_size": {"height": 30, "width": 30}}, ["preprocessor_config.json: makes pictures of 30 x 30", "multiples of 8"]),
])
def test_a_preprocessor_that_cannot_be_followed_is_refused_at_load(tmp_path, change, words):
    directory = shutil.copytree(ORACLE / VISION, tmp_path / "vision")
    (directory / "preprocessor_config.json").write_text(json.dumps({**PREPROCESSOR, **change}))
    ended = subprocess.run([str(BINARY), "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0", str(directory)], capture_output=True, text=True,
                           timeout=HANG_SECONDS)
    assert ended.returncode == 2
    assert all(word in ended.stderr for word in words), ended.stderr


# ---------------------------------------------------------------------------------------------- the Open Inference Protocol


def tensor(name, datatype, *shape, **contents):
    made = wires.oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    for kind, elements in contents.items():
        getattr(made.contents, kind).extend(elements)
    return made


def infer(server, made, raw=None, model="vision", **fields):
    """The one output as an array, from typed contents, or from raw ones if those were sent."""
    raws = [] if raw is None else [raw]
    answer = wires.infer(server, wires.oip.ModelInferRequest(model_name=model, inputs=[made], raw_input_contents=raws, **fields))
    flat = answer.outputs[0].contents.fp32_contents if raw is None else np.frombuffer(answer.raw_output_contents[0], "<f4")
    return np.array(flat, np.float32).reshape(answer.outputs[0].shape)


def test_infer_gives_what_embed_and_classify_give(server):
    pixels = np.random.default_rng(3).standard_normal((3, 3, 40, 40)).astype("<f4")
    files = [encoded(picture(64, 48)), encoded(picture(300, 200, 2), "JPEG")]
    by_file = b"".join(len(f).to_bytes(4, "little") + f for f in files)
    scores = {"outputs": [wires.oip.ModelInferRequest.InferRequestedOutputTensor(name="scores")]}
    for inputs, typed, raw in (([pixels_input(p) for p in pixels], {"fp32_contents": pixels.ravel()}, pixels.tobytes()),
                               ([pb.Input(image=f) for f in files], {"bytes_contents": files}, by_file)):
        given = ("image", "BYTES", 2) if "bytes_contents" in typed else ("pixels", "FP32", *pixels.shape)
        vectors = np.array([values(r.vectors[0]) for r in embed(server, inputs).results])
        rows = server.call("Classify", pb.ClassifyRequest(model="vision", inputs=inputs)).results
        logits = np.array([[s.score for s in sorted(r.scores, key=lambda s: s.index)] for r in rows], np.float32)
        np.testing.assert_array_equal(infer(server, tensor(*given, **typed)), vectors)
        np.testing.assert_array_equal(infer(server, tensor(*given), raw), vectors)
        np.testing.assert_array_equal(infer(server, tensor(*given, **typed), **scores), logits)
        np.testing.assert_array_equal(infer(server, tensor(*given), raw, **scores), logits)


@pytest.mark.parametrize("model,made,raw,begins", [
    ("vision", tensor("image", "BYTES", 1, bytes_contents=[b"GIF89a"]), None, "image[0]: is neither JPEG, PNG nor WebP"),
    ("vision", tensor("image", "BYTES", 1, bytes_contents=[encoded(Image.new("1", (1001, 1000)))]), None, "image[0]: 1001 x 1000 pixels"),
    ("vision", tensor("image", "BYTES", 2), (9).to_bytes(4, "little"), "image: element 0 has 9 bytes, of which 0 were sent"),
    ("vision", tensor("pixels", "FP32", 1, 3, 12, 12, fp32_contents=[0] * 432), None, "pixels[0]: S is 12, not a multiple of the patch size 8"),
    ("vision", tensor("pixels", "FP32", 1, 3, 144, 144), bytes(12 * 144 ** 2), "pixels[0]: S is 144, which is 325 tokens, the limit is 300"),
    ("vision", tensor("pixels", "FP32", 1, 3, 8, 8, fp32_contents=[float("inf")] * 192), None, "pixels[0]: value 0 is not finite"),
    ("vision", tensor("pixels", "FP32", 1, 3, 8, 16), bytes(12 * 128), "pixels: shape [1, 3, 8, 16]; it must be (B, 3, S, S)"),
    ("vision", tensor("pixels", "FP32", 1025, 3, 8, 8), b"", "pixels: shape [1025, 3, 8, 8] is 1025 pictures; a call has 1 to 1024 (max_inputs)"),
    ("vision", tensor("text", "BYTES", 1, bytes_contents=[b"a cat"]), None, "text: model vision takes image, not text"),
    ("text", tensor("pixels", "FP32", 1, 3, 8, 8), bytes(768), "pixels: model text takes text, not image"),
    (NAMES[0], tensor("image", "BYTES", 1, bytes_contents=[b"x"]), None, f"image[0]: model {NAMES[0]} has no preprocessor_config.json; send pixels"),
    (NAMES[0], tensor("pixels", "FP32", 1, 3, 8, 8), bytes(768), f"pixels[0]: S is 8; model {NAMES[0]} takes S = 32 only"),
])
def test_infer_refuses_in_its_own_words(server, model, made, raw, begins):
    with refused(grpc.StatusCode.INVALID_ARGUMENT, begins=begins):
        infer(server, made, raw, model)


def test_metadata_shows_the_tensors(server):
    stub = wires.oip_grpc.GRPCInferenceServiceStub(server.channel())

    def inputs(model):
        metadata = stub.ModelMetadata(wires.oip.ModelMetadataRequest(name=model), timeout=HANG_SECONDS)
        return [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]

    assert inputs("vision") == [("image", "BYTES", [-1]), ("pixels", "FP32", [-1, 3, -1, -1])]
    assert inputs(NAMES[0]) == [("pixels", "FP32", [-1, 3, S, S])]  # positions, no preprocessor


# --------------------------------------------------------------------------------------------------------- the sample client


def client(server, *arguments):
    return subprocess.run([str(BINARY.parent / "lion-client"), *map(str, arguments), "--target", server.grpc], capture_output=True, text=True,
                          timeout=HANG_SECONDS)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Two folders deep; with a file that is no picture, and one that only says so."""
    root = tmp_path_factory.mktemp("album")
    (root / "deeper").mkdir()
    (root / "b.PNG").write_bytes(encoded(picture(64, 48, 1)))
    (root / "deeper" / "a.jpg").write_bytes(encoded(picture(64, 48, 2), "JPEG"))
    (root / "c.webp").write_bytes(encoded(picture(64, 48, 3), "WEBP"))
    (root / "notes.txt").write_text("not a picture")
    return root


def test_client_embeds_folders_in_order(server, album, tmp_path):
    ended = client(server, "embed", "--images", album, album / "b.PNG")
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    paths = [album / "b.PNG", album / "c.webp", album / "deeper" / "a.jpg", album / "b.PNG"]
    assert [line["source"] for line in lines] == list(map(str, paths))
    want = embed(server, [pb.Input(image=path.read_bytes()) for path in paths]).results
    for line, row in zip(lines, want):
        np.testing.assert_allclose(line["vector"], values(row.vectors[0]), rtol=1e-6)
    ended = client(server, "embed", "--images", album, "--output", tmp_path / "album.npy")
    assert ended.returncode == 0, ended.stderr
    assert np.load(tmp_path / "album.npy").shape == (3, 48)


def test_client_classifies_pictures(server, album):
    ended = client(server, "classify", "--images", album, "--top_k=1", "--format=csv")
    assert ended.returncode == 0, ended.stderr
    header, *rows = ended.stdout.splitlines()
    assert header == "index,source,token_count,mode,truncated,error,rank,label,label_index,score"
    assert [row.split(",")[1] for row in rows] == [str(album / "b.PNG"), str(album / "c.webp"), str(album / "deeper" / "a.jpg")]


def test_client_shows_what_pictures_a_model_takes(server):
    ended = client(server, "models")
    assert ended.returncode == 0, ended.stderr
    assert "  pictures        jpeg, png, webp of up to 1,000,000 pixels, brought to 32 x 32\n" in ended.stdout
    assert "  pixels          3 x S x S, S = 32 in training, any multiple of 8 up to 136\n" in ended.stdout
    assert "  pictures        no: pixels only" in ended.stdout and "  pixels          3 x S x S, S = 32 only\n" in ended.stdout
    assert "  a connection    up to 4,096 calls at once; " in ended.stdout and "  long rows       up to " in ended.stdout
    shown = {model["name"]: model for model in map(json.loads, client(server, "models", "--format=jsonl").stdout.splitlines())}
    assert shown["vision"]["image"]["prepared_size"] == S and shown["text"]["image"] is None
    assert shown["vision"]["connection_limits"]["max_calls"] == 4096


def test_client_says_which_picture_failed(server, album, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    ended = client(server, "embed", "--images", tmp_path / "broken.png", album / "b.PNG", "--format=csv")
    assert ended.returncode == 1
    assert f"{tmp_path / 'broken.png'}: INVALID_ARGUMENT: " in ended.stderr and "1 of 2 inputs failed" in ended.stderr
    assert ended.stdout.splitlines()[1].startswith(f"0,{tmp_path / 'broken.png'},,,,")
    ended = client(server, "embed", "--images", tmp_path / "none")
    assert ended.returncode == 2 and "none" in ended.stderr
    (tmp_path / "empty").mkdir()
    ended = client(server, "embed", "--images", tmp_path / "empty")
    assert ended.returncode == 2 and "holds no picture" in ended.stderr


# ------------------------------------------------------------------------------------------------------- pictures and texts


def test_pictures_and_texts_on_one_server_are_right_and_neither_starves(server):
    """Callers of both kinds call until every one of them has had its answers: were one kind starved, that would never be."""
    images = [pb.Input(image=encoded(picture(200 + 10 * i, 150, i), kind)) for i, kind in enumerate(["PNG", "JPEG", "WEBP"] * 2)]
    images += [pixels_input(np.random.default_rng(i).standard_normal((3, s, s))) for i, s in enumerate((8, 64, 128))]
    texts = [text_input("the lion is in w1 " * n) for n in (1, 3, 10, 40)] + [ids_input(range(n)) for n in (1, 60, 65, 200)]
    kinds = {"vision": images, "text": texts}
    alone = {model: [values(embed(server, [content], model).results[0].vectors[0]) for content in inputs] for model, inputs in kinds.items()}
    enough, num_callers = 25, 3
    answered = {(model, caller): 0 for model in kinds for caller in range(num_callers)}
    lock = threading.Lock()
    problems = []

    def all_have_enough():
        with lock:
            return bool(problems) or all(n >= enough for n in answered.values())

    def call(model, caller):
        random = np.random.default_rng([caller, len(model)])
        try:
            while not all_have_enough():
                chosen = random.integers(0, len(kinds[model]), random.integers(1, 8))
                rows = embed(server, [kinds[model][i] for i in chosen], model).results
                for i, row in zip(chosen, rows):
                    np.testing.assert_array_equal(values(row.vectors[0]), alone[model][i])
                with lock:
                    answered[model, caller] += 1
        except Exception as problem:  # noqa: BLE001: whatever it is, the test tells it
            with lock:
                problems.append(problem)

    threads = [threading.Thread(target=call, args=key, daemon=True) for key in answered]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_SECONDS)
    assert not problems and all_have_enough(), (problems, answered)
