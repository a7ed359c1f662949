// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_CUDA_DOCUMENT_H_
#define LION_MODEL_CUDA_DOCUMENT_H_

// How a batch above max_batch_tokens, which is mostly one long row, runs on a CUDA device: layer by layer in steps of a
// third of a millisecond (base size, an H100), between which shorter batches run and callers are heard. Plain
// arithmetic, as model/cuda_batch.h is; the steps' kernels are model/cuda_layers.h's, their order in time
// model/cuda_steps.h's. The bits are those of the same rows in one piece.
//
// The products run in tiles of kTileTokens tokens, the attention in slices of whole segments, about kSliceTokens tokens
// long. A layer of a row that passes states between segments:
//   1. slice by slice: q, k, v of its tiles; what its segments add to the states, and B inside them (left in y)
//   2. the states' prefixes, in both directions
//   3. slice by slice: y; then tile by tile all that follows, and x is overwritten in place
// x, log a and the states are there for all T tokens, the feed-forward part's activations for one tile. For q, k, v and
// y there are two forms:
//   kKept    for all T tokens
//   kAgain   for one slice: 3. makes q, k, v and B again. About a fifth slower. Only for a single row of the chunked
//   form
//            (or of LION-LIT's parallel one, which is the same) in a 16-bit type or fp8
// Memory in bytes, beside the weights and the standing buffers, e being the bytes of an element:
//   kKept    T (e Ep + 4 e H Dp + 4 H + 8) + S                        base, bfloat16, LION-S: 8,120 T + 0.35 GB
//   kAgain   T (e Ep + 4 H + 8) + S + kSliceTokens 4 e H Dp           base, bfloat16, LION-S: 1,976 T + 0.75 GB
//   S = T / 1024 H (8 Dp^2 + 4) for the states, in kAgain for kSliceTokens more + kTileTokens e (Ep + FFp) for a tile
//       + the answers
// fp8 keeps x in e4m3 too, Ep + 4 bytes a token; 4 H bytes are log a's, of LION-S alone; 4 more a token where the model
// has positions. Means need a block's sum for every 64 tokens, in the place of q, k, v where they fit in there. All of
// it is in the layout that ArrangeBatch makes of the counts: DocumentBytes is exact.
//
// Recurrent rows and float32 take attention's plain kernel, a launch for all their tokens: a step as long as that
// takes.

#include <cstdint>
#include <vector>

#include "model/cuda_batch.h"

namespace lion {

// 176 tiles of 256 rows: with 6, 18 or 24 tiles of 128 columns (base) they keep 132 multiprocessors busy to the last.
// With a quarter of it, a row of 262,144 tokens took 14 % longer than in one piece: each kernel has its start and its
// end.
inline constexpr int64_t kTileTokens = 45056;
// 44 segments: two of them and a head for each place on the device, at 12 heads.
inline constexpr int64_t kSliceTokens = kTileTokens;

enum class DocumentForm { kKept, kAgain };

// Consecutive segments of the attention's plan, and the tokens that they cover.
struct DocumentSlice {
  int64_t first = 0;
  int64_t count = 0;
  int first_segment = 0;
  int num_segments = 0;
};

// What is enqueued at once: tokens [first, first + count), or a slice's attention.
struct DocumentWork {
  enum Kind {
    kEmbed,      // tokens: ids to x, and the first layer's gates
    kProject,    // tokens: x to q, k, v
    kSums,       // slice: kernel 1 of attention
    kScan,       // all: kernel 2
    kSumsAgain,  // slice: kernel 1, of which only what it leaves in y counts
    kOutputs,    // slice: kernel 3
    kAttention,  // all of attention
    kOut,        // tokens: y and x to the x that the feed-forward part reads
    kUp,         // tokens: x to hidden, which only this tile has
    kDown,       // tokens: hidden and x to the next layer's x, and its gates
  };
  Kind kind = kEmbed;
  int64_t first = 0;
  int64_t count = 0;
  int slice = -1;  // whose q, k, v and y are there; -1 = all tokens'
};

using DocumentStep = std::vector<DocumentWork>;

struct DocumentPlan {
  DocumentForm form = DocumentForm::kKept;
  std::vector<DocumentSlice> slices;
  std::vector<DocumentStep> embed;  // once
  std::vector<DocumentStep> layer;  // for each layer

  // The first token of what is there in q, k, v and y while a piece of work is done.
  int64_t SpanFirst(const DocumentWork& work) const {
    return form == DocumentForm::kAgain && work.slice >= 0 ? slices[work.slice].first : 0;
  }
};

// Whether a planned batch may run in the form kAgain.
bool CanRunAgain(const CudaShape& shape, const CudaBatch& batch);

// Makes the steps, and adds to the batch, which PlanBatch has just planned, what they need: counts, slice_counts,
// again; in kAgain, plan.segments start where their slices do. kAgain: CanRunAgain.
DocumentPlan PlanDocument(const CudaShape& shape, DocumentForm form, CudaBatch* batch);

// Device memory that a planned batch runs in.
int64_t DocumentBytes(const CudaShape& shape, DocumentForm form, const CudaBatch& batch);

}  // namespace lion

#endif  // LION_MODEL_CUDA_DOCUMENT_H_
