# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures come to pixels as by Pillow (which is what torchvision and transformers resize with): photographs that
scikit-image ships, and every odd kind of JPEG, PNG and WebP that Pillow can write.

Run by ctest, or: LION_PREPARE=BUILD/bin/prepare_for_test build/venv/bin/python -m pytest THIS_FILE
"""

import functools
import importlib.util
import io
import json
import os
import pathlib
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("LION_PREPARE", str(ROOT / "build/release/bin/prepare_for_test"))
# Found, not imported: its own dependencies are not installed.
PHOTOGRAPHS = pathlib.Path(importlib.util.find_spec("skimage").origin).parent / "data"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MAX_PIXELS = 4_000_000

# ------------------------------------------------------------------------------------------------------------ the two


@pytest.fixture(scope="module")
def program():
    with subprocess.Popen([PROGRAM, str(MAX_PIXELS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def ask(program, config: str, encoded: bytes):
    """An array, or a str: the error."""
    for block in (config.encode(), encoded):
        program.stdin.write(struct.pack("=I", len(block)) + block)
    program.stdin.flush()
    kind, width, height, size = struct.unpack("=4I", program.stdout.read(16))
    data = program.stdout.read(size)
    if kind == 2:
        return data.decode()
    return np.frombuffer(data, np.uint8).reshape(height, width, 3) if kind == 0 else \
        np.frombuffer(data, np.float32).reshape(3, height, width)


def by_pillow(encoded: bytes) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")


def config(**fields) -> dict:
    return {"do_resize": True, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
            "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": MEAN, "image_std": STD, **fields}


def prepared_by_pillow(picture: Image.Image, fields: dict) -> np.ndarray:
    """transformers' steps, written out: what its image processors do to a PIL image."""
    if fields["do_resize"]:
        size = fields["size"]
        if "shortest_edge" in size:
            edge, (width, height) = size["shortest_edge"], picture.size
            picture = picture.resize((edge, int(edge * height / width)) if width <= height else
                                     (int(edge * width / height), edge), fields["resample"])
        else:
            picture = picture.resize((size["width"], size["height"]), fields["resample"])
    pixels = np.asarray(picture)
    if fields["do_center_crop"]:
        side = fields["crop_size"]["height"]
        out = np.zeros((side, side, 3), np.uint8)
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        rows, columns = pixels.shape[0] - max(top, 0), pixels.shape[1] - max(left, 0)
        rows, columns = min(side - max(-top, 0), rows), min(side - max(-left, 0), columns)
        out[max(-top, 0):max(-top, 0) + rows, max(-left, 0):max(-left, 0) + columns] = \
            pixels[max(top, 0):max(top, 0) + rows, max(left, 0):max(left, 0) + columns]
        pixels = out
    values = pixels.astype(np.float64) * fields["rescale_factor"]
    if fields["do_normalize"]:
        values = (values - np.array(fields["image_mean"])) / np.array(fields["image_std"])
    return values.transpose(2, 0, 1).astype(np.float32)


def check_prepared(program, encoded: bytes, fields: dict, picture: Image.Image):
    got = ask(program, json.dumps(fields), encoded)
    assert not isinstance(got, str), got
    want = prepared_by_pillow(picture, fields)
    assert got.shape == want.shape
    # The same 8-bit samples: values of neighbouring ones are 1 / 255 / std apart, which is 0.017.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- photographs


def photographs():
    return sorted(p for p in PHOTOGRAPHS.iterdir() if p.suffix in (".png", ".jpg"))


def test_there_are_photographs():
    assert len(photographs()) > 20


@pytest.mark.parametrize("path", photographs(), ids=lambda p: p.name)
def test_photograph(program, path):
    encoded = path.read_bytes()
    picture = by_pillow(encoded)
    np.testing.assert_array_equal(ask(program, "", encoded), np.asarray(picture))
    for fields in (config(), config(size={"height": 256, "width": 256}), config(resample=2), config(resample=1),
                   config(size={"height": 224, "width": 224}, do_center_crop=False),
                   config(size={"shortest_edge": 1024}, crop_size={"height": 1024, "width": 1024}),
                   config(size={"shortest_edge": 200})):
        check_prepared(program, encoded, fields, picture)


@functools.cache
def small() -> Image.Image:
    return Image.open(PHOTOGRAPHS / "chelsea.png").convert("RGB").resize((93, 67))


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 700), (224, 224), (256, 256), (257, 255), (255, 1024)])
def test_any_shape_is_resized_alike(program, size):
    picture = small().resize(size)
    encoded = saved(picture, "PNG")
    for fields in (config(), config(size={"height": 31, "width": 47}, crop_size={"height": 40, "width": 40}),
                   config(do_resize=False, crop_size={"height": 97, "width": 97}), config(do_normalize=False)):
        check_prepared(program, encoded, fields, picture)


def test_a_needle_is_prepared_without_being_resized_whole(program):
    # Its shorter side becomes 256, its longer one 256 million pixels, of which the crop needs 224.
    got = ask(program, json.dumps(config()), saved(Image.new("RGB", (1, 1_000_000), (255, 0, 0)), "PNG"))
    np.testing.assert_allclose(got[0], (1 - MEAN[0]) / STD[0], atol=1e-5)
    np.testing.assert_allclose(got[1], -MEAN[1] / STD[1], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- odd kinds


def check_decoded(program, encoded: bytes, want: np.ndarray | None = None):
    got = ask(program, "", encoded)
    assert not isinstance(got, str), got
    np.testing.assert_array_equal(got, np.asarray(by_pillow(encoded)) if want is None else want)
    return got


@pytest.mark.parametrize("options", [
    {}, {"quality": 5}, {"quality": 100}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1},
    {"subsampling": 2}, {"optimize": True}, {"restart_marker_rows": 1}, {"keep_rgb": True}, {"comment": b"x" * 60_000},
    {"icc_profile": b"p" * 200_000}], ids=str)
def test_jpeg(program, options):
    check_decoded(program, saved(small(), "JPEG", **options))


def test_grey_jpeg(program):
    check_decoded(program, saved(small().convert("L"), "JPEG"))


def test_cmyk_jpeg(program):
    got = check_decoded(program, saved(small().convert("CMYK"), "JPEG", quality=95))
    # And it is the picture, not its negative.
    assert np.abs(got.astype(int) - np.asarray(small())).mean() < 6


def ycck(encoded: bytes) -> bytes:
    """The same file, its Adobe marker saying that its first three components are YCbCr."""
    at = encoded.index(b"Adobe")
    return encoded[:at + 11] + b"\x02" + encoded[at + 12:]


def test_ycck_jpeg(program):
    check_decoded(program, ycck(saved(small().convert("CMYK"), "JPEG")))


def test_jpeg_of_two_pictures_gives_the_first(program):
    out = io.BytesIO()
    small().save(out, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    check_decoded(program, out.getvalue())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("options", [{}, {"compress_level": 0}, {"optimize": True}], ids=str)
def test_png(program, mode, options):
    check_decoded(program, saved(small().convert(mode), "PNG", **options))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_png_with_a_small_palette(program, bits):
    picture = small().quantize(2 ** bits)
    check_decoded(program, saved(picture, "PNG", bits=bits))
    check_decoded(program, saved(picture, "PNG", bits=bits, transparency=0))


def test_png_with_transparency(program):
    picture = small().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    check_decoded(program, saved(picture, "PNG"))
    check_decoded(program, saved(small(), "PNG", transparency=(1, 2, 3)))
    check_decoded(program, saved(small().convert("L"), "PNG", transparency=7))


def png(width: int, height: int, bits: int, kind: int, interlaced: int, scanlines: bytes, more: bytes = b"") -> bytes:
    """A PNG file from its (filtered) lines."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)) + \
        more + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("kind,channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_keeps_the_high_byte(program, kind, channels):
    samples = np.random.default_rng(1).integers(0, 65536, (11, 13, channels), dtype=np.uint16)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    high = (samples >> 8).astype(np.uint8)
    want = np.repeat(high[..., :1], 3, 2) if channels < 3 else high[..., :3]
    encoded = png(13, 11, 16, kind, 0, lines)
    check_decoded(program, encoded, want)
    if kind != 0:  # of grey alone Pillow makes something else
        np.testing.assert_array_equal(np.asarray(by_pillow(encoded)), want)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits(program, bits):
    width, height = 13, 11
    samples = np.random.default_rng(2).integers(0, 2 ** bits, (height, width), dtype=np.uint8)
    unpacked = np.unpackbits(samples[..., None], axis=2)[..., 8 - bits:].reshape(height, -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in unpacked)
    check_decoded(program, png(width, height, bits, 0, 0, lines))


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (93, 67)])
def test_interlaced_png(program, size):
    pixels = np.asarray(small().resize(size))
    height, width = pixels.shape[:2]
    lines = b""
    for y, x, down, across in ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
                               (1, 0, 2, 1)):
        if x < width:
            lines += b"".join(b"\0" + row.tobytes() for row in pixels[y::down, x::across])
    check_decoded(program, png(width, height, 8, 2, 1, lines), pixels)


def test_png_whose_text_unpacks_to_gigabytes_is_decoded_without_it(program):
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 7_000_000, 9))
    pixels = np.asarray(small())
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    check_decoded(program, png(93, 67, 8, 2, 0, lines, bomb * 400), pixels)


def test_animated_png_gives_its_first_frame(program):
    check_decoded(program, saved(small(), "PNG", save_all=True, append_images=[Image.new("RGB", small().size)]),
                  np.asarray(small()))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"quality": 1}, {"quality": 100, "method": 6}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_webp(program, mode, options):
    picture = small().convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    check_decoded(program, saved(picture, "WEBP", **options))


def test_animated_webp_gives_its_first_frame(program):
    later = [Image.new("RGB", small().size, (k, 0, 0)) for k in range(3)]
    check_decoded(program, saved(small(), "WEBP", save_all=True, append_images=later, lossless=True),
                  np.asarray(small()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(program, kind, orientation):
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = orientation
    check_decoded(program, saved(small(), kind, exif=exif))


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_cut_short(program, kind):
    encoded = saved(small(), kind, **({"progressive": True} if kind == "JPEG" else {}))
    for size in list(range(0, 64)) + [len(encoded) // 3, len(encoded) // 2, len(encoded) - 13, len(encoded) - 1]:
        got = ask(program, "", encoded[:size])
        assert isinstance(got, str), size
        assert "cut short" in got or "neither JPEG" in got or "is empty" in got, (size, got)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_too_many_pixels_are_seen_in_the_header(program, kind):
    encoded = saved(Image.new("L", (2001, 2000)).convert("RGB"), kind)
    want = "2001 x 2000 pixels, the limit is 4000000 together (max_image_pixels)"
    assert ask(program, "", encoded) == want
    # The rest is not needed for that: what is behind the header is never read.
    assert kind == "WEBP" or ask(program, "", encoded[:700 if kind == "JPEG" else 60]) == want
    assert not isinstance(ask(program, "", saved(Image.new("L", (2000, 2000)).convert("RGB"), kind)), str)


def test_a_bomb_of_a_png_is_refused_by_its_header(program):
    huge = png(2**31 - 1, 2**31 - 1, 16, 6, 1, b"")
    assert ask(program, "", huge) == "2147483647 x 2147483647 pixels, the limit is 4000000 together (max_image_pixels)"


def test_a_progressive_jpeg_with_too_many_scans_is_refused(program):
    encoded = saved(small().convert("L"), "JPEG", progressive=True)
    first = encoded.index(b"\xff\xda")
    second = encoded.index(b"\xff\xda", first + 2)
    scan = encoded[second:encoded.index(b"\xff\xda", second + 2)]
    assert ask(program, "", encoded[:second] + scan * 100 + encoded[second:]) == \
        "this JPEG cannot be decoded: it has more than 64 scans"


def other_kinds():
    yield "a GIF", saved(small(), "GIF")
    yield "a BMP", saved(small(), "BMP")
    yield "a TIFF", saved(small(), "TIFF")
    yield "markup", b"<svg/>"
    yield "a picture in base64", b"iVBORw0KGgo="
    yield "begins with bytes 0102", b"\1\2"


@pytest.mark.parametrize("words,encoded", list(other_kinds()), ids=lambda v: v if isinstance(v, str) else "")
def test_other_kinds_are_named(program, words, encoded):
    got = ask(program, "", encoded)
    assert got.startswith("is neither JPEG, PNG nor WebP: ") and words in got
