// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! One text or a pair to ids, types, byte spans and tokens, equal to what `tokenizers::Tokenizer::encode` gives, but in
//! memory that does not grow with text beyond the limit.
//!
//! 1. `tokenize` turns each text into its own tokens, in pieces where that is exact (`Cuts`), and keeps no more of them
//!    than the limit leaves room for. A long text's pieces are spread over the caller's threads (`Parallel`): since a cut
//!    changes no token, neither does that.
//! 2. `longest_first` says how many of each text stay.
//! 3. The layout, learnt from the post-processor when the file was opened, puts them and the special tokens in order.

use crate::Error;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Mutex;
use tokenizers::{
    Encoding, ModelWrapper, NormalizerWrapper, OffsetType, PostProcessorWrapper, PreTokenizer, PreTokenizerWrapper, Tokenizer,
};
use unicode_categories::UnicodeCategories;

/// Text is cut into pieces of at least this size. Small enough for a second-level cache (the crate needs some 60 bytes a
/// byte of text), large enough that the cuts cost nothing.
const PIECE_BYTES: usize = 64 << 10;

/// A text is divided between threads in parts of at least this size: some ten milliseconds each, so that what waits for
/// one of those threads meanwhile does not wait long.
const PART_BYTES: usize = 2 * PIECE_BYTES;

/// Parts that are on their way together: what a limit cuts off is not kept beyond them.
const MAX_PARTS: usize = 128;

/// The caller's threads.
pub trait Parallel {
    /// Calls `body` once with each number below `n`, on any threads, and returns when all calls have returned.
    fn run(&self, n: usize, body: &(dyn Fn(usize) + Sync));
}

#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// 0 = no limit.
    pub max_tokens: usize,
    /// Whether one text (not a pair) of which the beginning is kept need not be read beyond the limit: `untruncated`
    /// is then only known to be above it.
    pub stop_at_limit: bool,
    /// None: all on this thread.
    pub parallel: Option<&'a dyn Parallel>,
    /// What the limit keeps: the end, or else the beginning.
    pub keep_end: bool,
    pub spans: bool,
    pub tokens: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// `spans` and `token_ends` are as long as `ids` where asked for, else empty.
#[derive(Default)]
pub struct Encoded {
    pub ids: Vec<u32>,
    pub type_ids: Vec<u32>,
    pub spans: Vec<Span>,
    pub tokens: String,
    pub token_ends: Vec<usize>,
    pub untruncated: usize,
    /// Where the tokens of each text lie: [begin, end). The second is empty where there is no pair.
    pub texts: [Range; 2],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Range {
    pub begin: usize,
    pub end: usize,
}

/// What the post-processor lays out: special tokens, and where each text goes.
enum Part {
    Special { id: u32, type_id: u32, token: String },
    Text { index: usize, type_id: u32 },
}

struct Layout {
    parts: Vec<Part>,
    specials: usize,
}

/// The tokens of one text: those that the limit can keep, and how many there were.
#[derive(Default)]
struct Sequence {
    ids: Vec<u32>,
    spans: Vec<Span>,
    tokens: Vec<String>,
    total: usize,
}

/// What is wanted of a text's tokens.
#[derive(Clone, Copy)]
struct Work {
    /// At most so many are kept.
    room: usize,
    /// The last are kept, or else the first.
    keep_end: bool,
    /// Once there are more than `room`, the rest need not be counted.
    stop: bool,
    spans: bool,
    tokens: bool,
}

impl Work {
    fn ends_at(&self, total: usize) -> bool {
        self.stop && total > self.room
    }
}

impl Sequence {
    /// Takes the tokens that follow, of which no more are kept than `work` says.
    fn append(&mut self, mut next: Sequence, work: Work) {
        self.total += next.total;
        self.ids.append(&mut next.ids);
        self.spans.append(&mut next.spans);
        self.tokens.append(&mut next.tokens);
        self.keep(work.room, work.keep_end);
    }

    /// Drops all but the first, or last, `count` tokens.
    fn keep(&mut self, count: usize, end: bool) {
        fn cut<T>(v: &mut Vec<T>, count: usize, end: bool) {
            if v.len() <= count {
            } else if end {
                v.drain(..v.len() - count);
            } else {
                v.truncate(count);
            }
        }
        cut(&mut self.ids, count, end);
        cut(&mut self.spans, count, end);
        cut(&mut self.tokens, count, end);
    }
}

pub struct TextEncoder {
    tokenizer: Tokenizer,
    layouts: [Layout; 2],
    cuts: Cuts,
    /// Words of more characters are the unknown token; None: not known of this tokenizer.
    max_word_chars: Option<usize>,
    moves_spans: bool,
    vocab_size: usize,
}

impl TextEncoder {
    pub fn open(json: &[u8]) -> Result<Self, Error> {
        let mut tokenizer =
            Tokenizer::from_bytes(json).map_err(|e| Error::invalid(format!("not a tokenizer.json: {e}")))?;
        // Limits are the caller's business, and batches are not padded.
        tokenizer.with_truncation(None).map_err(|e| Error::internal(e.to_string()))?;
        tokenizer.with_padding(None);

        let layouts = [learn_layout(&tokenizer, 1)?, learn_layout(&tokenizer, 2)?];
        // Not the number of entries: ids may have gaps.
        let specials = layouts.iter().flat_map(|l| &l.parts).filter_map(|part| match part {
            Part::Special { id, .. } => Some(*id),
            Part::Text { .. } => None,
        });
        let vocab_size = tokenizer.get_vocab(true).into_values().chain(specials).max().map_or(0, |id| id as usize + 1);
        Ok(Self {
            cuts: Cuts::of(&tokenizer),
            max_word_chars: max_word_chars(&tokenizer),
            moves_spans: moves_spans(tokenizer.get_post_processor()),
            layouts,
            tokenizer,
            vocab_size,
        })
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn num_special_tokens(&self, pair: bool) -> usize {
        self.layouts[usize::from(pair)].specials
    }

    /// `texts`: one, or a pair.
    pub fn encode(&self, texts: &[&[u8]], options: Options) -> Result<Encoded, Error> {
        let layout = &self.layouts[texts.len() - 1];
        let room = match options.max_tokens {
            0 => usize::MAX,
            max => max.checked_sub(layout.specials).ok_or_else(|| {
                Error::invalid(format!(
                    "max_tokens is {max}, below the {} special tokens that are always added",
                    layout.specials
                ))
            })?,
        };
        let work = Work {
            room,
            stop: options.stop_at_limit && !options.keep_end && texts.len() == 1,
            keep_end: options.keep_end,
            spans: options.spans,
            tokens: options.tokens,
        };
        let mut sequences = Vec::with_capacity(texts.len());
        let mut valid = Vec::with_capacity(texts.len());
        for (i, bytes) in texts.iter().enumerate() {
            let which = if texts.len() == 1 { "text" } else { ["first text", "second text"][i] };
            let text = std::str::from_utf8(bytes)
                .map_err(|e| Error::invalid(format!("the {which} is not UTF-8 from byte {} on", e.valid_up_to())))?;
            if u32::try_from(text.len()).is_err() {
                return Err(Error::invalid(format!(
                    "the {which} has {} bytes, above the limit of {}",
                    text.len(),
                    u32::MAX
                )));
            }
            sequences.push(self.tokenize(text, work, options.parallel)?);
            valid.push(text);
        }

        let totals = [sequences[0].total, sequences.get(1).map_or(0, |s| s.total)];
        let counts = longest_first(totals, room);
        for (sequence, count) in sequences.iter_mut().zip(counts) {
            sequence.keep(count, options.keep_end);
        }
        let mut encoded = lay_out(layout, &sequences, options);
        encoded.untruncated = encoded.ids.len()
            + (totals[0] - sequences[0].ids.len())
            + sequences.get(1).map_or(0, |s| totals[1] - s.ids.len());
        if options.spans && self.moves_spans {
            encoded.spans = self.moved_spans(&valid, sequences, encoded.ids.len())?;
        }
        Ok(encoded)
    }

    /// The tokens of one text, without special ones.
    fn tokenize(&self, text: &str, work: Work, parallel: Option<&dyn Parallel>) -> Result<Sequence, Error> {
        let mut sequence = Sequence::default();
        let mut begin = 0;
        loop {
            let mut parts = vec![];
            while parts.is_empty() || (begin < text.len() && parts.len() < MAX_PARTS) {
                let end = self.cuts.next(text, begin, PART_BYTES);
                parts.push((begin, end));
                begin = end;
            }
            match parallel {
                Some(parallel) if parts.len() > 1 => {
                    for part in self.tokenize_parts(text, &parts, work, parallel) {
                        sequence.append(part?, work);
                    }
                }
                _ => {
                    for part in parts {
                        sequence.append(self.tokenize_part(text, part, work)?, work);
                        if work.ends_at(sequence.total) {
                            break;
                        }
                    }
                }
            }
            if begin == text.len() || work.ends_at(sequence.total) {
                return Ok(sequence);
            }
        }
    }

    /// `tokenize_part` of each of them, by `parallel`.
    fn tokenize_parts(
        &self,
        text: &str,
        parts: &[(usize, usize)],
        work: Work,
        parallel: &dyn Parallel,
    ) -> Vec<Result<Sequence, Error>> {
        let results: Vec<Mutex<Option<Result<Sequence, Error>>>> = parts.iter().map(|_| Mutex::new(None)).collect();
        parallel.run(parts.len(), &|i| {
            // It may be a thread that knows nothing of Rust: no panic leaves here.
            let part = AssertUnwindSafe(|| self.tokenize_part(text, parts[i], work));
            let result = catch_unwind(part).unwrap_or_else(|_| Err(Error::internal(crate::take_panic())));
            *results[i].lock().unwrap() = Some(result);
        });
        let missing = || Err(Error::internal("a part of the text was not tokenized".into()));
        results.into_iter().map(|r| r.into_inner().unwrap().unwrap_or_else(missing)).collect()
    }

    fn tokenize_part(&self, text: &str, part: (usize, usize), work: Work) -> Result<Sequence, Error> {
        // Post-processors that move spans look at the tokens to do so.
        let tokens = work.tokens || (work.spans && self.moves_spans);
        let offsets = if work.spans || tokens { OffsetType::Byte } else { OffsetType::None };
        let mut sequence = Sequence::default();
        let mut begin = part.0;
        loop {
            let end = self.cuts.next(text, begin, PIECE_BYTES).min(part.1);
            let whole = &text[begin..end];
            let short = self.max_word_chars.and_then(|chars| Shortened::of(whole, chars));
            let piece = self.tokenize_piece(short.as_ref().map_or(whole, |s| &s.text), offsets);
            let piece = piece.map_err(|e| Error::internal(e.to_string()))?;
            let at = |offset: usize| (begin + short.as_ref().map_or(offset, |s| s.original(offset))) as u32;
            sequence.total += piece.len();
            sequence.ids.extend_from_slice(piece.get_ids());
            if work.spans {
                // Offsets lie in the text, whose length fits u32.
                sequence.spans.extend(piece.get_offsets().iter().map(|o| Span { start: at(o.0), end: at(o.1) }));
            }
            if tokens {
                sequence.tokens.extend_from_slice(piece.get_tokens());
            }
            sequence.keep(work.room, work.keep_end);
            begin = end;
            if begin == part.1 || work.ends_at(sequence.total) {
                return Ok(sequence);
            }
        }
    }

    /// What `Tokenizer::encode` does with a text before it post-processes.
    fn tokenize_piece(&self, text: &str, offsets: OffsetType) -> tokenizers::Result<Encoding> {
        let tokenizer = &self.tokenizer;
        let mut words = tokenizer.get_added_vocabulary().extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut words)?;
        }
        words.tokenize(|word| tokenizers::Model::tokenize(tokenizer.get_model(), word.get()))?;
        words.into_encoding(None, 0, offsets)
    }

    /// The spans as the post-processor leaves them, for those that trim the spaces off a token's span. They count a space
    /// as 1, so they are given characters: in bytes they would cut characters in two.
    fn moved_spans(&self, texts: &[&str], sequences: Vec<Sequence>, size: usize) -> Result<Vec<Span>, Error> {
        let characters: Vec<Characters> = texts.iter().map(|text| Characters::of(text)).collect();
        let mut encodings = sequences.into_iter().zip(&characters).enumerate().map(|(i, (sequence, characters))| {
            let n = sequence.ids.len();
            let offsets = sequence.spans.iter().map(|s| (characters.at(s.start), characters.at(s.end))).collect();
            encoding(sequence.ids, sequence.tokens, offsets, vec![Some(i as u32); n], i as u32)
        });
        let first = encodings.next().unwrap_or_default();
        let processed =
            self.tokenizer.post_process(first, encodings.next(), true).map_err(|e| Error::internal(e.to_string()))?;
        if processed.len() != size {
            return Err(Error::internal(format!("{} tokens after post-processing, not {size}", processed.len())));
        }
        let spans = processed.get_offsets().iter().zip(processed.get_word_ids()).map(|(offsets, index)| match index {
            Some(index) => {
                let characters = &characters[*index as usize];
                Span { start: characters.begin(offsets.0), end: characters.begin(offsets.1) }
            }
            None => Span::default(),
        });
        Ok(spans.collect())
    }
}

/// Where each character of a text begins, and where the text ends.
struct Characters(Vec<u32>);

impl Characters {
    fn of(text: &str) -> Self {
        Self(text.char_indices().map(|(at, _)| at).chain([text.len()]).map(|at| at as u32).collect())
    }
    /// The number of the character that holds this byte.
    fn at(&self, byte: u32) -> usize {
        self.0.partition_point(|&begin| begin <= byte) - 1
    }
    fn begin(&self, character: usize) -> u32 {
        self.0[character.min(self.0.len() - 1)]
    }
}

fn encoding(
    ids: Vec<u32>,
    tokens: Vec<String>,
    offsets: Vec<(usize, usize)>,
    words: Vec<Option<u32>>,
    type_id: u32,
) -> Encoding {
    let n = ids.len();
    Encoding::new(ids, vec![type_id; n], tokens, words, offsets, vec![0; n], vec![1; n], vec![], Default::default())
}

/// Post-processes texts of one token each and reads off what stands around them: post-processors place special tokens
/// and choose type ids without regard to what the texts are.
fn learn_layout(tokenizer: &Tokenizer, texts: usize) -> Result<Layout, Error> {
    // The number of the text travels as the word's number, which special tokens do not have.
    let text = |i: u32| encoding(vec![0], vec!["x".into()], vec![(0, 1)], vec![Some(i)], i);
    let processed = tokenizer
        .post_process(text(0), (texts == 2).then(|| text(1)), true)
        .map_err(|e| Error::invalid(format!("its post-processor fails: {e}")))?;
    let parts: Vec<Part> = (0..processed.len())
        .map(|i| {
            let type_id = processed.get_type_ids()[i];
            match processed.get_word_ids()[i] {
                Some(index) => Part::Text { index: index as usize, type_id },
                None => Part::Special { id: processed.get_ids()[i], type_id, token: processed.get_tokens()[i].clone() },
            }
        })
        .collect();
    for index in 0..texts {
        let uses = parts.iter().filter(|p| matches!(p, Part::Text { index: i, .. } if *i == index)).count();
        if uses != 1 {
            let name = if texts == 1 { "the text" } else { ["a pair's first text", "a pair's second text"][index] };
            return Err(Error::invalid(format!("its post-processor uses {name} {uses} times, not once")));
        }
    }
    let specials = parts.len() - texts;
    Ok(Layout { parts, specials })
}

fn lay_out(layout: &Layout, sequences: &[Sequence], options: Options) -> Encoded {
    let size = layout.specials + sequences.iter().map(|s| s.ids.len()).sum::<usize>();
    let mut out = Encoded { ids: Vec::with_capacity(size), type_ids: Vec::with_capacity(size), ..Default::default() };
    let mut push_token = |tokens: &mut String, token: &str| {
        tokens.push_str(token);
        out.token_ends.push(tokens.len());
    };
    for part in &layout.parts {
        match part {
            Part::Special { id, type_id, token } => {
                out.ids.push(*id);
                out.type_ids.push(*type_id);
                if options.spans {
                    out.spans.push(Span::default());
                }
                if options.tokens {
                    push_token(&mut out.tokens, token);
                }
            }
            Part::Text { index, type_id } => {
                let sequence = &sequences[*index];
                out.texts[*index] = Range { begin: out.ids.len(), end: out.ids.len() + sequence.ids.len() };
                out.ids.extend_from_slice(&sequence.ids);
                out.type_ids.resize(out.ids.len(), *type_id);
                out.spans.extend_from_slice(&sequence.spans);
                if options.tokens {
                    sequence.tokens.iter().for_each(|token| push_token(&mut out.tokens, token));
                }
            }
        }
    }
    out
}

/// How many tokens of each text stay where `room` is left for both: the longer one loses first, then both alike. Equal
/// to the crate's own LongestFirst.
fn longest_first(totals: [usize; 2], room: usize) -> [usize; 2] {
    let [short, long] = if totals[0] <= totals[1] { totals } else { [totals[1], totals[0]] };
    if short.saturating_add(long) <= room {
        return totals;
    }
    let (short, long) = if short <= room / 2 { (short, room - short) } else { (room / 2, room - room / 2) };
    if totals[0] <= totals[1] {
        [short, long]
    } else {
        [long, short]
    }
}

/// Where a text may be cut so that the pieces give the same tokens as the whole.
enum Cuts {
    Never,
    /// Before ASCII white space.
    BeforeSpace,
    /// Also before every character that begins a word of its own, or ends one: white space, punctuation, and ideographs
    /// where `ideographs`; but not inside an added token, of which `added` has the contents.
    BeforeWord {
        ideographs: bool,
        added: Vec<Vec<u8>>,
    },
}

impl Cuts {
    fn of(tokenizer: &Tokenizer) -> Self {
        if !cuts_at_whitespace(tokenizer) {
            return Self::Never;
        }
        // No normalizer that composes characters: "=" begins a word, "=" and the stroke after it may become one letter.
        let ideographs = match tokenizer.get_normalizer() {
            None => Some(false),
            Some(NormalizerWrapper::BertNormalizer(bert)) => Some(bert.handle_chinese_chars),
            Some(_) => None,
        };
        // The first ends words at punctuation; `cuts_at_whitespace` has seen to it that those after it only split them.
        let isolates = match tokenizer.get_pre_tokenizer() {
            Some(PreTokenizerWrapper::BertPreTokenizer(_)) => true,
            Some(PreTokenizerWrapper::Sequence(all)) => {
                matches!(all.as_ref().first(), Some(PreTokenizerWrapper::BertPreTokenizer(_)))
            }
            _ => false,
        };
        // Contents are then found in the text as it was given, whatever stands around them.
        let added = tokenizer.get_added_tokens_decoder();
        let found_as_given = added.values().all(|t| !t.normalized && !t.single_word);
        match ideographs {
            Some(ideographs) if isolates && found_as_given => {
                Self::BeforeWord { ideographs, added: added.values().map(|t| t.content.clone().into_bytes()).collect() }
            }
            _ => Self::BeforeSpace,
        }
    }

    /// The first cut at least `size` bytes behind `begin`, or the end of the text.
    fn next(&self, text: &str, begin: usize, size: usize) -> usize {
        let mut from = begin + size;
        if from >= text.len() {
            return text.len();
        }
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let cut = match self {
            Self::Never => None,
            Self::BeforeSpace => text.as_bytes()[from..].iter().position(|&b| is_ascii_space(b.into())),
            Self::BeforeWord { ideographs, added } => text[from..]
                .char_indices()
                .find(|&(at, c)| {
                    is_ascii_space(c)
                        || (c.is_ascii_punctuation() && !is_inside(text.as_bytes(), from + at, added))
                        || (!c.is_ascii() && (begins_word(c) || (*ideographs && is_ideograph(c))))
                })
                .map(|(at, _)| at),
        };
        cut.map_or(text.len(), |at| from + at)
    }
}

fn is_ascii_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Whether BertPreTokenizer ends words before `c`, and BertNormalizer neither drops it nor joins it to what stands
/// before it: white space and punctuation are no combining marks, and those that are decomposed stay what they are.
/// Controls are left out: white space to the one, some of them are nothing to the other.
fn begins_word(c: char) -> bool {
    (c.is_whitespace() && !c.is_control()) || c.is_punctuation()
}

/// What BertNormalizer puts spaces around (handle_chinese_chars).
fn is_ideograph(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

/// A piece without the middle of a word that is the unknown token however long it is: the crate needs some 60 bytes a
/// byte of what it is given.
struct Shortened {
    text: String,
    /// Where the middle was taken out, and how many bytes.
    at: usize,
    removed: usize,
}

impl Shortened {
    /// What stays of such a word at either end, in bytes: above the length of any added token's content.
    const KEPT_BYTES: usize = 8 << 10;

    /// None where the piece has no word of that kind. `max_chars`: of a word that may be more than the unknown token.
    fn of(piece: &str, max_chars: usize) -> Option<Self> {
        if piece.len() <= 2 * PIECE_BYTES {
            return None;
        }
        let (begin, end) = longest_word(piece);
        // Behind enough letters, and before a letter: marks stay with what they stand on.
        let mut letters = 0;
        let from = piece[begin..end].char_indices().find_map(|(at, c)| {
            letters += usize::from(is_letter(c));
            (letters > max_chars + 1 && at >= Self::KEPT_BYTES && is_letter(c)).then_some(begin + at)
        })?;
        let last = piece[begin..end].char_indices().rev();
        let to = last.skip_while(|&(at, c)| begin + at + Self::KEPT_BYTES > end || !is_letter(c)).map(|(at, _)| begin + at);
        let to = to.into_iter().next().filter(|&to| to > from)?;
        let mut text = String::with_capacity(piece.len() - (to - from));
        text.push_str(&piece[..from]);
        text.push_str(&piece[to..]);
        Some(Self { text, at: from, removed: to - from })
    }

    /// Where a byte of the short text stands in the piece. No token begins or ends in the middle.
    fn original(&self, offset: usize) -> usize {
        offset + if offset > self.at { self.removed } else { 0 }
    }
}

/// The longest run of letters, digits and marks: [begin, end).
fn longest_word(text: &str) -> (usize, usize) {
    let mut longest = (0, 0);
    let mut begin = 0;
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        if !is_letter(c) && !c.is_mark() {
            begin = end;
        } else if end - begin > longest.1 - longest.0 {
            longest = (begin, end);
        }
    }
    longest
}

/// What BertNormalizer turns into one character or more, none of which ends a word (canonical decompositions of letters
/// are letters and marks).
fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || (!c.is_ascii() && (c.is_letter() || c.is_number()) && !is_ideograph(c))
}

/// The limit of WordPiece's words, where nothing else looks into them: words are BertPreTokenizer's, and no added token
/// is made of letters alone.
fn max_word_chars(tokenizer: &Tokenizer) -> Option<usize> {
    let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
    let Cuts::BeforeWord { added, .. } = Cuts::of(tokenizer) else { return None };
    let one_word = matches!(tokenizer.get_pre_tokenizer(), Some(PreTokenizerWrapper::BertPreTokenizer(_)));
    let outside = |content: &Vec<u8>| {
        content.len() < Shortened::KEPT_BYTES && content.iter().any(|b| b.is_ascii() && !b.is_ascii_alphanumeric())
    };
    (one_word && added.iter().all(outside) && model.max_input_chars_per_word < Shortened::KEPT_BYTES)
        .then_some(model.max_input_chars_per_word)
}

/// Whether one of `contents` stands in the text across `at`. The crate takes the leftmost and longest of them; where
/// none stands across a cut it finds the same ones on either side.
fn is_inside(text: &[u8], at: usize, contents: &[Vec<u8>]) -> bool {
    contents.iter().any(|content| (1..content.len()).any(|n| n <= at && text[at - n..].starts_with(content)))
}

/// Whether a text cut before ASCII white space gives the same tokens as the whole: true where every normalizer maps
/// characters without looking across white space, where the first pre-tokenizer drops white space and ends words at it,
/// and where no added token can hold or swallow white space. BERT's and its kin; false whenever in doubt.
fn cuts_at_whitespace(tokenizer: &Tokenizer) -> bool {
    fn local_normalizer(normalizer: &NormalizerWrapper) -> bool {
        use NormalizerWrapper::*;
        match normalizer {
            BertNormalizer(_) | Lowercase(_) | StripAccents(_) | NFC(_) | NFD(_) | NFKC(_) | NFKD(_) => true,
            Sequence(all) => all.as_ref().iter().all(local_normalizer),
            _ => false,
        }
    }
    fn ends_words(pre_tokenizer: &PreTokenizerWrapper) -> bool {
        use PreTokenizerWrapper::*;
        match pre_tokenizer {
            BertPreTokenizer(_) | Whitespace(_) | WhitespaceSplit(_) => true,
            Sequence(all) => {
                let all = all.as_ref();
                all.first().is_some_and(ends_words)
                    && all[1..].iter().all(|p| matches!(p, Punctuation(_) | Digits(_)) || ends_words(p))
            }
            _ => false,
        }
    }
    tokenizer.get_normalizer().is_none_or(local_normalizer)
        && tokenizer.get_pre_tokenizer().is_some_and(ends_words)
        && tokenizer
            .get_added_tokens_decoder()
            .values()
            .all(|t| !t.lstrip && !t.rstrip && t.content.bytes().all(|b| b.is_ascii_graphic()))
}

/// Whether the post-processor changes the spans of a text's tokens. True whenever in doubt.
fn moves_spans(processor: Option<&PostProcessorWrapper>) -> bool {
    use PostProcessorWrapper::*;
    !matches!(processor, None | Some(Template(_) | Bert(_)))
}
