// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "client/images.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "client/flags.h"
#include "client/inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lion::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A folder of its own, gone with it.
class Folder {
 public:
  Folder() : path_(absl::StrCat(::testing::TempDir(), "lion_images_", getpid(), "_", count_++)) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }

  std::string Add(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path file = std::filesystem::path(path_) / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << bytes;
    return file.string();
  }
  const std::string& path() const { return path_; }

 private:
  static inline int count_ = 0;
  const std::string path_;
};

TEST(FindImagesTest, PicturesOfAFolderAndBelowByPath) {
  const Folder folder;
  const std::string b = folder.Add("b.PNG", "1");
  const std::string deep = folder.Add("a/z/deep.jpeg", "2");
  const std::string c = folder.Add("c.webp", "3");
  const std::string jpg = folder.Add("a/b.jpg", "4");
  folder.Add("notes.txt", "5");
  folder.Add("a/b.gif", "6");
  const auto found = FindImages({c, folder.path()});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_THAT(*found, ElementsAre(c, jpg, deep, b, c));
}

TEST(FindImagesTest, WhatIsNoFolderStays) {
  EXPECT_THAT(*FindImages({"-", "no/such.file"}), ElementsAre("-", "no/such.file"));
}

TEST(FindImagesTest, AFolderWithoutPicturesIsNamed) {
  const Folder folder;
  folder.Add("notes.txt", "5");
  const absl::Status status = FindImages({folder.path()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat(folder.path(), ": holds no picture")));
}

TEST(ImageInputsTest, EachFileIsOnePictureAsItIs) {
  const Folder folder;
  const std::string bytes("\xff\xd8\0\r\n\n\xff", 7);
  const std::string first = folder.Add("a.jpg", bytes);
  const std::string second = folder.Add("b.png", "");
  const std::string third = folder.Add("c.png", std::string(20, 'x'));
  InputOptions options;
  options.files = {folder.path()};
  options.format = InputFormat::kImage;
  options.max_input_bytes = 19;
  const auto reader = InputReader::Create(options, -1);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->total_bytes(), 27);
  InputRecord record;
  ASSERT_TRUE((*reader)->Next(&record));
  EXPECT_EQ(record.input.image(), bytes);
  EXPECT_EQ(record.source, first);
  ASSERT_TRUE((*reader)->Next(&record));
  EXPECT_TRUE(record.input.has_image());
  EXPECT_EQ(record.source, second);
  ASSERT_TRUE((*reader)->Next(&record));
  EXPECT_EQ(record.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(record.source, third);
  EXPECT_FALSE((*reader)->Next(&record));
}

TEST(ImageFlagsTest, ImagesGoesWithFilesAlone) {
  const absl::FlagSaver saver;
  const absl::StatusOr<CommandLine> line =
      ParseCommandLine({"embed", "--images", "photos", "cat.jpg", "--document=false", "--whole_file=false"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->inputs.format, InputFormat::kImage);
  EXPECT_THAT(line->inputs.files, ElementsAre("photos", "cat.jpg"));
  EXPECT_TRUE(line->output.sources);
  const absl::Status status = ParseCommandLine({"classify", "--images", "--whole_file", "a.jpg"}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("--images: goes with none of"));
}

}  // namespace
}  // namespace lion::client
