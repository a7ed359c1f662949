// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
#define LION_MODEL_KERNELS_CUDA_ATTENTION_BLOCK_CUH_

// What a block's warpgroup does with the items that are fed to it (attention_feed.cuh), out of the parts of
// attention_tiles.cuh: the walk over a segment from its end, and y of masked, unmasked and fully attending rows. The
// scheme is attention_tensor.cu's.

#include <type_traits>

#include "model/kernels/cuda/attention_feed.cuh"
#include "model/kernels/cuda/attention_params.h"
#include "model/kernels/cuda/attention_tiles.cuh"
#include "model/kernels/cuda/hopper.cuh"

namespace lion::cuda {

// Rows of at most so many segments need no prefixes: each segment adds up what the others left.
inline constexpr int kMaxUnscanned = 8;

// Kernel 1 (kSums) or 3, one of its blocks. Every member is called by all threads of the warpgroup alike.
template <typename T, int D, bool kSums>
class Block {
 public:
  using Shape = HeadShape<D>;
  using Memory = Shared<D, kSums>;
  using Pairs = PairState<T, D>;

  __device__ Block(const AttentionParams& p, Memory* shared)
      : p_(p), shared_(shared), masked_(p.log_a != nullptr), log_scale_(log2f(p.scale)) {
    // In float16 a state is fp32 and needs twice the place: that of two tiles where y's columns are a whole head's.
    const bool beside = std::is_same_v<T, __half> && D == 128 && !p.y_float32;
    place_ = beside ? reinterpret_cast<char*>(p.plain_y) : static_cast<char*>(p.y);
    place_element_ = beside || p.y_float32 ? 4 : 2;
  }

  __device__ void Run() {
    for (int i = 0;; i = (i + 1) % Memory::kItems) {
      Wait(0);  // the item is there with its first tile
      item_ = &shared_->items[i];
      if (item_->kind == Kind::kEnd) return;
      if constexpr (kSums) {
        SumItem();
      } else if (!masked_) {
        UnmaskedItem();
      } else if (item_->kind == Kind::kParallel) {
        ParallelItem();
      } else {
        ChunkedItem();
      }
    }
  }

 private:
  // --------------------------------------------------------------------------------------- tiles in the ring

  __device__ unsigned char* Wait(int offset) {
    const int slot = ring_.Slot(offset);
    hopper::WaitBarrier(&shared_->full[slot], ring_.Phase(offset));
    return shared_->slots[slot];
  }
  __device__ void WaitWide(int offset, unsigned char* (&tiles)[Shape::kParts]) {
#pragma unroll
    for (int c = 0; c < Shape::kParts; ++c) tiles[c] = Wait(offset + c);
  }

  // k and v rows past the tile's n tokens are another row's: zero from here on, so that they add nothing.
  __device__ void DropTail(unsigned char* const (&k)[Shape::kParts], unsigned char* v, int n) {
    if (n >= kTile) return;
#pragma unroll
    for (int c = 0; c < Shape::kParts; ++c) ZeroTail<Shape::kRowBytes>(k[c], n);
    ZeroTail<Shape::kRowBytes>(v, n);
    hopper::FenceShared();
    SyncWarpgroup();
  }

  // Gives tiles back, the oldest first.
  __device__ void Release(int slots) {
    hopper::FenceShared();
    SyncWarpgroup();
    if (static_cast<int>(threadIdx.x) < slots) hopper::Arrive(&shared_->empty[ring_.Slot(threadIdx.x)]);
    ring_.Advance(slots);
  }

  // The decays of the step that begins, whose pair has n tokens.
  __device__ void MakeStepDecays(int n, TileDecays* decays) {
    hopper::WaitBarrier(&shared_->log_full[logs_.slot], logs_.phase);
    const float log_a = static_cast<int>(threadIdx.x) < n ? Log2A(shared_->log_a[logs_.slot][threadIdx.x]) : 0;
    logs_.Advance(1);
    MakeDecays(log_a, shared_->totals, decays);
  }

  static constexpr int kWide = Shape::kParts;  // slots of a tile of q or of k
  static constexpr int kKV = kWide + 1;

  // ------------------------------------------------------------------------------------------ device memory

  __device__ float* StateOf(int state, int direction) const {
    const int64_t unit = static_cast<int64_t>(item_->state + state) * p_.H + item_->head;
    return static_cast<float*>(p_.states) +
           ((unit * Shape::kParts + item_->part) * 2 + direction) * Shape::kStateFloats;
  }
  __device__ float* DecayOf(int state) const {
    return static_cast<float*>(p_.states) + static_cast<int64_t>(p_.max_states) * p_.H * 2 * D * D +
           static_cast<int64_t>(item_->state + state) * p_.H + item_->head;
  }
  __device__ int64_t Column() const { return static_cast<int64_t>(item_->head) * D + item_->part * Shape::kColumns; }
  __device__ int64_t Stride() const { return static_cast<int64_t>(p_.H) * D; }

  __device__ Pairs PlaceOf(int pair) const {
    const int64_t token = item_->start + pair * kPair;
    return Pairs(place_ + (token * Stride() + Column()) * place_element_, place_element_, Stride());
  }

  // What the segments before (direction 0) or after (1) add up to at this one's border.
  __device__ void LoadBorder(int direction, State<D>* state) const {
    state->Zero();
    if (item_->count > kMaxUnscanned) return state->ScaleAndAddGlobal(0, StateOf(item_->index, direction));
    if (direction == 0) {
      for (int i = 0; i < item_->index; ++i) state->ScaleAndAddGlobal(__ldcg(DecayOf(i)), StateOf(i, 0));
    } else {
      for (int i = item_->count - 1; i > item_->index; --i) state->ScaleAndAddGlobal(__ldcg(DecayOf(i)), StateOf(i, 1));
    }
  }

  // y of a tile from o. Every warp has read q.
  __device__ void Store(const float (&o)[State<D>::kSize], int token, int n, unsigned char* q) const {
    const int64_t at = token * Stride() + Column();
    if (std::is_same_v<T, __half> && p_.y_float32) {
      StoreWideRows<D>(o, n, static_cast<float*>(p_.y) + at, Stride());
    } else {
      StoreRows<T, D>(o, n, q, static_cast<T*>(p_.y) + at, Stride());
    }
  }

  // ------------------------------------------------------------------------------------- the walk from the end

  // One tile of the walk: B = all B + sum_j back_pre_j k_j v_j^T; F, if wanted, += after * sum_j suf_j k_j v_j^T.
  template <bool kForward>
  __device__ void SumTile(int offset, int n, const TileDecays& decays, float after, State<D>* backward,
                          State<D>* forward) {
    unsigned char* k[Shape::kParts];
    WaitWide(offset, k);
    unsigned char* v = Wait(offset + kWide);
    DropTail(k, v, n);
    if constexpr (Shape::kParts == 1) {
      uint32_t keys[4][4];
      uint32_t a[4][4];
      uint32_t b[4][4];
      LoadKeys<T, D>(k[0], keys);
      ScaleKeys<T>(keys, decays.back_pre, 1, b);
      if (kForward) ScaleKeys<T>(keys, decays.suf, after, a);
      backward->Scale(decays.all);
      hopper::ProductFence();
      AddOuter<T, D>(b, v, backward->r[0]);
      if (kForward) AddOuter<T, D>(a, v, forward->r[0]);
      hopper::ProductCommit();
      hopper::ProductWait<0>();
      hopper::HoldRegisters(backward->r[0]);
      if (kForward) hopper::HoldRegisters(forward->r[0]);
    } else {
      backward->Scale(decays.all);
#pragma unroll
      for (int m = 0; m < Shape::kParts; ++m) {
        uint32_t keys[4][4];
        uint32_t a[4][4];
        LoadKeys<T, D>(k[m], keys);
        ScaleKeys<T>(keys, decays.back_pre, 1, a);
        Outer(a, v, backward->r[m]);
        if (kForward) {
          ScaleKeys<T>(keys, decays.suf, after, a);
          Outer(a, v, forward->r[m]);
        }
      }
    }
  }

  __device__ void Outer(const uint32_t (&a)[4][4], const unsigned char* v, float (&r)[State<D>::kSize]) {
    hopper::ProductFence();
    AddOuter<T, D>(a, v, r);
    hopper::ProductCommit();
    hopper::ProductWait<0>();
    hopper::HoldRegisters(r);
  }

  // The walk over an item's pairs from the last to `first`, which leaves B where the pairs' y is going to be. Returns
  // the product of the walked pairs' decays.
  template <bool kForward>
  __device__ float WalkBack(int first, State<D>* backward, State<D>* forward) {
    backward->Zero();
    if (kForward) forward->Zero();
    float after = 1;
    for (int pair = item_->pairs() - 1; pair >= first; --pair) {
      const int n = item_->length - pair * kPair;
      MakeStepDecays(n, shared_->decays);
      int slots = 0;
      if (n > kTile) {
        SumTile<kForward>(0, n - kTile, shared_->decays[1], after, backward, forward);
        after *= shared_->decays[1].all;
        slots = kKV;
      }
      SumTile<kForward>(slots, n, shared_->decays[0], after, backward, forward);
      after *= shared_->decays[0].all;
      if (pair > 0) PlaceOf(pair - 1).Store(*backward);
      Release(slots + kKV);
    }
    return after;
  }

  // state += sum_j k_j v_j^T over all pairs of n tokens.
  __device__ void SumUnmasked(int n, State<D>* state) {
    for (; n > 0; n -= kPair) {
      int slots = 0;
      if (n > kTile) AddUnmasked(0, n - kTile, state), slots = kKV;
      AddUnmasked(slots, n, state);
      Release(slots + kKV);
    }
  }
  __device__ void AddUnmasked(int offset, int n, State<D>* state) {
    unsigned char* k[Shape::kParts];
    WaitWide(offset, k);
    unsigned char* v = Wait(offset + kWide);
    DropTail(k, v, n);
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
      uint32_t keys[4][4];
      LoadKeys<T, D>(k[m], keys);
      Outer(keys, v, state->r[m]);
    }
  }

  __device__ void SumItem() {
    State<D> forward;
    if (!masked_) {
      forward.Zero();
      SumUnmasked(item_->length, &forward);
      forward.StoreGlobal(StateOf(item_->index, 0));
      if (threadIdx.x == 0 && item_->part == 0) *DecayOf(item_->index) = 1;
      return;
    }
    State<D> backward;
    const float all = WalkBack<true>(0, &backward, &forward);
    forward.StoreGlobal(StateOf(item_->index, 0));
    backward.StoreGlobal(StateOf(item_->index, 1));
    if (threadIdx.x == 0 && item_->part == 0) *DecayOf(item_->index) = all;
  }

  // ---------------------------------------------------------------------------------------------------- outputs

  // Adds a tile of keys to o: its scores against q, masked, times v.
  template <Mask kMask>
  __device__ void AddScores(unsigned char* const (&q)[Shape::kParts], unsigned char* const (&k)[Shape::kParts],
                            const unsigned char* v, const TileDecays& rows, const TileDecays& keys, float g,
                            float (&o)[State<D>::kSize]) {
    float s[32];
    uint32_t masked[4][4];
    hopper::ProductFence();
    Scores<T, D>(q, k, s);
    hopper::ProductCommit();
    hopper::ProductWait<0>();
    hopper::HoldRegisters(s);
    MaskScores<T, kMask>(s, rows, keys, log_scale_, g, masked);
    hopper::ProductFence();
    TimesValues<T, D>(masked, v, o);
    hopper::ProductCommit();
    hopper::ProductWait<0>();
    hopper::HoldRegisters(o);
  }

  // A state in shared memory, and what a product with it is to be multiplied by.
  struct InShared {
    const unsigned char* state;
    float factor;
  };

  // y of one tile, and F past it if `carry`. The states are visible in shared memory.
  __device__ void Tile(int q_offset, unsigned char* const (&k)[Shape::kParts], unsigned char* v, int token, int n,
                       const TileDecays& decays, const InShared& before, const InShared& after, bool carry,
                       State<D>* forward) {
    unsigned char* q[Shape::kParts];
    WaitWide(q_offset, q);
    float s[32];
    float o[State<D>::kSize];
    float t[State<D>::kSize];
    hopper::ProductFence();
    Scores<T, D>(q, k, s);
    TimesState<T, D>(q, before.state, o);
    TimesState<T, D>(q, after.state, t);
    hopper::ProductCommit();
    hopper::ProductWait<0>();
    hopper::HoldRegisters(s);
    hopper::HoldRegisters(o);
    hopper::HoldRegisters(t);
    SyncWarpgroup();  // every warp has read q and the states

    uint32_t masked[4][4];
    MaskScores<T, Mask::kInside>(s, decays, decays, log_scale_, 1, masked);
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    const float pre[2] = {decays.pre[row] * p_.scale * before.factor, decays.pre[row + 8] * p_.scale * before.factor};
    const float suf[2] = {decays.back_suf[row] * p_.scale * after.factor,
                          decays.back_suf[row + 8] * p_.scale * after.factor};
#pragma unroll
    for (int i = 0; i < State<D>::kSize; ++i) o[i] = pre[i / 2 % 2] * o[i] + suf[i / 2 % 2] * t[i];
    if (!carry) {
      hopper::ProductFence();
      TimesValues<T, D>(masked, v, o);
      hopper::ProductCommit();
      hopper::ProductWait<0>();
      hopper::HoldRegisters(o);
      return Store(o, token, n, q[0]);
    }
    uint32_t keys[Shape::kParts][4][4];
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) {
      uint32_t plain[4][4];
      LoadKeys<T, D>(k[m], plain);
      ScaleKeys<T>(plain, decays.suf, 1, keys[m]);
    }
    forward->Scale(decays.all);
    hopper::ProductFence();
    TimesValues<T, D>(masked, v, o);
    hopper::ProductCommit();
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) AddOuter<T, D>(keys[m], v, forward->r[m]);
    hopper::ProductCommit();
    hopper::ProductWait<1>();
    hopper::HoldRegisters(o);
    Store(o, token, n, q[0]);
    hopper::ProductWait<0>();
#pragma unroll
    for (int m = 0; m < Shape::kParts; ++m) hopper::HoldRegisters(forward->r[m]);
  }

  __device__ InShared Share(State<D>* state, unsigned char* to) {
    return {to, StoreShared<T, D>(*state, shared_->largest, to)};
  }

  // prod of a from each pair's end to the segment's, in shared_->after.
  __device__ void MakeAfter() {
    constexpr int kTokens = kMaxSegmentTokens / kBlockThreads;  // of a thread
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int token = threadIdx.x * kTokens + i;
      if (token < item_->length) sum += Log2A(*LogAAt(p_, item_->start + token, item_->head));
    }
    constexpr int kLanes = kPair / kTokens;
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) sum += __shfl_xor_sync(0xFFFFFFFFu, sum, step);
    SyncWarpgroup();  // the item before has read it
    if (threadIdx.x % kLanes == 0) shared_->after[threadIdx.x / kLanes] = sum;
    SyncWarpgroup();
    float after = 0;
    if (threadIdx.x < kBlockThreads / kLanes) {
      for (int pair = static_cast<int>(threadIdx.x) + 1; pair < kBlockThreads / kLanes; ++pair) {
        after += shared_->after[pair];
      }
    }
    SyncWarpgroup();
    if (threadIdx.x < kBlockThreads / kLanes) shared_->after[threadIdx.x] = Exp2(after);
    SyncWarpgroup();
  }

  __device__ void ChunkedItem() {
    State<D> forward;
    State<D> backward;
    bool has_border = false;
    constexpr bool kKeepBorder = D <= 64;  // in registers; else it is read again for each pair
    State<kKeepBorder ? D : 32> border;
    const int pairs = item_->pairs();
    forward.Zero();
    if (item_->kind == Kind::kRow) {
      if (pairs > 1) WalkBack<false>(1, &backward, nullptr);
    } else {
      has_border = item_->index + 1 < item_->count;
      if (has_border) {
        MakeAfter();
        if constexpr (kKeepBorder) LoadBorder(1, &border);
      }
      if (item_->index > 0) LoadBorder(0, &forward);
    }

    // What the next pair needs of device memory is asked for one pair ahead.
    constexpr bool kAhead = Pairs::kVectors <= 4;
    uint4 ahead[Pairs::kVectors];
    if (kAhead && pairs > 1) PlaceOf(0).Load(ahead);
    for (int pair = 0; pair < pairs; ++pair) {
      const int token = item_->start + pair * kPair;
      const int n = item_->length - pair * kPair;
      const bool two = n > kTile;
      const bool last = pair + 1 == pairs;
      MakeStepDecays(n, shared_->decays);
      const TileDecays& first = shared_->decays[0];
      const TileDecays& second = shared_->decays[1];

      // B at the pair's end: of the segment's later pairs and of what lies after the segment.
      if (last) {
        backward.Zero();
      } else {
        if (!kAhead) PlaceOf(pair).Load(ahead);
        Pairs::Widen(ahead, &backward);
        if (kAhead && pair + 2 < pairs) PlaceOf(pair + 1).Load(ahead);
      }
      if (has_border) {
        const float after = shared_->after[pair];
        if constexpr (kKeepBorder) {
#pragma unroll
          for (int i = 0; i < State<D>::kSize; ++i) backward.r[0][i] += after * border.r[0][i];
        } else {
          State<D> far;
          LoadBorder(1, &far);
#pragma unroll
          for (int m = 0; m < Shape::kParts; ++m) {
#pragma unroll
            for (int i = 0; i < State<D>::kSize; ++i) backward.r[m][i] += after * far.r[m][i];
          }
        }
      }
      const InShared at_end = Share(&backward, shared_->backward[1]);

      // B at the end of the first tile.
      constexpr int kFirst = 2 * kWide + 1;  // slots of the first tile's k, q and v; then the second's k, v and q
      InShared between = at_end;
      if (two) {
        SumTile<false>(kFirst, n - kTile, second, 1, &backward, nullptr);
        between = Share(&backward, shared_->backward[0]);
      }
      InShared before = Share(&forward, shared_->forward);
      unsigned char* k[Shape::kParts];
      WaitWide(0, k);
      unsigned char* v = Wait(2 * kWide);
      DropTail(k, v, n);
      hopper::FenceShared();
      SyncWarpgroup();
      Tile(kWide, k, v, token, min(n, kTile), first, before, between, two || !last, &forward);
      if (two) {
        before = Share(&forward, shared_->forward);
        Release(kFirst);
        WaitWide(0, k);
        v = Wait(kWide);
        Tile(kKV, k, v, token + kTile, min(n - kTile, kTile), second, before, at_end, !last, &forward);
      }
      Release(kFirst);
    }
  }

  __device__ void UnmaskedItem() {
    State<D> state;
    state.Zero();
    if (item_->kind != Kind::kSegment) {
      SumUnmasked(item_->row_length, &state);
    } else if (item_->count > kMaxUnscanned) {
      state.ScaleAndAddGlobal(0, StateOf(0, 1));
    } else {
      for (int i = 0; i < item_->count; ++i) state.ScaleAndAddGlobal(1, StateOf(i, 0));
    }
    const float factor = p_.scale * StoreShared<T, D>(state, shared_->largest, shared_->forward);
    hopper::FenceShared();
    SyncWarpgroup();
    for (int at = 0; at < item_->length; at += kPair) {
      const bool two = item_->length - at > kTile;
      for (int tile = 0; tile < (two ? 2 : 1); ++tile) {
        unsigned char* q[Shape::kParts];
        WaitWide(tile * kWide, q);
        float o[State<D>::kSize];
        hopper::ProductFence();
        TimesState<T, D>(q, shared_->forward, o);
        hopper::ProductCommit();
        hopper::ProductWait<0>();
        hopper::HoldRegisters(o);
        SyncWarpgroup();  // every warp has read q
#pragma unroll
        for (int i = 0; i < State<D>::kSize; ++i) o[i] *= factor;
        const int start = at + tile * kTile;
        Store(o, item_->start + start, min(kTile, item_->length - start), q[0]);
      }
      Release(two ? 2 * kWide : kWide);
    }
  }

  // Full attention of at most two tiles of rows against their whole row: its own pair, the pairs before from the
  // nearest, the pairs after from the nearest.
  __device__ void ParallelItem() {
    float o[2][State<D>::kSize];
#pragma unroll
    for (int i = 0; i < State<D>::kSize; ++i) o[0][i] = o[1][i] = 0;
    const bool two_rows = item_->length > kTile;
    const int own = (item_->start - item_->row_start) / kPair;
    const Steps steps(*item_, true);
    const TileDecays* rows = shared_->decays;
    float g = p_.scale;
    for (int step = 0; step < steps.total; ++step) {
      const int pair = steps.PairOf(*item_, true, step);
      const int n = item_->row_length - pair * kPair;
      TileDecays* keys = step == 0 ? shared_->decays : reinterpret_cast<TileDecays*>(shared_->forward);
      MakeStepDecays(n, keys);
      if (pair == own + 1) g = p_.scale;
      unsigned char* q[2][Shape::kParts];
      WaitWide(0, q[0]);
      int offset = kWide;
      if (two_rows) WaitWide(offset, q[1]), offset += kWide;
      for (int tile = 0; tile * kTile < min(n, kPair); ++tile) {
        unsigned char* k[Shape::kParts];
        WaitWide(offset, k);
        unsigned char* v = Wait(offset + kWide);
        offset += kKV;
        DropTail(k, v, n - tile * kTile);
        const TileDecays& key = keys[tile];
        if (pair < own) {
          const float near = tile == 0 ? g * keys[1].all : g;
          AddScores<Mask::kBefore>(q[0], k, v, rows[0], key, near, o[0]);
          if (two_rows) AddScores<Mask::kBefore>(q[1], k, v, rows[1], key, near * rows[0].all, o[1]);
        } else if (pair > own) {
          const float near = tile == 1 ? g * keys[0].all : g;
          AddScores<Mask::kAfter>(q[0], k, v, rows[0], key, near * rows[1].all, o[0]);
          AddScores<Mask::kAfter>(q[1], k, v, rows[1], key, near, o[1]);
        } else if (tile == 0) {
          AddScores<Mask::kInside>(q[0], k, v, rows[0], key, 1, o[0]);
          if (two_rows) AddScores<Mask::kBefore>(q[1], k, v, rows[1], key, g, o[1]);
        } else {
          AddScores<Mask::kAfter>(q[0], k, v, rows[0], key, g, o[0]);
          AddScores<Mask::kInside>(q[1], k, v, rows[1], key, 1, o[1]);
        }
      }
      if (pair != own) g *= keys[0].all * keys[1].all;
      if (step + 1 == steps.total) {
        SyncWarpgroup();  // every warp has read q
        Store(o[0], item_->start, min(item_->length, kTile), q[0][0]);
        if (two_rows) Store(o[1], item_->start + kTile, item_->length - kTile, q[1][0]);
      }
      Release(offset);
    }
  }

  const AttentionParams& p_;
  Memory* shared_;
  Ring<Memory::kSlots> ring_;
  Ring<Memory::kLogPairs> logs_;
  const Item* item_ = nullptr;
  bool masked_;
  float log_scale_;
  char* place_;
  int place_element_;
};

}  // namespace lion::cuda

#endif  // LION_MODEL_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
