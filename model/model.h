// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_MODEL_H_
#define LION_MODEL_MODEL_H_

// A model directory, loaded: what it is (ModelInfo), its tokenizer and its encoders, one a device.
//
//   ComputePool pool(ComputePool::Options{.num_threads = 2});
//   ModelOptions options;
//   options.directory = "demo/model";
//   absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(options, &pool);
//   if (!model.ok()) return model.status();   // one line naming the file, the field or tensor, and both shapes
//   (*model)->encoder()->Encode(rows, absl::MakeSpan(results));

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/encoder.h"
#include "model/tokenizer/tokenizer.h"
#include "model/types.h"

namespace lion {

class ComputePool;  // model/compute_pool.h

// PARALLEL is O(L^2): longer rows are refused in that mode.
inline constexpr int64_t kMaxParallelTokens = 16384;

// The choices of --parallel_max_tokens when it is measured.
inline constexpr int kCrossoverChoices[] = {64, 128, 256, 512, 1024};

// The size to which batches are filled on the CPU unless somebody says otherwise: more gains nothing there.
inline constexpr int64_t kMaxBatchTokensCpu = 16384;

struct ModelOptions {
  std::string directory;
  // "cpu" alone, or GPUs ("cuda:0", "cuda:1"), each once: one encoder on each. GPUs need a build with LION_CUDA.
  std::vector<std::string> devices = {"cpu"};
  DType dtype = DType::kFloat32;  // one of DTypesOf the device's kind
  int64_t max_batch_tokens = 0;   // of the batches to come: a GPU's buffers are made for it at load; 0 = on the CPU
                                  // kMaxBatchTokensCpu, on a GPU what its free memory allows
  double memory_share = 1;        // of a GPU's memory that is free at load: what this model may take of it if
                                  // max_batch_tokens is 0; 1 / n with n models still to be loaded, this one included
  int chunk_tokens = 0;           // C where a row names none; 0 = the device's constant; at most kMaxChunkTokens
  int parallel_max_tokens = 0;    // the crossover; 0 = measured on the first device, out of kCrossoverChoices
  std::string crossover_cache;    // where the CPU's measured crossovers are kept (crossover_cache.h); empty = nowhere
};

// The CUDA devices of this machine: 0 where none is to be seen, -1 where this build has no CUDA.
int NumCudaDevices();

// Everything that serving needs to know of a model. Immutable after Load.
struct ModelInfo {
  std::string version;  // first 12 hex digits of SHA-256 over config.json and the weight files
  Variant variant = Variant::kLit;
  std::string variant_name;                    // "lion-s", ...; "lion-s-natural" with two paths
  std::string input = "text";                  // "text" | "image"
  std::vector<std::string> devices = {"cpu"};  // one encoder on each: "cpu", or "cuda:N" ...
  std::string device = "cpu";                  // the same in one word, as ListModels shows it: "cuda:0,cuda:1"
  DType dtype = DType::kFloat32;
  int64_t hidden_width = 0;     // E
  int64_t embedding_width = 0;  // W: E, or what Dense makes of it
  int64_t vocab_size = 0;       // ids are below it; 0 = an image model: it takes no ids
  int64_t type_vocab_size = 0;  // type ids are below it
  int64_t max_positions = 0;    // the longest row; 0 = no limit: no absolute positions, nor a precision that overflows
  // Of an image model, 0 or false elsewhere: S of the pictures that it was trained on, the side of a patch, and whether
  // no other S fits (positions). ImageTokens (model/types.h) gives a picture's tokens.
  int64_t image_size = 0;
  int64_t patch_size = 0;
  bool image_size_fixed = false;
  bool embeds = true;
  bool classifies = false;   // has classifier weights
  bool multi_label = false;  // scores are sigmoids, else a softmax
  std::vector<std::string> labels;
  Pooling pooling = Pooling::kMean;  // the model's own
  bool normalize = false;            // the pipeline has a Normalize module
  int chunk_tokens = 0;              // C in force where a row names none
  int parallel_max_tokens = 0;       // the crossover in force
  // The size to which batches are filled: what the smallest device was made for.
  int64_t max_batch_tokens = kMaxBatchTokensCpu;
  std::vector<std::string> warnings;  // e.g. tensors that nothing uses; for the start-up log
};

// The form a row of L tokens takes: what was asked for, else PARALLEL up to the crossover and CHUNKED beyond it.
ComputeMode ResolveMode(std::optional<ComputeMode> asked, int64_t num_tokens, int parallel_max_tokens);

class Model {
 public:
  // Reads, checks and packs everything, the files once for all devices; measures the crossover if asked to. Takes
  // seconds for a large model. pool runs the work of models on the CPU and must outlive them; models of one process
  // share one pool. Other devices take no notice of it. Errors, each one line that names the file and what is wrong
  // with it: NOT_FOUND (directory, config.json or weights missing; no such GPU), INVALID_ARGUMENT (a field, a missing
  // or misshapen tensor with both shapes, a hostile header, an unsupported dtype).
  static absl::StatusOr<std::unique_ptr<Model>> Load(const ModelOptions& options, ComputePool* pool);

  virtual ~Model() = default;

  virtual const ModelInfo& info() const = 0;

  // Null where the directory has no tokenizer.json: text is then refused, ids work. Thread-safe.
  virtual const Tokenizer* tokenizer() const = 0;

  // One for each of ModelInfo::devices, in that order: never empty, none null. See Encoder for their threads; two
  // encoders know nothing of each other.
  virtual absl::Span<Encoder* const> encoders() = 0;

  // The first: for those who use one device.
  Encoder* encoder() { return encoders().front(); }
};

}  // namespace lion

#endif  // LION_MODEL_MODEL_H_
