package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// span is a part of a word that a pattern matched, or did not.
type span struct {
	text  string
	match bool
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
					out = append(out, arrange("Isolated", spansOf(word, isPunctuation))...)
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
		re, err := compileRegex(`\w+|[^\w\s]+`, onigDialect)
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
			return arrange(behavior, spans)
		})
		return out, failed
	}
}

// arrange makes words of spans (NormalizedString::split of tokenizers).
func arrange(behavior string, spans []span) []string {
	var out []string
	last := false
	switch behavior {
	case "Isolated":
		for _, s := range spans {
			out = append(out, s.text)
		}
	case "Removed":
		for _, s := range spans {
			if !s.match {
				out = append(out, s.text)
			} else if len(out) == 0 {
				out = append(out, "") // what follows does not start the text
			}
		}
	case "Contiguous":
		for _, s := range spans {
			if s.match == last && len(out) > 0 {
				out[len(out)-1] += s.text
			} else {
				out = append(out, s.text)
			}
			last = s.match
		}
	case "MergedWithPrevious":
		for _, s := range spans {
			if s.match && !last && len(out) > 0 {
				out[len(out)-1] += s.text
			} else {
				out = append(out, s.text)
			}
			last = s.match
		}
	case "MergedWithNext":
		for i := range spans {
			s := spans[len(spans)-1-i]
			if s.match && !last && len(out) > 0 {
				out[len(out)-1] = s.text + out[len(out)-1]
			} else {
				out = append(out, s.text)
			}
			last = s.match
		}
		for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
			out[i], out[j] = out[j], out[i]
		}
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
			out = append(out, span{s[last:i], false})
		}
		last = i + utf8.RuneLen(r)
		out = append(out, span{s[i:last], true})
	}
	if last < len(s) {
		out = append(out, span{s[last:], false})
	}
	return out
}

func literalSpans(s, pattern string) []span {
	if pattern == "" {
		return []span{{s, false}}
	}
	var out []span
	for {
		before, after, found := strings.Cut(s, pattern)
		if before != "" {
			out = append(out, span{before, false})
		}
		if !found {
			return out
		}
		out = append(out, span{pattern, true})
		s = after
	}
}

func regexSpans(re *regex) func(string) ([]span, error) {
	return func(s string) ([]span, error) {
		var out []span
		err := eachMatch(re, s, func(text string, match bool) { out = append(out, span{text, match}) })
		return out, err
	}
}

// byteLevelExpr is the expression of GPT-2.
const byteLevelExpr = cutGPT2 + `|\s+`

func newByteLevel(p PreTokenizer) (func([]part) ([]part, error), error) {
	re, err := compileRegex(byteLevelExpr, onigDialect)
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
				return arrange("MergedWithNext", literalSpans(s, p.Replacement))
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
