// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! The header of a safetensors file, checked by the safetensors crate; here are only the checks that the crate leaves
//! out, and messages that name the tensor and the numbers.

use crate::Error;
use safetensors::tensor::{Dtype, TensorInfo};
use safetensors::{SafeTensorError, SafeTensors};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use std::collections::HashSet;

const LENGTH_BYTES: usize = 8;
const MAX_HEADER_BYTES: u64 = 100_000_000; // the crate's own

pub struct Tensor {
    pub name: String,
    pub dtype: &'static std::ffi::CStr,
    pub shape: Vec<i64>,
    /// Of the whole file.
    pub begin: usize,
    pub end: usize,
}

/// The tensors of a whole file, by name.
pub fn read(file: &[u8]) -> Result<Vec<Tensor>, Error> {
    let (header_bytes, metadata) = SafeTensors::read_metadata(file).map_err(|e| Error::invalid(explain(file, e)))?;
    let data_begin = LENGTH_BYTES + header_bytes;
    refuse_repeated_names(&file[LENGTH_BYTES..data_begin])?;
    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        tensors.push(Tensor {
            dtype: dtype_name(info.dtype).ok_or_else(|| {
                Error::invalid(format!("tensor {} has the unknown dtype {}", shown(&name), info.dtype))
            })?,
            shape: signed_shape(&name, &info.shape)?,
            begin: data_begin + info.data_offsets.0,
            end: data_begin + info.data_offsets.1,
            name,
        });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

/// The crate counts elements in usize and lets a 0 hide a product that no int64 holds.
fn signed_shape(name: &str, shape: &[usize]) -> Result<Vec<i64>, Error> {
    let mut elements = 1i64;
    let mut signed = Vec::with_capacity(shape.len());
    for &dim in shape {
        let dim = i64::try_from(dim).ok();
        let product = dim.and_then(|d| elements.checked_mul(d));
        let (Some(dim), Some(product)) = (dim, product) else {
            return Err(Error::invalid(format!("tensor {}: shape {shape:?} is too large", shown(name))));
        };
        elements = product;
        signed.push(dim);
    }
    Ok(signed)
}

/// The crate keeps the last of several entries of one name; the format forbids them.
fn refuse_repeated_names(header: &[u8]) -> Result<(), Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut seen = HashSet::new();
            let mut repeated = None;
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if let Some(name) = seen.replace(name) {
                    repeated = Some(name);
                }
            }
            Ok(repeated)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    match serde::Deserializer::deserialize_map(&mut json, Names) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(Error::invalid(format!("the header has two entries named {}", shown(&name)))),
        Err(e) => Err(Error::invalid(format!("the header is not valid JSON: {e}"))),
    }
}

fn explain(file: &[u8], error: SafeTensorError) -> String {
    use SafeTensorError::*;
    let length = file.first_chunk::<LENGTH_BYTES>().map_or(0, |b| u64::from_le_bytes(*b));
    let file_bytes = file.len();
    match error {
        HeaderTooSmall => format!("the file has {file_bytes} bytes, too few for the length of a safetensors header"),
        HeaderTooLarge => {
            format!("the header's length is given as {length} bytes, above the limit of {MAX_HEADER_BYTES}")
        }
        InvalidHeaderLength => {
            format!("the header's length is given as {length} bytes, but the whole file has {file_bytes}")
        }
        InvalidHeader(e) => format!("the header is not UTF-8: {e}"),
        InvalidHeaderDeserialization(e) | JsonError(e) => format!("the header is not valid safetensors JSON: {e}"),
        MetadataIncompleteBuffer => {
            let data = file_bytes as u64 - LENGTH_BYTES as u64 - length;
            format!("its tensors do not fill the {data} bytes of data that follow the header: the file is cut or padded")
        }
        InvalidOffset(name) => format!(
            "tensor {}: its data_offsets do not begin where the tensor before it ends (overlap or hole), or run backwards",
            shown(&name)
        ),
        TensorInvalidInfo | ValidationOverflow | MisalignedSlice => misfit(file)
            .unwrap_or_else(|| "a tensor's data_offsets do not match its shape and dtype".to_string()),
        other => other.to_string(),
    }
}

/// Names a tensor whose offsets do not match its shape and dtype (the crate does not say which).
fn misfit(file: &[u8]) -> Option<String> {
    let header_bytes = usize::try_from(u64::from_le_bytes(*file.first_chunk::<LENGTH_BYTES>()?)).ok()?;
    let header = file.get(LENGTH_BYTES..LENGTH_BYTES.checked_add(header_bytes)?)?;
    let entries: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    entries.into_iter().filter(|(name, _)| name != "__metadata__").find_map(|(name, value)| {
        let info: TensorInfo = serde_json::from_value(value).ok()?;
        let given = info.data_offsets.1.checked_sub(info.data_offsets.0)?;
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &dim| n.checked_mul(dim));
        if bits.is_some_and(|bits| given.checked_mul(8) == Some(bits)) {
            return None;
        }
        let needed = bits.map_or("more bytes than can be counted".to_string(), |b| format!("{} bytes", b.div_ceil(8)));
        Some(format!(
            "tensor {}: its data_offsets give it {given} bytes, but shape {:?} of {} needs {needed}",
            shown(&name),
            info.shape,
            info.dtype
        ))
    })
}

/// A name for a message: quoted, escaped, and not longer than a line.
fn shown(name: &str) -> String {
    let head: String = name.chars().take(100).collect();
    format!("{head:?}{}", if head.len() < name.len() { "..." } else { "" })
}

fn dtype_name(dtype: Dtype) -> Option<&'static std::ffi::CStr> {
    Some(match dtype {
        Dtype::BOOL => c"BOOL",
        Dtype::F4 => c"F4",
        Dtype::F6_E2M3 => c"F6_E2M3",
        Dtype::F6_E3M2 => c"F6_E3M2",
        Dtype::U8 => c"U8",
        Dtype::I8 => c"I8",
        Dtype::F8_E5M2 => c"F8_E5M2",
        Dtype::F8_E4M3 => c"F8_E4M3",
        Dtype::F8_E8M0 => c"F8_E8M0",
        Dtype::I16 => c"I16",
        Dtype::U16 => c"U16",
        Dtype::F16 => c"F16",
        Dtype::BF16 => c"BF16",
        Dtype::I32 => c"I32",
        Dtype::U32 => c"U32",
        Dtype::F32 => c"F32",
        Dtype::C64 => c"C64",
        Dtype::F64 => c"F64",
        Dtype::I64 => c"I64",
        Dtype::U64 => c"U64",
        _ => return None,
    })
}
