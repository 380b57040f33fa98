package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// span is a part of a word that a pattern matched, or did not. The spans of a
// word follow each other without a gap.
type span struct {
	start, end int
	match      bool
}

// newPreTokenizer returns the function of one pre-tokenizer of a
// tokenizer.json: words in, words out. Empty words vanish.
func newPreTokenizer(p PreTokenizer) (func([]part) ([]part, error), error) {
	chars := func(behavior string, is func(rune) bool) (func([]part) ([]part, error), error) {
		return splitter(behavior, false, func(s string) ([]span, error) { return spansOf(s, is), nil }), nil
	}
	switch p.Type {
	case "ByteLevel":
		return newByteLevel(p)
	case "BertPreTokenizer":
		return func(parts []part) ([]part, error) {
			return splitWith(parts, func(s string) []string {
				var out []string
				for _, word := range strings.FieldsFunc(s, unicode.IsSpace) {
					out = append(out, arrange("Isolated", word, spansOf(word, isPunctuation))...)
				}
				return out
			}), nil
		}, nil
	case "CharDelimiterSplit":
		delimiter, _ := utf8.DecodeRuneInString(p.Delimiter)
		return chars("Removed", func(r rune) bool { return r == delimiter })
	case "WhitespaceSplit":
		return chars("Removed", unicode.IsSpace)
	case "Punctuation":
		return chars(p.Behavior, isPunctuation)
	case "Digits":
		if p.IndividualDigits {
			return chars("Isolated", setNumber.has)
		}
		return chars("Contiguous", setNumber.has)
	case "Whitespace":
		re, err := compileRegex(`\w+|[^\w\s]+`, rustDialect)
		if err != nil {
			return nil, err
		}
		return splitter("Removed", true, regexSpans(re)), nil
	case "Split":
		if p.Pattern.Regex == "" {
			return splitter(p.Behavior, p.Invert, func(s string) ([]span, error) {
				return literalSpans(s, p.Pattern.String), nil
			}), nil
		}
		re, err := compileRegex(p.Pattern.Regex, onigDialect)
		if err != nil {
			return nil, err
		}
		return splitter(p.Behavior, p.Invert, regexSpans(re)), nil
	case "Metaspace":
		return newMetaspace(p), nil
	case "FixedLength":
		return func(parts []part) ([]part, error) {
			return splitWith(parts, func(s string) []string { return chunks(s, p.Length) }), nil
		}, nil
	}
	return nil, fmt.Errorf("pre-tokenizer %q is not implemented", p.Type)
}

// isPunctuation is punctuation to BERT: of Unicode, and all ASCII symbols.
func isPunctuation(r rune) bool {
	return setPunctuation.has(r) || r < 0x7F && setSymbol.has(r)
}

// splitWith replaces each word by those that f makes of it.
func splitWith(parts []part, f func(string) []string) []part {
	var out []part
	for _, p := range parts {
		for i, s := range f(p.text) {
			if s != "" {
				out = append(out, part{s, p.first && i == 0})
			}
		}
	}
	return out
}

// splitter cuts words at the matches of a pattern.
func splitter(behavior string, invert bool, match func(string) ([]span, error)) func([]part) ([]part, error) {
	return func(parts []part) ([]part, error) {
		var failed error
		out := splitWith(parts, func(s string) []string {
			spans, err := match(s)
			if err != nil {
				failed = err
			}
			if invert {
				for i := range spans {
					spans[i].match = !spans[i].match
				}
			}
			return arrange(behavior, s, spans)
		})
		return out, failed
	}
}

// arrange makes words of the spans of text (NormalizedString::split of
// tokenizers).
func arrange(behavior, text string, spans []span) []string {
	var words []span
	last := false
	switch behavior {
	case "Isolated":
		words = spans
	case "Removed":
		for _, s := range spans {
			if s.match {
				s.end = s.start // empty, so that what follows does not start the text
			}
			words = append(words, s)
		}
	case "Contiguous", "MergedWithPrevious":
		for _, s := range spans {
			joins := s.match && !last
			if behavior == "Contiguous" {
				joins = s.match == last
			}
			if n := len(words); joins && n > 0 {
				words[n-1].end = s.end
			} else {
				words = append(words, s)
			}
			last = s.match
		}
	case "MergedWithNext":
		for _, s := range slices.Backward(spans) {
			if n := len(words); s.match && !last && n > 0 {
				words[n-1].start = s.start
			} else {
				words = append(words, s)
			}
			last = s.match
		}
		slices.Reverse(words)
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = text[w.start:w.end]
	}
	return out
}

// spansOf matches single characters.
func spansOf(s string, is func(rune) bool) []span {
	var out []span
	last := 0
	for i, r := range s {
		if !is(r) {
			continue
		}
		if i > last {
			out = append(out, span{last, i, false})
		}
		last = i + utf8.RuneLen(r)
		out = append(out, span{i, last, true})
	}
	if last < len(s) {
		out = append(out, span{last, len(s), false})
	}
	return out
}

// literalSpans matches a fixed text.
func literalSpans(s, pattern string) []span {
	var out []span
	last := 0
	for pattern != "" {
		i := strings.Index(s[last:], pattern)
		if i < 0 {
			break
		}
		if i > 0 {
			out = append(out, span{last, last + i, false})
		}
		last += i + len(pattern)
		out = append(out, span{last - len(pattern), last, true})
	}
	if last < len(s) {
		out = append(out, span{last, len(s), false})
	}
	return out
}

func regexSpans(re *regex) func(string) ([]span, error) {
	return func(s string) ([]span, error) {
		var out []span
		at := 0
		err := eachMatch(re, s, func(text string, match bool) {
			out = append(out, span{at, at + len(text), match})
			at += len(text)
		})
		return out, err
	}
}

func newByteLevel(p PreTokenizer) (func([]part) ([]part, error), error) {
	re, err := compileRegex(gpt2Regex, onigDialect)
	if err != nil {
		return nil, err
	}
	split := splitter("Isolated", false, regexSpans(re))
	return func(parts []part) ([]part, error) {
		if p.AddPrefixSpace {
			prefixed := make([]part, len(parts))
			for i, q := range parts {
				if !strings.HasPrefix(q.text, " ") {
					q.text = " " + q.text
				}
				prefixed[i] = q
			}
			parts = prefixed
		}
		if p.UseRegex {
			var err error
			if parts, err = split(parts); err != nil {
				return nil, err
			}
		}
		out := make([]part, len(parts))
		for i, q := range parts {
			out[i] = part{toByteAlphabet(q.text), q.first}
		}
		return out, nil
	}, nil
}

func newMetaspace(p PreTokenizer) func([]part) ([]part, error) {
	return func(parts []part) ([]part, error) {
		var out []part
		for _, q := range parts {
			text := strings.ReplaceAll(q.text, " ", p.Replacement)
			if (p.PrependScheme == "always" || p.PrependScheme == "first" && q.first) && !strings.HasPrefix(text, p.Replacement) {
				text = p.Replacement + text
			}
			if !p.SplitWords {
				out = append(out, part{text, q.first})
				continue
			}
			out = append(out, splitWith([]part{{text, q.first}}, func(s string) []string {
				return arrange("MergedWithNext", s, literalSpans(s, p.Replacement))
			})...)
		}
		return out, nil
	}
}

// chunks cuts s after every n characters.
func chunks(s string, n int) []string {
	var out []string
	start, count := 0, 0
	for i := range s {
		if count == n {
			out = append(out, s[start:i])
			start, count = i, 0
		}
		count++
	}
	return append(out, s[start:])
}
