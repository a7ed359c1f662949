// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! The C interface (lion_hf.h has the contract): pointers in, pointers out, and no panic across the border.

mod safetensors;
mod sentences;
mod tokenizer;

use std::cell::RefCell;
use std::ffi::{c_char, c_void, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::{null, null_mut};
use std::sync::Once;
use tokenizer::{Encoded, Options, Parallel, Range, Span, TextEncoder};

#[derive(Clone, Copy)]
pub enum Code {
    InvalidArgument = 1,
    Internal = 2,
}

pub struct Error {
    code: Code,
    message: String,
}

impl Error {
    pub fn invalid(message: String) -> Self {
        Self { code: Code::InvalidArgument, message }
    }
    pub fn internal(message: String) -> Self {
        Self { code: Code::Internal, message }
    }
}

thread_local! {
    /// The panic that is on its way to `guarded`.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the panic said that was just caught on this thread.
pub fn take_panic() -> String {
    PANIC.take()
}

/// Panics become errors, so they are not also printed: a server's log has one line for one failure.
fn keep_panics_off_stderr() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let payload = info.payload();
            let what = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let place = info.location().map_or(String::new(), |l| {
                format!(" ({}:{})", l.file().rsplit('/').next().unwrap_or_default(), l.line())
            });
            PANIC.set(format!("panic: {what}{place}"));
        }))
    });
}

/// Runs `work` and turns its error, or its panic, into a code and a message.
///
/// # Safety
/// `error` can be written.
unsafe fn guarded(error: *mut *mut c_char, work: impl FnOnce() -> Result<(), Error>) -> i32 {
    keep_panics_off_stderr();
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return 0,
        Ok(Err(failure)) => failure,
        Err(_) => Error::internal(take_panic()),
    };
    // One line, and a C string.
    let line: String = failure.message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    *error = CString::new(line).unwrap_or_default().into_raw();
    failure.code as i32
}

/// Runs `work`, which has no way to fail but a panic; that gives `otherwise`.
fn unfailing<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

/// # Safety
/// `data` points to `size` readable bytes, or `size` is 0.
unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

/// # Safety
/// `error` came from this library, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_error_free(error: *mut c_char) {
    if !error.is_null() {
        unfailing((), || drop(CString::from_raw(error)));
    }
}

#[repr(C)]
pub struct Text {
    data: *const u8,
    size: usize,
}

/// The caller's threads, as lion_hf.h has them.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Threads {
    run: unsafe extern "C" fn(*mut c_void, usize, unsafe extern "C" fn(*mut c_void, usize), *mut c_void),
    context: *mut c_void,
}

type Body<'a> = &'a (dyn Fn(usize) + Sync);

unsafe extern "C" fn call_body(body: *mut c_void, i: usize) {
    (*body.cast::<Body>())(i);
}

impl Parallel for Threads {
    fn run(&self, n: usize, body: Body) {
        let mut body = body;
        unsafe { (self.run)(self.context, n, call_body, std::ptr::from_mut(&mut body).cast()) }
    }
}

#[repr(C)]
pub struct EncodeOptions {
    max_tokens: usize,
    keep_end: i32,
    want_spans: i32,
    want_tokens: i32,
    stop_at_limit: i32,
    threads: *const Threads,
}

#[repr(C)]
pub struct Encoding {
    ids: *const u32,
    type_ids: *const u32,
    spans: *const Span,
    tokens: *const c_char,
    token_ends: *const usize,
    size: usize,
    untruncated_size: usize,
    texts: [Range; 2],
    owner: *mut c_void,
}

/// # Safety
/// As lion_hf.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tokenizer_open(
    json: *const u8,
    size: usize,
    tokenizer: *mut *mut TextEncoder,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || {
        *tokenizer = Box::into_raw(Box::new(TextEncoder::open(bytes(json, size))?));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is null or came from lion_hf_tokenizer_open, and is freed once.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tokenizer_free(tokenizer: *mut TextEncoder) {
    if !tokenizer.is_null() {
        unfailing((), || drop(Box::from_raw(tokenizer)));
    }
}

/// # Safety
/// `tokenizer` came from lion_hf_tokenizer_open.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tokenizer_vocab_size(tokenizer: *const TextEncoder) -> usize {
    unfailing(0, || (*tokenizer).vocab_size())
}

/// # Safety
/// `tokenizer` came from lion_hf_tokenizer_open.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tokenizer_num_special_tokens(tokenizer: *const TextEncoder, pair: i32) -> usize {
    unfailing(0, || (*tokenizer).num_special_tokens(pair != 0))
}

/// # Safety
/// As lion_hf.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tokenizer_encode(
    tokenizer: *const TextEncoder,
    text: *const Text,
    pair: *const Text,
    options: *const EncodeOptions,
    encoding: *mut Encoding,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || {
        let mut texts = vec![bytes((*text).data, (*text).size)];
        if !pair.is_null() {
            texts.push(bytes((*pair).data, (*pair).size));
        }
        let options = Options {
            max_tokens: (*options).max_tokens,
            stop_at_limit: (*options).stop_at_limit != 0,
            parallel: (*options).threads.as_ref().map(|threads| threads as &dyn Parallel),
            keep_end: (*options).keep_end != 0,
            spans: (*options).want_spans != 0,
            tokens: (*options).want_tokens != 0,
        };
        let encoded = Box::new((*tokenizer).encode(&texts, options)?);
        *encoding = Encoding {
            ids: encoded.ids.as_ptr(),
            type_ids: encoded.type_ids.as_ptr(),
            spans: if options.spans { encoded.spans.as_ptr() } else { null() },
            tokens: if options.tokens { encoded.tokens.as_ptr().cast() } else { null() },
            token_ends: if options.tokens { encoded.token_ends.as_ptr() } else { null() },
            size: encoded.ids.len(),
            untruncated_size: encoded.untruncated,
            texts: encoded.texts,
            owner: Box::into_raw(encoded).cast(),
        };
        Ok(())
    })
}

/// # Safety
/// `encoding` was filled by lion_hf_tokenizer_encode.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_encoding_free(encoding: *mut Encoding) {
    let owner = std::mem::replace(&mut (*encoding).owner, null_mut());
    if !owner.is_null() {
        unfailing((), || drop(Box::from_raw(owner.cast::<Encoded>())));
    }
}

#[repr(C)]
pub struct Offsets {
    offsets: *const u32,
    size: usize,
    owner: *mut c_void,
}

/// # Safety
/// As lion_hf.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_sentence_starts(
    text: *const Text,
    starts: *mut Offsets,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || {
        let owner = Box::new(sentences::starts(bytes((*text).data, (*text).size))?);
        *starts = Offsets { offsets: owner.as_ptr(), size: owner.len(), owner: Box::into_raw(owner).cast() };
        Ok(())
    })
}

/// # Safety
/// `offsets` was filled by lion_hf_sentence_starts.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_offsets_free(offsets: *mut Offsets) {
    let owner = std::mem::replace(&mut (*offsets).owner, null_mut());
    if !owner.is_null() {
        unfailing((), || drop(Box::from_raw(owner.cast::<Vec<u32>>())));
    }
}

#[repr(C)]
pub struct Tensor {
    name: *const c_char,
    name_size: usize,
    dtype: *const c_char,
    shape: *const i64,
    rank: usize,
    begin: usize,
    end: usize,
}

#[repr(C)]
pub struct Tensors {
    tensors: *const Tensor,
    size: usize,
    owner: *mut c_void,
}

/// What the pointers of a `Tensors` point into.
struct TensorsOwner {
    views: Vec<Tensor>,
    _tensors: Vec<safetensors::Tensor>,
}

/// # Safety
/// As lion_hf.h says.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_safetensors_read(
    file: *const u8,
    size: usize,
    tensors: *mut Tensors,
    error: *mut *mut c_char,
) -> i32 {
    guarded(error, || {
        let read = safetensors::read(bytes(file, size))?;
        let views = read
            .iter()
            .map(|t| Tensor {
                name: t.name.as_ptr().cast(),
                name_size: t.name.len(),
                dtype: t.dtype.as_ptr(),
                shape: t.shape.as_ptr(),
                rank: t.shape.len(),
                begin: t.begin,
                end: t.end,
            })
            .collect();
        let owner = Box::new(TensorsOwner { views, _tensors: read });
        *tensors =
            Tensors { tensors: owner.views.as_ptr(), size: owner.views.len(), owner: Box::into_raw(owner).cast() };
        Ok(())
    })
}

/// # Safety
/// `tensors` was filled by lion_hf_safetensors_read.
#[no_mangle]
pub unsafe extern "C" fn lion_hf_tensors_free(tensors: *mut Tensors) {
    let owner = std::mem::replace(&mut (*tensors).owner, null_mut());
    if !owner.is_null() {
        unfailing((), || drop(Box::from_raw(owner.cast::<TensorsOwner>())));
    }
}
