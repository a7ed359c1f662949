// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

#ifndef LION_CLIENT_PARQUET_LION_PARQUET_H_
#define LION_CLIENT_PARQUET_LION_PARQUET_H_

// The C interface of the Rust library: a table, a row group at a time, as the bytes of a Parquet file.
//
// For client/parquet_writer.cc alone, which knows what the columns mean and where the bytes go; the library knows
// neither. The layouts here are written down a second time in src/lib.rs: change both.
//
// Calls that can fail return a LionParquetCode. On anything but LION_PARQUET_OK *error is a message (UTF-8, one line,
// NUL at its end) that the caller frees with lion_parquet_error_free, and the writer is good for lion_parquet_free
// alone. A panic inside Rust comes back as LION_PARQUET_INTERNAL; nothing unwinds across this border.
// Threads: one at a time, any.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum LionParquetCode {
  LION_PARQUET_OK = 0,
  LION_PARQUET_WRITE = 1,     // LionParquetSink::write refused the bytes
  LION_PARQUET_INTERNAL = 2,  // columns that do not fit the schema; or the crate failed or panicked
};

void lion_parquet_error_free(char* error);

typedef struct LionParquetWriter LionParquetWriter;

// What is not UTF-8 in it becomes U+FFFD. No NUL at its end. data may be null if size is 0.
typedef struct LionParquetText {
  const char* data;
  size_t size;
} LionParquetText;

// Where the file's bytes go, in order. write returns 0, or anything else if it could not take them all; it never
// unwinds. It is called by open, write_rows and finish alone, on the calling thread.
typedef struct LionParquetSink {
  int32_t (*write)(void* context, const uint8_t* data, size_t size);
  void* context;
} LionParquetSink;

// The values of one leaf of the schema, a row group's: an int32, int64, float or boolean leaf, bare or in a group, or a
// list of such. By its type values points to int32_t (uint32_t for an INTEGER(32,false)), int64_t, float, uint8_t (0 or
// 1) or, for a binary, LionParquetText.
typedef struct LionParquetColumn {
  const void* values;  // of all rows, end to end
  size_t num_values;
  const uint32_t*
      counts;  // a row's values, num_rows times: 0 = null, else 1, of a list its length; null pointer: all 1
} LionParquetColumn;

// schema is in Parquet's own notation, "message rows { required int64 index; }". It is not kept.
int32_t lion_parquet_open(LionParquetText schema, LionParquetSink sink, LionParquetWriter** writer, char** error);

// One row group. columns are the schema's leaves, in its order; they are not kept, and written as they come: the
// library holds a page of them (about 1 MiB) at a time, and copies of texts.
int32_t lion_parquet_write_rows(LionParquetWriter* writer, const LionParquetColumn* columns, size_t num_columns,
                                size_t num_rows, char** error);

// The file's end, without which nobody can read it. Once.
int32_t lion_parquet_finish(LionParquetWriter* writer, char** error);

// writer may be null.
void lion_parquet_free(LionParquetWriter* writer);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // LION_CLIENT_PARQUET_LION_PARQUET_H_
