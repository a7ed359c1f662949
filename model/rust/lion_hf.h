// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_MODEL_RUST_LION_HF_H_
#define LION_MODEL_RUST_LION_HF_H_

// The C interface of the Rust library: Hugging Face tokenizers, sentences, the safetensors header check.
//
// For model/tokenizer and model/safetensors.cc alone; everyone else uses their headers. The layouts here
// are written down a second time in src/lib.rs: change both.
//
// Calls that can fail return a LionHfCode. On anything but LION_HF_OK *error is a message (UTF-8, one line, NUL at its
// end) that the caller frees with lion_hf_error_free, and the other outputs are untouched. A panic inside Rust comes
// back as LION_HF_INTERNAL; nothing unwinds across this border.
// Threads: a LionHfTokenizer is never written after it was opened; any number of threads may use it at once.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum LionHfCode {
  LION_HF_OK = 0,
  LION_HF_INVALID_ARGUMENT = 1,  // what the caller gave: text, limit, file
  LION_HF_INTERNAL = 2,          // the crate failed or panicked
};

void lion_hf_error_free(char* error);

// --- Tokenizer ---

typedef struct LionHfTokenizer LionHfTokenizer;

// A text as it came: need not be UTF-8 (that is checked) and has no NUL at its end. data may be null if size is 0.
typedef struct LionHfText {
  const uint8_t* data;
  size_t size;
} LionHfText;

// Threads of the caller's. run calls body(argument, i) once for each i below n, on any threads, and returns when all
// calls have returned. body never unwinds.
typedef struct LionHfThreads {
  void (*run)(void* context, size_t n, void (*body)(void* argument, size_t i), void* argument);
  void* context;
} LionHfThreads;

typedef struct LionHfEncodeOptions {
  size_t max_tokens;             // 0 = no limit
  int32_t keep_end;              // what a limit keeps: 0 the beginning (cut right), 1 the end (cut left)
  int32_t want_spans;            // 0 or 1
  int32_t want_tokens;           // 0 or 1
  int32_t stop_at_limit;         // 0 or 1: one text need not be read beyond the limit, if its beginning is kept
  const LionHfThreads* threads;  // for long texts; null = all on the calling thread
} LionHfEncodeOptions;

// Half open.
typedef struct LionHfRange {
  size_t begin;
  size_t end;
} LionHfRange;

// Half open, bytes of the text.
typedef struct LionHfSpan {
  uint32_t start;
  uint32_t end;
} LionHfSpan;

// The arrays belong to owner and live until lion_hf_encoding_free.
typedef struct LionHfEncoding {
  const uint32_t* ids;       // size
  const uint32_t* type_ids;  // size
  const LionHfSpan* spans;   // size; null unless asked for
  const char* tokens;  // all tokens end to end, token i at [token_ends[i-1], token_ends[i]); null unless asked for
  const size_t* token_ends;  // size; null unless asked for
  size_t size;
  size_t untruncated_size;  // with stop_at_limit only known to be above size where it is
  LionHfRange texts[2];     // the tokens of each text; empty where there is no pair
  void* owner;
} LionHfEncoding;

// json is the text of a tokenizer.json; it is not kept.
int32_t lion_hf_tokenizer_open(const uint8_t* json, size_t size, LionHfTokenizer** tokenizer, char** error);
void lion_hf_tokenizer_free(LionHfTokenizer* tokenizer);
size_t lion_hf_tokenizer_vocab_size(const LionHfTokenizer* tokenizer);
size_t lion_hf_tokenizer_num_special_tokens(const LionHfTokenizer* tokenizer, int32_t pair);

// pair may be null: one text.
int32_t lion_hf_tokenizer_encode(const LionHfTokenizer* tokenizer, const LionHfText* text, const LionHfText* pair,
                                 const LionHfEncodeOptions* options, LionHfEncoding* encoding, char** error);
void lion_hf_encoding_free(LionHfEncoding* encoding);

// --- Sentences ---

// The array belongs to owner and lives until lion_hf_offsets_free.
typedef struct LionHfOffsets {
  const uint32_t* offsets;
  size_t size;
  void* owner;
} LionHfOffsets;

// The byte at which each sentence of the text starts (model/tokenizer/sentences.h), in rising order, the first 0; none
// of the empty text.
int32_t lion_hf_sentence_starts(const LionHfText* text, LionHfOffsets* starts, char** error);
void lion_hf_offsets_free(LionHfOffsets* offsets);

// --- Safetensors ---

typedef struct LionHfTensor {
  const char* name;  // name_size bytes of UTF-8, any character included
  size_t name_size;
  const char* dtype;  // "F32", NUL at its end, static
  const int64_t* shape;
  size_t rank;
  size_t begin;  // [begin, end) of the file; inside it, and as long as shape and dtype say
  size_t end;
} LionHfTensor;

// The arrays belong to owner and live until lion_hf_tensors_free.
typedef struct LionHfTensors {
  const LionHfTensor* tensors;
  size_t size;
  void* owner;
} LionHfTensors;

// Checks the header of a whole safetensors file in memory and lists its tensors by name. Only the header is read.
int32_t lion_hf_safetensors_read(const uint8_t* file, size_t size, LionHfTensors* tensors, char** error);
void lion_hf_tensors_free(LionHfTensors* tensors);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // LION_MODEL_RUST_LION_HF_H_
