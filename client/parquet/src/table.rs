// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! Row groups through the parquet crate: here are the levels that say which rows are null and how long lists are.

use crate::{Column, Output, Text};
use parquet::basic::Type as Physical;
use parquet::column::writer::{ColumnWriter, ColumnWriterImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::SchemaDescriptor;
use std::sync::Arc;

/// Levels made at a time: enough to hide a call's cost, little beside a page.
const MAX_LEVELS: usize = 1 << 14;

pub enum Error {
    /// The sink refused bytes.
    Write,
    Internal(String),
}

pub struct Table {
    writer: SerializedFileWriter<Output>,
}

impl Table {
    pub fn open(schema: &str, output: Output) -> Result<Self, Error> {
        let internal = |e: ParquetError| Error::Internal(e.to_string());
        let schema = Arc::new(parse_message_type(schema).map_err(internal)?);
        let mut properties = WriterProperties::builder().set_created_by("lion-client".to_string());
        // Floats hardly repeat: a dictionary of them would only be given up, and held in memory until then. Nobody asks for
        // the smallest number of a vector.
        for leaf in SchemaDescriptor::new(schema.clone()).columns() {
            if leaf.physical_type() == Physical::FLOAT {
                properties = properties
                    .set_column_dictionary_enabled(leaf.path().clone(), false)
                    .set_column_statistics_enabled(leaf.path().clone(), EnabledStatistics::None);
            }
        }
        // The magic bytes are written here, into a buffer: no sink can refuse them yet.
        let writer = SerializedFileWriter::new(output, schema, Arc::new(properties.build())).map_err(internal)?;
        Ok(Self { writer })
    }

    /// # Safety
    /// `columns` are what lion_parquet.h says they are.
    pub unsafe fn write_rows(&mut self, columns: &[Column], num_rows: usize) -> Result<(), Error> {
        let result = self.write_columns(columns, num_rows);
        self.explain(result)
    }

    pub fn finish(&mut self) -> Result<(), Error> {
        let result = self.writer.finish().map(|_| ());
        self.explain(result)
    }

    unsafe fn write_columns(&mut self, columns: &[Column], num_rows: usize) -> Result<(), ParquetError> {
        let num_leaves = self.writer.schema_descr().num_columns();
        if columns.len() != num_leaves {
            return Err(general(format!("{} columns for a schema of {num_leaves}", columns.len())));
        }
        let mut group = self.writer.next_row_group()?;
        for column in columns {
            let counts = column.counts(num_rows);
            let mut chunk = group.next_column()?.ok_or_else(|| general("a column too few".to_string()))?;
            match chunk.untyped() {
                ColumnWriter::Int32ColumnWriter(w) => write(w, column.values(), counts, num_rows)?,
                ColumnWriter::Int64ColumnWriter(w) => write(w, column.values(), counts, num_rows)?,
                ColumnWriter::FloatColumnWriter(w) => write(w, column.values(), counts, num_rows)?,
                ColumnWriter::BoolColumnWriter(w) => {
                    let values: Vec<bool> = column.values::<u8>().iter().map(|&v| v != 0).collect();
                    write(w, &values, counts, num_rows)?;
                }
                ColumnWriter::ByteArrayColumnWriter(w) => {
                    let utf8 = |text: &Text| String::from_utf8_lossy(text.bytes()).into_owned().into_bytes();
                    let values: Vec<ByteArray> = column.values().iter().map(|text| utf8(text).into()).collect();
                    write(w, &values, counts, num_rows)?;
                }
                _ => return Err(general("a leaf of a type that is not written here".to_string())),
            }
            chunk.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// What the crate calls an error is the sink's, once that has refused.
    fn explain(&self, result: Result<(), ParquetError>) -> Result<(), Error> {
        result.map_err(|e| if self.writer.inner().open { Error::Internal(e.to_string()) } else { Error::Write })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.writer.inner_mut().open = false;
    }
}

fn general(message: String) -> ParquetError {
    ParquetError::General(message)
}

/// The values of one leaf. `counts` says how many each row has, None: one each.
fn write<T: DataType>(
    writer: &mut ColumnWriterImpl<T>,
    values: &[T::T],
    counts: Option<&[u32]>,
    num_rows: usize,
) -> Result<(), ParquetError> {
    let leaf = writer.get_descriptor().clone();
    let (max_def, max_rep) = (leaf.max_def_level(), leaf.max_rep_level());
    let total = counts.map_or(num_rows, |counts| counts.iter().map(|&n| n as usize).sum());
    let fits = |&n: &u32| (n > 0 || max_def > 0) && (n <= 1 || max_rep > 0);
    if total != values.len() || !counts.is_none_or(|counts| counts.iter().all(fits)) {
        let (path, given) = (leaf.path(), values.len());
        return Err(general(format!("{path}: {given} values do not fit {num_rows} rows of {total} by the schema")));
    }
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    let (mut row, mut at) = (0, 0);
    while row < num_rows {
        let begin = at;
        definitions.clear();
        repetitions.clear();
        while row < num_rows && definitions.len() < MAX_LEVELS {
            let n = counts.map_or(1, |counts| counts[row] as usize);
            // A null takes a place among the levels and none among the values.
            definitions.resize(definitions.len() + n.max(1), if n == 0 { 0 } else { max_def });
            repetitions.push(0);
            repetitions.resize(definitions.len(), 1);
            at += n;
            row += 1;
        }
        writer.write_batch(
            &values[begin..at],
            (max_def > 0).then_some(&definitions[..]),
            (max_rep > 0).then_some(&repetitions[..]),
        )?;
    }
    Ok(())
}
