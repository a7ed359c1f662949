// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

// Decodes and prepares what parity_test.py sends: `prepare_for_test MAX_PIXELS`.
//
// Standard input is a row of requests: a preprocessor_config.json (empty = decode only), then an encoded picture, each
// as uint32 bytes and the bytes. Each is answered by uint32 kind, uint32 width, uint32 height, uint32 bytes and the
// bytes: kind 0 = (height, width, 3) of uint8, 1 = (3, height, width) of float, 2 = an error's message. Integers in
// this machine's order.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/image_input/decode.h"
#include "model/image_input/preprocessor.h"

namespace {

bool ReadBlock(std::string* block) {
  uint32_t bytes = 0;
  if (std::fread(&bytes, sizeof(bytes), 1, stdin) != 1) return false;
  block->resize(bytes);
  return std::fread(block->data(), 1, bytes, stdin) == bytes;
}

void Answer(uint32_t kind, int64_t width, int64_t height, const void* data, size_t bytes) {
  const uint32_t head[4] = {kind, static_cast<uint32_t>(width), static_cast<uint32_t>(height),
                            static_cast<uint32_t>(bytes)};
  std::fwrite(head, sizeof(head), 1, stdout);
  std::fwrite(data, 1, bytes, stdout);
  std::fflush(stdout);
}

void AnswerError(const absl::Status& status) {
  const std::string message(status.message());
  Answer(2, 0, 0, message.data(), message.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: prepare_for_test MAX_PIXELS\n");
    return 2;
  }
  const int64_t max_pixels = std::atoll(argv[1]);
  std::string config;
  std::string encoded;
  while (ReadBlock(&config) && ReadBlock(&encoded)) {
    if (config.empty()) {
      const absl::StatusOr<lion::Picture> picture = lion::DecodeImage(encoded, max_pixels);
      if (!picture.ok()) {
        AnswerError(picture.status());
      } else {
        Answer(0, picture->width, picture->height, picture->rgb.get(),
               static_cast<size_t>(picture->width * picture->height * 3));
      }
      continue;
    }
    const absl::StatusOr<lion::ImagePreprocessor> preprocessor = lion::ImagePreprocessor::Parse(config, "config");
    if (!preprocessor.ok()) {
      AnswerError(preprocessor.status());
      continue;
    }
    const absl::StatusOr<std::vector<float>> pixels = preprocessor->Prepare(encoded, max_pixels);
    if (!pixels.ok()) {
      AnswerError(pixels.status());
    } else {
      Answer(1, preprocessor->size(), preprocessor->size(), pixels->data(), pixels->size() * sizeof(float));
    }
  }
  return 0;
}
