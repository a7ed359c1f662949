// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_TESTS_FUZZ_FUZZ_H_
#define LION_TESTS_FUZZ_FUZZ_H_

// What fuzz targets share: a check that ends the process, several files in one input, and a folder to write them to.

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

// What must hold for every input. explanation: anything that makes a std::string.
#define FUZZ_CHECK(condition, explanation)                                            \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::fprintf(stderr, "%s:%d: not so: %s: %s\n", __FILE__, __LINE__, #condition, \
                   std::string(explanation).c_str());                                 \
      std::abort();                                                                   \
    }                                                                                 \
  } while (false)

namespace lion {

inline std::string_view AsText(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// The parts of an input that stands for several files: divided by lines that are "%%", so that a corpus can be read.
inline std::vector<std::string_view> Parts(std::string_view input) {
  constexpr std::string_view kDivider = "\n%%\n";
  std::vector<std::string_view> parts;
  for (size_t at = input.find(kDivider); at != std::string_view::npos; at = input.find(kDivider)) {
    parts.push_back(input.substr(0, at));
    input.remove_prefix(at + kDivider.size());
  }
  parts.push_back(input);
  return parts;
}

// An error says what is wrong in one line.
inline void CheckOneLine(const absl::Status& status) {
  const std::string message(status.message());
  FUZZ_CHECK(!message.empty(), "an error without words");
  FUZZ_CHECK(message.find_first_of("\r\n") == std::string::npos, message);
}

// A folder of this process under the machine's temporary one; gone with it.
class ScratchFolder {
 public:
  ScratchFolder() : path_(std::filesystem::temp_directory_path() / ("lion_fuzz." + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path() const { return path_.string(); }
  std::string Write(const std::string& name, std::string_view bytes) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream out(file, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    FUZZ_CHECK(out.flush(), "cannot write " + file.string());
    return file.string();
  }
  void Remove(const std::string& name) const { std::filesystem::remove(path_ / name); }

 private:
  const std::filesystem::path path_;
};

}  // namespace lion

#endif  // LION_TESTS_FUZZ_FUZZ_H_
