// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_FEED_CUH_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_FEED_CUH_

// What the tensor-core attention kernels work on, and how it comes into shared memory: items (a segment and head), the
// steps of an item (a pair of tiles each), the block's shared memory, and the warp that fills it ahead of the products
// through the copy engine.

#include <algorithm>

#include "model/kernels/cuda/attention_params.h"
#include "model/kernels/cuda/attention_tiles.cuh"
#include "model/kernels/cuda/hopper.cuh"

namespace lion::cuda {

inline constexpr int kModeParallel = 0;
inline constexpr int kModeRecurrent = 2;

// ------------------------------------------------------------------------------------------------------------- items

enum class Kind : int32_t {
  kEnd,       // no more
  kSum,       // kernel 1's: a segment of a longer row
  kRow,       // a whole row
  kSegment,   // a segment of a longer row, whose states lie in device memory
  kParallel,  // rows of full attention against a whole row
};

// One segment and head, or half of the head's columns.
struct Item {
  Kind kind = Kind::kEnd;
  int32_t start = 0;  // the segment's first token in the batch
  int32_t length = 0;
  int32_t row_start = 0;
  int32_t row_length = 0;
  int32_t state = 0;  // the row's first
  int32_t index = 0;  // of the segment within its row
  int32_t count = 0;  // segments of its row
  int32_t head = 0;
  int32_t part = 0;

  __device__ int pairs() const { return (length + kPair - 1) / kPair; }
};

// The item of an index, kEnd where these kernels or this one have nothing to do for it.
template <int D, bool kSums>
__device__ Item Decode(const AttentionParams& p, int64_t index) {
  const int units = p.H * HeadShape<D>::kParts;
  const int64_t segment = index / units;
  const int unit = static_cast<int>(index % units);
  // The last sums first: k and v are still in the L2 cache.
  const Segment s = p.segments[kSums ? segment : p.counts[0] - 1 - segment];
  Item item;
  if (s.mode == kModeRecurrent || kSums != (kSums && s.state >= 0)) return item;
  const bool parallel = s.mode == kModeParallel && p.log_a != nullptr;
  item.kind = kSums ? Kind::kSum : s.state >= 0 ? Kind::kSegment : parallel ? Kind::kParallel : Kind::kRow;
  item.start = s.start;
  item.length = s.length;
  item.row_start = s.row_start;
  item.row_length = s.row_length;
  item.head = unit / HeadShape<D>::kParts;
  item.part = unit % HeadShape<D>::kParts;
  item.index = s.index;
  item.count = s.count;
  item.state = s.state - s.index;
  return item;
}

// What a block loads for one pair of tiles: at most 6 tiles, of the two from a token (a) and from 64 tokens on (b).
struct Step {
  enum Operand : uint32_t { kQa = 0, kKa = 1, kVa = 2, kQb = 4, kKb = 5, kVb = 6 };
  uint32_t list = 0;  // operands in the order of their use, 4 bits each
  int count = 0;
  int token_q = 0;  // of the batch
  int token_kv = 0;

  __device__ void Add(Operand operand) { list |= operand << (4 * count++); }
};

// An item's steps. The feeding warp and the products both walk them, in the same order.
struct Steps {
  int sums = 0;  // steps of sums of k v^T before the outputs'
  int total = 0;

  __device__ Steps(const Item& item, bool masked) {
    const int pairs = item.pairs();
    if (item.kind == Kind::kSum) {
      sums = total = pairs;
    } else if (item.kind == Kind::kParallel) {
      total = (item.row_length + kPair - 1) / kPair;
    } else if (item.kind != Kind::kEnd) {
      // B at the row's end is zero, so that its first pair adds to nothing.
      if (item.kind == Kind::kRow) sums = masked ? pairs - 1 : SumPairs(item);
      total = sums + pairs;
    }
  }
  static __device__ int SumPairs(const Item& item) { return (item.row_length + kPair - 1) / kPair; }

  // The pair that a step is about: sums of masked rows run from the end. kParallel: the keys' pair.
  __device__ int PairOf(const Item& item, bool masked, int step) const {
    if (item.kind == Kind::kParallel) {
      const int own = (item.start - item.row_start) / kPair;
      return step == 0 ? own : step <= own ? own - step : step;
    }
    if (step >= sums) return step - sums;
    return masked ? item.pairs() - 1 - step : step;
  }

  __device__ Step At(const Item& item, bool masked, int index) const {
    Step step;
    const int pair = PairOf(item, masked, index);
    if (item.kind == Kind::kParallel) {
      step.token_q = item.start;
      step.token_kv = item.row_start + pair * kPair;
      step.Add(Step::kQa);
      if (item.length > kTile) step.Add(Step::kQb);
      step.Add(Step::kKa), step.Add(Step::kVa);
      if (item.row_length - pair * kPair > kTile) step.Add(Step::kKb), step.Add(Step::kVb);
      return step;
    }
    // The sum of a row without masks runs over all of it, whatever part of it the item puts out.
    const bool whole = !masked && index < sums && item.kind == Kind::kRow;
    const int left = (whole ? item.row_length : item.length) - pair * kPair;
    step.token_q = step.token_kv = (whole ? item.row_start : item.start) + pair * kPair;
    const bool two = left > kTile;
    if (index < sums) {
      if (two) step.Add(Step::kKb), step.Add(Step::kVb);
      step.Add(Step::kKa), step.Add(Step::kVa);
    } else if (!masked) {
      step.Add(Step::kQa);
      if (two) step.Add(Step::kQb);
    } else {
      step.Add(Step::kKa), step.Add(Step::kQa), step.Add(Step::kVa);
      if (two) step.Add(Step::kKb), step.Add(Step::kVb), step.Add(Step::kQb);
    }
    return step;
  }
};

// ----------------------------------------------------------------------------------------- shared memory and the feed

// kSums: kernel 1, which needs no states there.
template <int D, bool kSums>
struct Shared {
  using Shape = HeadShape<D>;
  static constexpr int kSlots = kSums ? 12 : (D < 128 ? 10 : 16);
  static constexpr int kItems = 16;    // more than items whose tiles fit the ring
  static constexpr int kLogPairs = 8;  // more than steps whose tiles fit it
  static constexpr int kForwardBytes = std::max<int>(Shape::kStateBytes, 2 * sizeof(TileDecays));
  alignas(1024) unsigned char slots[kSlots][Shape::kTileBytes];
  alignas(1024) unsigned char forward[kSums ? 1 : kForwardBytes];  // kParallel: the keys' decays
  alignas(1024) unsigned char backward[kSums ? 1 : 2][kSums ? 1 : Shape::kStateBytes];
  alignas(16) TileDecays decays[2];
  float log_a[kLogPairs][kPair];
  alignas(8) uint64_t full[kSlots];  // a tile has come
  uint64_t empty[kSlots];            // the block has done with it
  uint64_t log_full[kLogPairs];
  Item items[kItems];
  float totals[4];
  float largest[4];
  float after[kMaxSegmentTokens / kPair];  // kSegment: prod of a from each pair's end to the segment's

  __device__ void Init() {
    for (int i = 0; i < kSlots; ++i) {
      hopper::InitBarrier(&full[i], 1);
      hopper::InitBarrier(&empty[i], 1);
    }
    for (int i = 0; i < kLogPairs; ++i) hopper::InitBarrier(&log_full[i], 32);
    hopper::FenceBarrierInit();
  }
};

// A place in a ring of barriers.
template <int kSlots>
struct Ring {
  int slot = 0;
  uint32_t phase = 0;

  __device__ int Slot(int offset) const { return slot + offset < kSlots ? slot + offset : slot + offset - kSlots; }
  __device__ uint32_t Phase(int offset) const { return slot + offset < kSlots ? phase : phase ^ 1; }
  __device__ void Advance(int slots) {
    phase = Phase(slots);
    slot = Slot(slots);
  }
};

// The feeding warp: runs ahead of the products, filling the ring with the tiles and log a of one item after another.
template <int D, bool kSums>
__device__ void Feed(const AttentionParams& p, const CUtensorMap* map, Shared<D, kSums>* shared) {
  using Shape = HeadShape<D>;
  using Memory = Shared<D, kSums>;
  const int lane = threadIdx.x % 32;
  const bool masked = p.log_a != nullptr;
  const int64_t total = static_cast<int64_t>(p.counts[0]) * p.H * Shape::kParts;
  Ring<Memory::kSlots> ring;
  Ring<Memory::kLogPairs> logs;
  int item_slot = 0;
  for (int64_t next = blockIdx.x; next < total; next += gridDim.x) {
    const Item item = Decode<D, kSums>(p, next);
    if (item.kind == Kind::kEnd) continue;
    if (lane == 0) shared->items[item_slot] = item;
    item_slot = (item_slot + 1) % Memory::kItems;
    const Steps steps(item, masked);
    for (int i = 0; i < steps.total; ++i) {
      const Step step = steps.At(item, masked, i);
      for (int tile = 0; tile < step.count; ++tile) {
        const uint32_t operand = step.list >> (4 * tile) & 0xF;
        const int what = static_cast<int>(operand & 3);  // q, k, v
        const int slots = what == 2 ? 1 : Shape::kParts;
        const int token = (what == 0 ? step.token_q : step.token_kv) + ((operand & 4) != 0 ? kTile : 0);
        const int column = (what * p.H + item.head) * D + (what == 2 ? item.part * Shape::kColumns : 0);
        for (int c = 0; c < slots; ++c) {
          hopper::WaitBarrier(&shared->empty[ring.slot], ring.phase ^ 1);
          if (lane == 0) {
            uint64_t* barrier = &shared->full[ring.slot];
            hopper::ArriveExpecting(barrier, Shape::kTileBytes);
            hopper::CopyBox(map, shared->slots[ring.slot], barrier, column + c * Shape::kColumns, token);
          }
          ring.Advance(1);
        }
        if (masked && tile == 0) {
          for (int t = lane; t < kPair; t += 32) {
            const int64_t from = min(static_cast<int64_t>(step.token_kv) + t, p.T - 1);
            hopper::CopyAsync4(&shared->log_a[logs.slot][t], LogAAt(p, from, item.head), true);
          }
          hopper::ArriveAfterCopies(&shared->log_full[logs.slot]);
          logs.Advance(1);
        }
      }
    }
  }
  // The end, where the next item's first tile would be.
  hopper::WaitBarrier(&shared->empty[ring.slot], ring.phase ^ 1);
  if (lane == 0) {
    shared->items[item_slot] = Item();
    hopper::Arrive(&shared->full[ring.slot]);
  }
}

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_FEED_CUH_
