package tokenizer

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/text/unicode/norm"
)

// newNormalizer returns the function of one normalizer of a tokenizer.json.
func newNormalizer(n Normalizer) (func(string) (string, error), error) {
	plain := func(f func(string) string) (func(string) (string, error), error) {
		return func(s string) (string, error) { return f(s), nil }, nil
	}
	switch n.Type {
	case "NFC":
		return plain(norm.NFC.String)
	case "NFD":
		return plain(norm.NFD.String)
	case "NFKC":
		return plain(norm.NFKC.String)
	case "NFKD":
		return plain(norm.NFKD.String)
	case "Lowercase":
		return plain(lowerRunes)
	case "StripAccents":
		return plain(func(s string) string { return dropRunes(s, setMark.has) })
	case "Strip":
		return plain(func(s string) string {
			if n.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if n.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		})
	case "Nmt":
		return plain(normalizeNmt)
	case "Prepend":
		return plain(func(s string) string {
			if s == "" {
				return s
			}
			return n.Content + s
		})
	case "ByteLevel":
		return plain(toByteAlphabet)
	case "BertNormalizer":
		return plain(func(s string) string { return normalizeBert(&n, s) })
	case "Replace":
		if n.Pattern.Regex == "" {
			if n.Pattern.String == "" {
				return nil, errors.New("replaces the empty string")
			}
			return plain(func(s string) string { return strings.ReplaceAll(s, n.Pattern.String, n.Content) })
		}
		re, err := compileRegex(n.Pattern.Regex, onigDialect)
		if err != nil {
			return nil, err
		}
		return func(s string) (string, error) { return replaceMatches(re, s, n.Content) }, nil
	case "Precompiled":
		m, err := parseCharsmap(n.Charsmap)
		if err != nil {
			return nil, err
		}
		return func(s string) (string, error) { return normalizePrecompiled(m, s) }, nil
	}
	return nil, fmt.Errorf("unknown normalizer %q", n.Type)
}

func replaceMatches(re *regex, text, with string) (string, error) {
	var b strings.Builder
	err := eachMatch(re, text, func(s string, match bool) {
		if match {
			s = with
		}
		b.WriteString(s)
	})
	return b.String(), err
}

// eachMatch calls emit for each match of re in text and each part between.
func eachMatch(re *regex, text string, emit func(s string, match bool)) error {
	runes := make([]rune, 0, len(text))
	offsets := make([]int, 0, len(text)+1)
	for i, r := range text {
		runes, offsets = append(runes, r), append(offsets, i)
	}
	offsets = append(offsets, len(text))
	m := re.matcher(runes)
	last := 0
	for from := 0; from <= len(runes); {
		start, end, ok, err := m.find(from)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if start > last {
			emit(text[offsets[last]:offsets[start]], false)
		}
		emit(text[offsets[start]:offsets[end]], true)
		last, from = end, end
		if start == end {
			from++
		}
	}
	if last < len(runes) {
		emit(text[offsets[last]:], false)
	}
	return nil
}

func mapRunes(s string, f func(b *strings.Builder, r rune)) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		f(&b, r)
	}
	return b.String()
}

func dropRunes(s string, drop func(rune) bool) string {
	return mapRunes(s, func(b *strings.Builder, r rune) {
		if !drop(r) {
			b.WriteRune(r)
		}
	})
}

// lowerRunes lower-cases each code point by itself, as Rust's
// char::to_lowercase: one of them becomes two.
func lowerRunes(s string) string {
	return mapRunes(s, func(b *strings.Builder, r rune) {
		if r == 'İ' {
			b.WriteString("i\u0307")
			return
		}
		b.WriteRune(unicode.ToLower(r))
	})
}

// normalizeBert is BertNormalizer: clean, set ideographs apart, strip accents,
// lower-case.
func normalizeBert(n *Normalizer, s string) string {
	if n.CleanText {
		s = mapRunes(s, func(b *strings.Builder, r rune) {
			switch {
			case r == '\t' || r == '\n' || r == '\r':
				b.WriteByte(' ')
			case r == utf8.RuneError || setControl.has(r): // other white space of Cc goes too
			case setSpace.has(r):
				b.WriteByte(' ')
			default:
				b.WriteRune(r)
			}
		})
	}
	if n.HandleChineseChars {
		s = mapRunes(s, func(b *strings.Builder, r rune) {
			if isChinese(r) {
				b.WriteByte(' ')
				b.WriteRune(r)
				b.WriteByte(' ')
				return
			}
			b.WriteRune(r)
		})
	}
	if n.StripAccents != nil && *n.StripAccents || n.StripAccents == nil && n.Lowercase {
		s = dropRunes(norm.NFD.String(s), func(r rune) bool { return unicode.Is(unicode.Mn, r) })
	}
	if n.Lowercase {
		s = lowerRunes(s)
	}
	return s
}

// normalizeNmt drops control characters and reads others as spaces, as
// SentencePiece's "nmt" rules do.
func normalizeNmt(s string) string {
	return mapRunes(s, func(b *strings.Builder, r rune) {
		switch {
		case r >= 0x01 && r <= 0x08, r == 0x0B, r >= 0x0E && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
		case r == 0x09, r == 0x0A, r == 0x0C, r == 0x0D, r == 0x1680, r >= 0x200B && r <= 0x200F,
			r == 0x2028, r == 0x2029, r == 0x2581, r == 0xFEFF, r == 0xFFFD:
			b.WriteByte(' ')
		default:
			b.WriteRune(r)
		}
	})
}

// maxMappedCluster is the size in bytes from which the tokenizers library does
// not look up a grapheme cluster as a whole (Precompiled::normalize).
const maxMappedCluster = 6

// normalizePrecompiled applies a SentencePiece map as the tokenizers library
// does: not the longest match anywhere, as SentencePiece, but to each grapheme
// cluster, and where that is not in the map to each of its characters; and the
// shortest entry counts.
func normalizePrecompiled(m *charsmap, s string) (string, error) {
	var b strings.Builder
	one := func(text string) (bool, error) {
		to, ok, err := m.shortest(text)
		if ok {
			b.WriteString(to)
		}
		return ok, err
	}
	state := -1
	for len(s) > 0 {
		var cluster string
		cluster, s, _, state = uniseg.FirstGraphemeClusterInString(s, state)
		if len(cluster) < maxMappedCluster {
			ok, err := one(cluster)
			if err != nil {
				return "", err
			}
			if ok {
				continue
			}
		}
		for _, r := range cluster {
			ok, err := one(string(r))
			if err != nil {
				return "", err
			}
			if !ok {
				b.WriteRune(r)
			}
		}
	}
	return b.String(), nil
}
