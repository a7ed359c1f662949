// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! The C interface (lion_parquet.h has the contract): pointers in, bytes out, and no panic across the border.

mod table;

use std::ffi::{c_char, c_void, CString};
use std::io::{self, Write};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;
use table::{Error, Table};

const OK: i32 = 0;
const WRITE: i32 = 1;
const INTERNAL: i32 = 2;

/// A panic becomes an error, so it is not also printed.
fn keep_panics_off_stderr() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("no message"))
}

/// Runs `work` and turns its error, or its panic, into a code and a message.
///
/// # Safety
/// `error` can be written.
unsafe fn guarded(error: *mut *mut c_char, work: impl FnOnce() -> Result<(), Error>) -> i32 {
    keep_panics_off_stderr();
    let (code, message) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return OK,
        Ok(Err(Error::Write)) => (WRITE, "the bytes could not be written".to_string()),
        Ok(Err(Error::Internal(message))) => (INTERNAL, message),
        Err(payload) => (INTERNAL, panic_text(&*payload)),
    };
    // One line, and a C string.
    let line: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    *error = CString::new(line).unwrap_or_default().into_raw();
    code
}

/// # Safety
/// `error` came from this library, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn lion_parquet_error_free(error: *mut c_char) {
    if !error.is_null() {
        drop(CString::from_raw(error));
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Text {
    data: *const u8,
    size: usize,
}

/// # Safety
/// `data` points to `size` values, or `size` is 0.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

impl Text {
    /// # Safety
    /// `data` points to `size` bytes, or `size` is 0.
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        slice(self.data, self.size)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sink {
    write: unsafe extern "C" fn(*mut c_void, *const u8, usize) -> i32,
    context: *mut c_void,
}

/// The caller's sink for as long as it takes bytes: none after a refusal, and none that a buffer lets go of when it is
/// dropped.
pub struct Output {
    sink: Sink,
    pub open: bool,
}

// lion_parquet.h has one thread at a time.
unsafe impl Send for Output {}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.open = self.open && unsafe { (self.sink.write)(self.sink.context, data.as_ptr(), data.len()) } == 0;
        if self.open {
            Ok(data.len())
        } else {
            Err(io::ErrorKind::Other.into())
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[repr(C)]
pub struct Column {
    values: *const c_void,
    num_values: usize,
    counts: *const u32,
}

impl Column {
    /// # Safety
    /// `values` points to `num_values` of `T`.
    pub unsafe fn values<T>(&self) -> &[T] {
        slice(self.values.cast(), self.num_values)
    }
    pub fn num_values(&self) -> usize {
        self.num_values
    }
    /// # Safety
    /// `counts` is null or points to `num_rows` of them.
    pub unsafe fn counts(&self, num_rows: usize) -> Option<&[u32]> {
        (!self.counts.is_null()).then(|| slice(self.counts, num_rows))
    }
}

/// # Safety
/// As lion_parquet.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_parquet_open(
    schema: Text,
    sink: Sink,
    writer: *mut *mut Table,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || {
        let schema = String::from_utf8_lossy(schema.bytes());
        *writer = Box::into_raw(Box::new(Table::open(&schema, Output { sink, open: true })?));
        Ok(())
    })
}

/// # Safety
/// As lion_parquet.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_parquet_write_rows(
    writer: *mut Table,
    columns: *const Column,
    num_columns: usize,
    num_rows: usize,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || (*writer).write_rows(slice(columns, num_columns), num_rows))
}

/// # Safety
/// As lion_parquet.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_parquet_finish(writer: *mut Table, error: *mut *mut c_char) -> i32 {
    guarded(error, || (*writer).finish())
}

/// # Safety
/// `writer` is null or came from lion_parquet_open, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn lion_parquet_free(writer: *mut Table) {
    if !writer.is_null() {
        // Nothing to be done about a panic: what it held is lost with it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(writer))));
    }
}
