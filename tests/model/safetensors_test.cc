// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#include "model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "tests/model/temp_dir.h"

namespace lion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Length(uint64_t bytes) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(bytes >> (8 * i));
  return out;
}

// A file with an honest length.
std::string File(const std::string& header, const std::string& data) { return Length(header.size()) + header + data; }

std::string Zeros(size_t bytes) { return std::string(bytes, '\0'); }

// A file of one F32 tensor of two elements.
std::string OneTensor(const std::string& name, float first, float second) {
  std::string data(8, '\0');
  std::memcpy(data.data(), &first, 4);
  std::memcpy(data.data() + 4, &second, 4);
  return File("{\"" + name + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", data);
}

float FirstFloat(const StoredTensor& tensor) {
  float value;
  std::memcpy(&value, tensor.data, sizeof(value));  // data may be unaligned
  return value;
}

TEST(SafetensorsTest, ReadsTypesShapesAndData) {
  TempDir dir;
  const std::string header =
      R"({"__metadata__":{"format":"pt"},)"
      R"("w":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"h":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},)"
      R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[14,16]},"i":{"dtype":"I64","shape":[],"data_offsets":[16,24]},)"
      R"("u":{"dtype":"U8","shape":[2],"data_offsets":[24,26]},"e":{"dtype":"F32","shape":[0,4],"data_offsets":[26,26]}})";
  std::string data;
  for (char c = 0; c < 26; ++c) data.push_back(c);
  const std::string path = dir.Write("x.safetensors", File(header, data));
  const auto files = WeightFiles::OpenFile(path);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT((*files)->paths(), ElementsAre(path));
  EXPECT_EQ((*files)->tensors().size(), 6u);
  EXPECT_EQ((*files)->Find("__metadata__"), nullptr);
  EXPECT_EQ((*files)->Find("none"), nullptr);

  struct Row {
    const char* name;
    StoredType type;
    const char* type_name;
    std::vector<int64_t> shape;
    size_t begin, bytes;
  };
  for (const Row& row : std::vector<Row>{{"w", StoredType::kF32, "F32", {2, 1}, 0, 8},
                                         {"h", StoredType::kF16, "F16", {3}, 8, 6},
                                         {"b", StoredType::kBF16, "BF16", {1}, 14, 2},
                                         {"i", StoredType::kI64, "I64", {}, 16, 8},
                                         {"u", StoredType::kOther, "U8", {2}, 24, 2},
                                         {"e", StoredType::kF32, "F32", {0, 4}, 26, 0}}) {
    SCOPED_TRACE(row.name);
    const StoredTensor* tensor = (*files)->Find(row.name);
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->type, row.type);
    EXPECT_EQ(tensor->type_name, row.type_name);
    EXPECT_EQ(tensor->shape, row.shape);
    EXPECT_EQ(tensor->size_bytes, row.bytes);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor->data), tensor->size_bytes),
              data.substr(row.begin, row.bytes));
  }
}

TEST(SafetensorsTest, ReadsAFileOfTheReferenceWriter) {
  const auto files = WeightFiles::OpenDirectory(std::string(LION_SOURCE_DIR) + "/tests/oracle/text-lion-s-ln");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_GT((*files)->tensors().size(), 10u);
  for (const auto& [name, tensor] : (*files)->tensors()) {
    SCOPED_TRACE(name);
    EXPECT_EQ(tensor.type, StoredType::kF32);
    EXPECT_EQ(tensor.size_bytes, static_cast<size_t>(tensor.num_elements()) * 4);
  }
}

TEST(SafetensorsTest, AFileWithoutTensorsIsValid) {
  TempDir dir;
  const auto files = WeightFiles::OpenFile(dir.Write("x", File("{}", "")));
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT((*files)->tensors(), IsEmpty());
}

struct Hostile {
  std::string name;
  std::string bytes;
  std::string message;  // part of it
};

void PrintTo(const Hostile& hostile, std::ostream* out) { *out << hostile.name; }

std::vector<Hostile> HostileFiles() {
  const std::string good = OneTensor("a", 1, 2);
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}}";
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)" + first +
           R"(},"b":{"dtype":"F32","shape":[2],"data_offsets":)" + second + "}}";
  };
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  return {
      {"Empty", "", "0 bytes"},
      {"SevenBytes", Zeros(7), "7 bytes"},
      {"LengthZero", Length(0), "not valid safetensors JSON"},
      {"LengthBeyondFile", Length(1000) + "{}", "given as 1000 bytes, but the whole file has 10"},
      {"LengthOneBeyondFile", Length(3) + "{}", "given as 3 bytes"},
      {"LengthOverLimit", Length(100000001) + "{}", "above the limit of 100000000"},
      {"LengthMax", Length(UINT64_MAX) + "{}", "above the limit of 100000000"},
      {"LengthWraps", Length(UINT64_MAX - 7) + "{}", "above the limit of 100000000"},
      {"NotJson", File("hello", ""), "not valid safetensors JSON"},
      {"NotUtf8", File("{\"\xff\":1}", ""), "not UTF-8"},
      {"NotAnObject", File("[]", ""), "not valid safetensors JSON"},
      {"Null", File("null", ""), "not valid safetensors JSON"},
      {"JsonCutShort", File("{\"a\":{", ""), "not valid safetensors JSON"},
      {"JsonThenGarbage", File("{} x", ""), "not valid safetensors JSON"},
      {"TooDeep", File(deep, ""), "not valid safetensors JSON"},
      {"EntryNotAnObject", File("{\"a\":1}", ""), "not valid safetensors JSON"},
      {"NoShape", File(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", Zeros(4)), "shape"},
      {"NoOffsets", File(R"({"a":{"dtype":"F32","shape":[1]}})", Zeros(4)), "data_offsets"},
      {"OneOffset", File(tensor("F32", "[1]", "[0]"), Zeros(4)), "not valid safetensors JSON"},
      {"UnknownType", File(tensor("F31", "[1]", "[0,4]"), Zeros(4)), "F31"},
      {"NegativeDimension", File(tensor("F32", "[-1]", "[0,4]"), Zeros(4)), "not valid safetensors JSON"},
      {"FractionalDimension", File(tensor("F32", "[1.5]", "[0,4]"), Zeros(4)), "not valid safetensors JSON"},
      {"NegativeOffset", File(tensor("F32", "[1]", "[-4,0]"), Zeros(4)), "not valid safetensors JSON"},
      {"MetadataNotStrings", File(R"({"__metadata__":{"a":1}})", ""), "not valid safetensors JSON"},
      {"OffsetsOutOfFile", File(tensor("F32", "[1000]", "[0,4000]"), Zeros(4)), "do not fill the 4 bytes"},
      {"OffsetsHuge", File(tensor("U8", "[1152921504606846976]", "[0,1152921504606846976]"), ""),
       "do not fill the 0 bytes"},
      {"OffsetsHuger", File(tensor("U8", "[9223372036854775807]", "[0,9223372036854775807]"), ""), "tensor \"a\""},
      {"OffsetsWrap", File(tensor("U8", "[18446744073709551615]", "[0,18446744073709551615]"), ""), "tensor \"a\""},
      {"OffsetsBackwards", File(tensor("F32", "[1]", "[4,0]"), Zeros(4)), "tensor \"a\""},
      {"DataBeforeFirstTensor", File(tensor("F32", "[1]", "[4,8]"), Zeros(8)), "tensor \"a\""},
      {"DataAfterLastTensor", File(tensor("F32", "[1]", "[0,4]"), Zeros(5)), "do not fill the 5 bytes"},
      {"CutShort", good.substr(0, good.size() - 1), "do not fill the 7 bytes"},
      {"CutInHeader", good.substr(0, 20), "the whole file has 20"},
      {"Overlap", File(two("[0,8]", "[4,12]"), Zeros(12)), "tensor \"b\""},
      {"SamePlace", File(two("[0,8]", "[0,8]"), Zeros(8)), "overlap or hole"},
      {"Hole", File(two("[0,8]", "[12,20]"), Zeros(20)), "tensor \"b\""},
      {"TooFewBytes", File(tensor("F32", "[2]", "[0,4]"), Zeros(4)),
       "tensor \"a\": its data_offsets give it 4 bytes, but shape [2] of F32 needs 8 bytes"},
      {"TooManyBytes", File(tensor("F16", "[2]", "[0,8]"), Zeros(8)), "needs 4 bytes"},
      {"ScalarWithoutData", File(tensor("F32", "[]", "[0,0]"), ""), "needs 4 bytes"},
      {"ShapeOverflows", File(tensor("F32", "[4294967296,4294967296]", "[0,4]"), Zeros(4)), "tensor \"a\""},
      {"ShapeOverflowsInBits", File(tensor("F32", "[4611686018427387904]", "[0,0]"), ""), "tensor \"a\""},
      {"ShapeOverflowsBeforeZero", File(tensor("F32", "[4294967296,4294967295,0]", "[0,0]"), ""), "is too large"},
      {"DimensionAboveInt64", File(tensor("F32", "[0,9223372036854775808]", "[0,0]"), ""), "is too large"},
      {"HalfABytes", File(tensor("F4", "[3]", "[0,1]"), Zeros(1)), "tensor \"a\""},
      {"SameNameTwice",
       File(
           R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
           "x"),
       "two entries named \"a\""},
      {"SameNameTwiceEscaped",
       File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
            R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
            "x"),
       "two entries named \"a\""},
      {"NameWithControls", File(R"({"a\n\u0000b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", Zeros(8)),
       R"("a\n\0b")"},
  };
}

class HostileFileTest : public testing::TestWithParam<Hostile> {};

TEST_P(HostileFileTest, IsRefusedByName) {
  TempDir dir;
  const std::string path = dir.Write("x.safetensors", GetParam().bytes);
  const absl::Status status = WeightFiles::OpenFile(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_EQ(status.message().find('\n'), std::string::npos);
  EXPECT_LT(status.message().size(), path.size() + 400);
}

INSTANTIATE_TEST_SUITE_P(All, HostileFileTest, testing::ValuesIn(HostileFiles()),
                         [](const auto& test) { return test.param.name; });

// Every prefix of a valid file, and every file with one byte too many, is refused.
TEST(SafetensorsTest, AFileOfAnyOtherLengthIsRefused) {
  TempDir dir;
  const std::string good = OneTensor("a", 1, 2);
  for (size_t bytes = 0; bytes <= good.size() + 1; ++bytes) {
    const absl::Status status = WeightFiles::OpenFile(dir.Write("x", (good + "x").substr(0, bytes))).status();
    EXPECT_EQ(status.ok(), bytes == good.size()) << bytes << ": " << status;
  }
}

TEST(SafetensorsTest, NamesWhatIsNotAFile) {
  TempDir dir;
  EXPECT_EQ(WeightFiles::OpenFile(dir.File("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(WeightFiles::OpenFile(dir.Write("f", "") + "/x").status().code(), absl::StatusCode::kNotFound);
  const absl::Status directory = WeightFiles::OpenFile(dir.path()).status();
  EXPECT_EQ(directory.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(directory.message()), HasSubstr("not a regular file but a directory"));
  const absl::Status fifo = WeightFiles::OpenFile(dir.MakeFifo("fifo")).status();  // must not wait for a writer
  EXPECT_EQ(fifo.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(fifo.message()), HasSubstr("not a regular file"));
}

TEST(SafetensorsTest, NamesWhatADirectoryLacks) {
  TempDir dir;
  const absl::Status empty = WeightFiles::OpenDirectory(dir.path()).status();
  EXPECT_EQ(empty.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.message()),
              HasSubstr("holds neither model.safetensors nor model.safetensors.index.json"));
  const absl::Status none = WeightFiles::OpenDirectory(dir.File("none")).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), HasSubstr("no such directory"));
}

TEST(SafetensorsTest, ABrokenSingleFileIsNotPassedOver) {
  TempDir dir;
  dir.Write("model.safetensors", "");
  dir.Write("shard", OneTensor("a", 1, 2));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"shard"}})");
  const absl::Status status = WeightFiles::OpenDirectory(dir.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors: "));
}

TEST(ShardsTest, AreReadAsOne) {
  TempDir dir;
  dir.Write("model-2.safetensors", OneTensor("b", 3, 4));
  dir.Write("model-1.safetensors", OneTensor("a", 1, 2));
  dir.Write("model.safetensors.index.json",
            R"({"metadata":{"total_size":16},"weight_map":{"b":"model-2.safetensors","a":"model-1.safetensors"}})");
  const auto files = WeightFiles::OpenDirectory(dir.path() + "/");
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT((*files)->paths(), ElementsAre(dir.File("model-1.safetensors"), dir.File("model-2.safetensors")));
  ASSERT_NE((*files)->Find("a"), nullptr);
  ASSERT_NE((*files)->Find("b"), nullptr);
  EXPECT_EQ(FirstFloat(*(*files)->Find("a")), 1);
  EXPECT_EQ(FirstFloat(*(*files)->Find("b")), 3);
}

TEST(ShardsTest, TheSingleFileWins) {
  TempDir dir;
  dir.Write("model.safetensors", OneTensor("a", 7, 8));
  dir.Write("model.safetensors.index.json", "not JSON");
  const auto files = WeightFiles::OpenDirectory(dir.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT((*files)->paths(), ElementsAre(dir.File("model.safetensors")));
  EXPECT_EQ(FirstFloat(*(*files)->Find("a")), 7);
}

struct BadIndex {
  std::string name;
  std::string index;
  std::string message;  // part of it
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

void PrintTo(const BadIndex& bad, std::ostream* out) { *out << bad.name; }

class BadIndexTest : public testing::TestWithParam<BadIndex> {};

// The directory also has the shards one (a) and two (b), broken, and a valid file outside of it.
TEST_P(BadIndexTest, IsRefusedByName) {
  TempDir dir;
  dir.Write("outside", OneTensor("a", 1, 2));
  std::filesystem::create_directories(dir.File("model/sub"));
  dir.Write("model/one", OneTensor("a", 1, 2));
  dir.Write("model/two", OneTensor("b", 3, 4));
  dir.Write("model/again", OneTensor("a", 5, 6));
  dir.Write("model/broken", "1234567");
  dir.MakeFifo("model/fifo");
  dir.Write("model/model.safetensors.index.json", GetParam().index);
  const absl::Status status = WeightFiles::OpenDirectory(dir.File("model")).status();
  EXPECT_EQ(status.code(), GetParam().code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir.File("model/")));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

std::vector<BadIndex> BadIndexes() {
  std::string deep = R"({"weight_map":)";
  for (int i = 0; i < 100000; ++i) deep += "[";
  return {
      {"Empty", "", "not valid JSON"},
      {"NotJson", "{", "not valid JSON"},
      {"NotUtf8", "{\"weight_map\":{\"a\":\"\xff\"}}", "not valid JSON"},
      {"TooDeep", deep, "not valid JSON"},
      {"NotAnObject", "[]", "weight_map"},
      {"Null", "null", "weight_map"},
      {"NoMap", "{}", "weight_map"},
      {"MapIsAList", R"({"weight_map":["one"]})", "weight_map"},
      {"MapIsEmpty", R"({"weight_map":{}})", "at least one tensor"},
      {"ShardIsANumber", R"({"weight_map":{"a":1}})", "not number"},
      {"ShardIsEmpty", R"({"weight_map":{"a":""}})", "a file in the same directory"},
      {"ShardAbove", R"({"weight_map":{"a":"../outside"}})", "a file in the same directory, not \"../outside\""},
      {"ShardIsParent", R"({"weight_map":{"a":".."}})", "a file in the same directory"},
      {"ShardIsHere", R"({"weight_map":{"a":"."}})", "a file in the same directory"},
      {"ShardBelow", R"({"weight_map":{"a":"sub/x"}})", "a file in the same directory"},
      {"ShardAbsolute", R"({"weight_map":{"a":"/etc/passwd"}})", "a file in the same directory"},
      {"ShardWithZero", R"({"weight_map":{"a":"one\u0000x"}})", "a file in the same directory"},
      {"ShardMissing", R"({"weight_map":{"a":"none"}})", "model/none", absl::StatusCode::kNotFound},
      {"ShardIsADirectory", R"({"weight_map":{"a":"sub"}})", "model/sub: not a regular file"},
      {"ShardIsAFifo", R"({"weight_map":{"a":"fifo"}})", "model/fifo: not a regular file"},
      {"ShardBroken", R"({"weight_map":{"a":"one","c":"broken"}})", "model/broken: the file has 7 bytes"},
      {"ShardLacksTensor", R"({"weight_map":{"a":"one","c":"one"}})", "model/one: lacks tensor \"c\""},
      {"TensorElsewhere", R"({"weight_map":{"a":"two","b":"two"}})", "model/two: lacks tensor \"a\""},
      {"TensorNotInIndex", R"({"weight_map":{"a":"one","c":"two"}})", "holds tensor \"b\""},
      {"TensorInTwoShards", R"({"weight_map":{"a":"one","c":"again"}})",
       "model/again: holds tensor \"a\", which model.safetensors.index.json places in \"one\""},
      {"TensorTwiceInIndex", R"({"weight_map":{"a":"one","a":"again"}})", "two entries named \"a\""},
  };
}

INSTANTIATE_TEST_SUITE_P(All, BadIndexTest, testing::ValuesIn(BadIndexes()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace lion
