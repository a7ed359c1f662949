// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/crossover_cache.h"

#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/model/temp_dir.h"

namespace lion {
namespace {

TEST(CrossoverCacheTest, FindsWhatWasKept) {
  const TempDir dir;
  const std::string path = dir.File("made/with/its/folder/crossovers");
  const CrossoverCache cache(path);
  EXPECT_EQ(cache.Find("cpu a, float32"), std::nullopt);
  cache.Keep("cpu a, float32", 128);
  cache.Keep("cpu a, int8", 64);
  EXPECT_EQ(cache.Find("cpu a, float32"), 128);
  EXPECT_EQ(CrossoverCache(path).Find("cpu a, int8"), 64);
  EXPECT_EQ(cache.Find("cpu a"), std::nullopt);
  cache.Keep("cpu a, float32", 256);
  EXPECT_EQ(cache.Find("cpu a, float32"), 256);
  EXPECT_EQ(cache.Find("cpu a, int8"), 64);
  // Nothing but the file itself is left in the folder.
  int files = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator(std::filesystem::path(path).parent_path())) {
    ++files;
  }
  EXPECT_EQ(files, 1);
}

TEST(CrossoverCacheTest, TakesNoNonsenseFromTheFile) {
  const TempDir dir;
  const std::string path = dir.Write("crossovers", "junk\n\n100 key\n-64 key\nsixty key\n64\n");
  const CrossoverCache cache(path);
  EXPECT_EQ(cache.Find("key"), std::nullopt);
  cache.Keep("key", 512);
  EXPECT_EQ(cache.Find("key"), 512);
}

TEST(CrossoverCacheTest, WhatCannotBeWrittenIsNotKept) {
  const TempDir dir;
  const CrossoverCache under_a_file(dir.Write("file", "x") + "/crossovers");
  under_a_file.Keep("key", 64);
  EXPECT_EQ(under_a_file.Find("key"), std::nullopt);
  const CrossoverCache nowhere("");
  nowhere.Keep("key", 64);
  EXPECT_EQ(nowhere.Find("key"), std::nullopt);
}

}  // namespace
}  // namespace lion
