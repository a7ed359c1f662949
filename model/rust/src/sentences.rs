// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! Where the sentences of a text start: Unicode's rules (UAX 29), but a line's end alone ends no sentence.

use crate::Error;
use unicode_segmentation::UnicodeSegmentation;

/// The bytes at which they start. Not UTF-8, or 4 GiB and more, is the caller's fault.
pub fn starts(text: &[u8]) -> Result<Vec<u32>, Error> {
    if u32::try_from(text.len()).is_err() {
        return Err(Error::invalid(format!("text of {} bytes, the limit is {}", text.len(), u32::MAX)));
    }
    let text = std::str::from_utf8(text)
        .map_err(|e| Error::invalid(format!("text is not UTF-8 at byte {}", e.valid_up_to())))?;
    let joined = join_lines(text);
    // At most 4 GiB: seen above.
    #[allow(clippy::cast_possible_truncation)]
    Ok(joined.split_sentence_bound_indices().map(|(start, _)| start as u32).collect())
}

/// The text with a space for every line end that has no empty line beside it, byte for byte as long.
fn join_lines(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut joined = bytes.to_vec();
    // Of the last line end: whether it stands, being one of several.
    let mut empty_before = true;
    for i in 0..bytes.len() {
        match bytes[i] {
            b'\n' => {
                let empty_after = bytes[i + 1..].iter().find(|b| !matches!(b, b' ' | b'\t' | b'\r')) == Some(&b'\n');
                if !empty_before && !empty_after {
                    joined[i] = b' ';
                    if i > 0 && bytes[i - 1] == b'\r' {
                        joined[i - 1] = b' ';
                    }
                }
                empty_before = true;
            }
            b' ' | b'\t' | b'\r' => {}
            _ => empty_before = false,
        }
    }
    // Only single bytes of ASCII were put in the place of others.
    String::from_utf8(joined).unwrap_or_default()
}
