# Copyright 2026 The LION Serve Authors
# SPDX-License-Identifier: Apache-2.0
"""Every picture of parity_test.py, prepared by torchvision too: Resize, CenterCrop, ToTensor, Normalize.

Runs parity_test.py, keeps each encoded picture that was decoded there, and compares what the server's code makes of it with
torchvision.transforms on PIL images (which calls Pillow) and with torchvision.transforms.v2 on tensors, antialias=True. Prints
for each setting the largest difference of a sample in steps of 1/255, and the share of samples that differ by half a step and
more. Exit code 1: a test of parity_test.py fails, or a sample on PIL images is further than one step.

torch and torchvision are not among the tests' packages: give it an environment with them and tests/requirements.txt's pillow,
numpy, pytest and scikit-image:

    LION_PREPARE=BUILD/bin/prepare_for_test PYTHON tests/model/image_input/torchvision_parity.py
"""

import dataclasses
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import parity_test as parity  # noqa: E402

MAX_PIXELS_RESIZED = 20_000_000  # torchvision resizes all of a picture before it cuts the middle out: needles would be too large
FILTERS = {3: transforms.InterpolationMode.BICUBIC, 2: transforms.InterpolationMode.BILINEAR, 1: transforms.InterpolationMode.LANCZOS}
SETTINGS = {
    "shorter side 256, crop 224, bicubic": parity.config(),
    "shorter side 256, crop 224, bilinear": parity.config(resample=2),
    "shorter side 256, crop 224, Lanczos": parity.config(resample=1),
    "256 x 256, crop 224, bicubic": parity.config(size={"height": 256, "width": 256}),
    "224 x 224, bicubic": parity.config(size={"height": 224, "width": 224}, do_center_crop=False),
    "shorter side 1024, crop 1024, bicubic": parity.config(size={"shortest_edge": 1024}, crop_size={"height": 1024, "width": 1024}),
    "shorter side 200, crop 224, bicubic": parity.config(size={"shortest_edge": 200}),
}


class Recorder:
    """parity_test.py's ask, which it stands in for, and the pytest plugin that counts that file's tests."""

    def __init__(self):
        self.pictures, self.num_passed, self._ask = {}, 0, parity.ask

    def __call__(self, program, config, encoded):
        answer = self._ask(program, config, encoded)
        if not isinstance(answer, str):
            self.pictures[encoded] = None  # in order, each once
        return answer

    def pytest_runtest_logreport(self, report):
        self.num_passed += report.when == "call" and report.passed


@dataclasses.dataclass
class Differences:
    """Of samples, in steps of 1/255."""

    num_pictures: int = 0
    num_samples: int = 0
    num_other: int = 0
    largest: float = 0

    def add(self, got, want):
        steps = np.abs(got.astype(np.float64) - want) * np.array(parity.STD)[:, None, None] * 255
        self.num_pictures += 1
        self.num_samples += steps.size
        self.num_other += int((steps >= 0.5).sum())
        self.largest = max(self.largest, float(steps.max()))

    def __str__(self):
        share = 100 * self.num_other / max(self.num_samples, 1)
        return f"{self.num_pictures:4d} pictures, largest {self.largest:7.3f}, {share:8.4f} % of samples differ" if self.num_pictures else "-"


def resized_size(fields, picture):
    """Width and height."""
    size, (width, height) = fields["size"], picture.size
    if "height" in size:
        return size["width"], size["height"]
    edge = size["shortest_edge"]
    return (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)


def middle_is_the_same(fields, size):
    """torchvision rounds half a pixel to the even one, transformers (and so the server) down; of a picture too small, up."""
    if not fields["do_center_crop"]:
        return True
    rests = [length - fields["crop_size"]["height"] for length in size]
    return all(rest >= 0 and int(round(rest / 2)) == rest // 2 or rest < 0 and rest % 2 == 0 for rest in rests)


class Middle:
    """transformers' centre crop on what torchvision has resized."""

    def __init__(self, side):
        self._side = side

    def __call__(self, picture):
        width, height = picture.size if isinstance(picture, Image.Image) else (picture.shape[-1], picture.shape[-2])
        top, left = (height - self._side) // 2, (width - self._side) // 2
        return transforms.functional.crop(picture, top, left, self._side, self._side)  # black outside


def by_torchvision(fields, same_middle, tensors):
    """The transform: a PIL image to a float array (3, S, S)."""
    size, filter_ = fields["size"], FILTERS[fields["resample"]]
    size = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    side = fields["crop_size"]["height"]
    crop = [] if not fields["do_center_crop"] else [transforms.CenterCrop(side) if same_middle else Middle(side)]
    normalize = transforms.Normalize(parity.MEAN, parity.STD)
    if not tensors:
        return transforms.Compose([transforms.Resize(size, filter_), *crop, transforms.ToTensor(), normalize])
    return v2.Compose([v2.PILToTensor(), v2.Resize(size, filter_, antialias=True), *crop, v2.ToDtype(torch.float32, scale=True), normalize])


def opened_by_pillow(encoded):
    """None: Pillow refuses it (the PNG with gigabytes of text)."""
    try:
        return parity.by_pillow(encoded)
    except ValueError:
        return None


def main():
    recorder = Recorder()
    parity.ask = recorder
    failed = pytest.main(["-q", "-p", "no:cacheprovider", str(HERE / "parity_test.py")], plugins=[recorder])
    if failed:
        return 1
    worst = 0.0
    with subprocess.Popen([parity.PROGRAM, str(parity.MAX_PIXELS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:

        def ask(fields, encoded):
            return recorder._ask(program, fields and json.dumps(fields), encoded)

        opened = [(encoded, opened_by_pillow(encoded)) for encoded in recorder.pictures]
        alike = [(e, p) for e, p in opened if p is not None and np.array_equal(ask("", e), np.asarray(p))]
        print(f"{recorder.num_passed} tests, {len(opened)} pictures, {len(opened) - len(alike)} of which Pillow refuses or, by choice, decodes otherwise")
        for name, fields in SETTINGS.items():
            found = {(same, tensors): Differences() for same in (True, False) for tensors in (False, True)}
            num_large = 0
            for encoded, picture in alike:
                width, height = resized_size(fields, picture)
                if width * height > MAX_PIXELS_RESIZED or not width or not height:
                    num_large += 1
                    continue
                same, got = middle_is_the_same(fields, (width, height)), ask(fields, encoded)
                for tensors in (False, True):
                    if tensors and fields["resample"] == 1:
                        continue  # torchvision has no Lanczos for tensors
                    found[same, tensors].add(got, by_torchvision(fields, same, tensors)(picture).numpy())
            worst = max(worst, *(found[same, False].largest for same in (True, False)))
            print(f"{name} ({num_large} pictures too large)")
            for (same, tensors), differences in found.items():
                print(f"  {'tensors' if tensors else 'PIL':8}{'' if same else 'middle as transformers takes it: '}{differences}")
        program.stdin.close()
    print(f"on PIL images: {worst:.3f} steps of 1/255 at most")
    return 1 if not worst <= 1 else 0


if __name__ == "__main__":
    sys.exit(main())
