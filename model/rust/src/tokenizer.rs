// Copyright 2026 The LION Serve Authors
// SPDX-License-Identifier: Apache-2.0

//! One text or a pair to ids, types, byte spans and tokens, equal to what `tokenizers::Tokenizer::encode` gives, but in
//! memory that does not grow with text beyond the limit.
//!
//! 1. `tokenize` turns each text into its own tokens, in pieces where that is exact (`Cuts`), and keeps no more of them
//!    than the limit leaves room for.
//! 2. `longest_first` says how many of each text stay.
//! 3. The layout, learnt from the post-processor when the file was opened, puts them and the special tokens in order.

use crate::Error;
use tokenizers::{
    Encoding, NormalizerWrapper, OffsetType, PostProcessorWrapper, PreTokenizer, PreTokenizerWrapper, Tokenizer,
};
use unicode_categories::UnicodeCategories;

/// Text is cut into pieces of at least this size. Small enough for a second-level cache (the crate needs some 60 bytes a
/// byte of text), large enough that the cuts cost nothing.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Clone, Copy)]
pub struct Options {
    /// 0 = no limit.
    pub max_tokens: usize,
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

impl Sequence {
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
            sequences.push(self.tokenize(text, room, options)?);
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

    /// The tokens of one text, without special ones; at most `room` are kept.
    fn tokenize(&self, text: &str, room: usize, options: Options) -> Result<Sequence, Error> {
        // Post-processors that move spans look at the tokens to do so.
        let tokens = options.tokens || (options.spans && self.moves_spans);
        let offsets = if options.spans || tokens { OffsetType::Byte } else { OffsetType::None };
        let mut sequence = Sequence::default();
        let mut begin = 0;
        loop {
            let end = self.cuts.piece_end(text, begin);
            let piece = self.tokenize_piece(&text[begin..end], offsets).map_err(|e| Error::internal(e.to_string()))?;
            sequence.total += piece.len();
            sequence.ids.extend_from_slice(piece.get_ids());
            if options.spans {
                // Offsets lie in the text, whose length fits u32.
                sequence.spans.extend(
                    piece.get_offsets().iter().map(|o| Span { start: (begin + o.0) as u32, end: (begin + o.1) as u32 }),
                );
            }
            if tokens {
                sequence.tokens.extend_from_slice(piece.get_tokens());
            }
            sequence.keep(room, options.keep_end);
            begin = end;
            if begin == text.len() {
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

    /// The end of the piece that begins at `begin`: the first cut at least PIECE_BYTES on, or the end of the text.
    fn piece_end(&self, text: &str, begin: usize) -> usize {
        let mut from = begin + PIECE_BYTES;
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
