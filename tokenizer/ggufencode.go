package tokenizer

import (
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// The algorithms of llama.cpp, one function each. They append the ids of a
// text without special tokens.

// encodeSPM merges the pair whose token has the highest score until no
// neighbours are a token; what is no token then becomes bytes
// (llm_tokenizer_spm_session).
func (e *GGUFEncoder) encodeSPM(text string, out []int32) ([]int32, error) {
	m := merger{find: func(left, right *symbol) (float64, int32, bool) {
		id, ok := e.ids[text[left.start:right.end]]
		if !ok {
			return 0, 0, false
		}
		return -float64(e.scores[id]), id, true
	}}
	for i := 0; i < len(text); {
		n := min(leadSize(text[i]), len(text)-i)
		id, ok := e.ids[text[i:i+n]]
		if !ok {
			id = noToken
		}
		m.add(i, i+n, id)
		i += n
	}
	m.merge()
	for i := int32(0); i >= 0 && int(i) < len(m.symbols); i = m.symbols[i].next {
		s := m.symbols[i]
		if s.id != noToken {
			out = append(out, s.id)
			continue
		}
		for _, b := range []byte(text[s.start:s.end]) {
			id := e.byteTokens[b]
			if id == noToken {
				return nil, fmt.Errorf("the vocabulary has no token for the byte 0x%02X", b)
			}
			out = append(out, id)
		}
	}
	return out, nil
}

// encodeBPE cuts text into words and merges the pair with the lowest rank
// first (llm_tokenizer_bpe_session).
func (e *GGUFEncoder) encodeBPE(text string, out []int32) ([]int32, error) {
	runes, text, offsets := looseRunes(text)
	ends := []int{len(runes)}
	var err error
	for _, c := range e.cutters {
		if ends, err = c.cut(runes, ends); err != nil {
			return nil, err
		}
	}
	w := &bpeWord{e: e, cache: make(map[string][]int32)}
	w.merger.find = w.find
	start := 0
	for _, end := range ends {
		word := text[offsets[start]:offsets[end]]
		if !e.pre.rawUTF8 {
			word = toByteAlphabet(word)
		}
		out = w.encode(word, out)
		start = end
	}
	return out, nil
}

// encodeWords is encodeBPE for the words between white space, which is lost
// (llm_tokenizer_whitespace_session).
func (e *GGUFEncoder) encodeWords(text string, out []int32) ([]int32, error) {
	runes, _, _ := looseRunes(text)
	var words [][]byte
	inWord := false
	for _, r := range runes {
		if setSpace.has(r) {
			inWord = false
			continue
		}
		if !inWord {
			words = append(words, nil)
			inWord = true
		}
		if e.lowercase {
			r = unicode.ToLower(r)
		}
		words[len(words)-1] = appendRune(words[len(words)-1], r)
	}
	var err error
	for _, word := range words {
		if out, err = e.encodeBPE(string(word), out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// bpeWord encodes the words of one text. Words recur, so results are kept.
type bpeWord struct {
	e      *GGUFEncoder
	word   string
	merger merger
	cache  map[string][]int32
}

// maxCachedWord and maxCachedWords bound the cache of one text.
const (
	maxCachedWord  = 64
	maxCachedWords = 1 << 15
)

func (w *bpeWord) find(left, right *symbol) (float64, int32, bool) {
	rank, ok := w.e.ranks[[2]string{w.word[left.start:left.end], w.word[right.start:right.end]}]
	return float64(rank), noToken, ok
}

func (w *bpeWord) encode(word string, out []int32) []int32 {
	if ids, ok := w.cache[word]; ok {
		return append(out, ids...)
	}
	before := len(out)
	out = w.split(word, out)
	if len(word) <= maxCachedWord && len(w.cache) < maxCachedWords {
		w.cache[word] = append([]int32(nil), out[before:]...)
	}
	return out
}

func (w *bpeWord) split(word string, out []int32) []int32 {
	e := w.e
	if e.pre.ignoreMerges || e.pre.newlinesAreWords && strings.Trim(word, "\n") == "" {
		if id, ok := e.ids[word]; ok {
			return append(out, id)
		}
	}
	w.word = word
	w.merger.reset()
	for i := 0; i < len(word); {
		n := min(leadSize(word[i]), len(word)-i)
		w.merger.add(i, i+n, noToken)
		i += n
	}
	w.merger.merge()
	for i := int32(0); i >= 0 && int(i) < len(w.merger.symbols); i = w.merger.symbols[i].next {
		s := w.merger.symbols[i]
		piece := word[s.start:s.end]
		if id, ok := e.ids[piece]; ok {
			out = append(out, id)
			continue
		}
		for _, b := range []byte(piece) {
			name := string([]byte{b})
			if e.pre.rawUTF8 {
				name = fmt.Sprintf("<0x%02X>", b)
			}
			if id, ok := e.ids[name]; ok { // llama.cpp drops what has no token
				out = append(out, id)
			}
		}
	}
	return out
}

// encodeWPM is BERT's: normalize, cut at white space and around punctuation
// and Chinese characters, then take the longest token at each place
// (llm_tokenizer_wpm_session). Words begin with U+2581 in the vocabulary.
func (e *GGUFEncoder) encodeWPM(text string, out []int32) ([]int32, error) {
	for _, word := range e.wordsWPM(text) {
		before := len(out)
		word = escapedSpace + word
		for i := 0; i < len(word); {
			end := min(len(word), i+e.maxLen+1)
			id, ok := noToken, false
			for ; end > i; end-- {
				if id, ok = e.ids[word[i:end]]; ok {
					break
				}
			}
			if !ok {
				out = out[:before]
				break
			}
			out = append(out, id)
			i = end
		}
		if len(out) == before {
			if e.unk == noToken {
				return nil, fmt.Errorf("the vocabulary has no unknown token for the word %q", word)
			}
			out = append(out, e.unk)
		}
	}
	return out, nil
}

// wordsWPM normalizes and cuts text.
func (e *GGUFEncoder) wordsWPM(text string) []string {
	runes, _, _ := looseRunes(text)
	var words []string
	var word []byte
	flush := func() {
		if len(word) > 0 {
			words = append(words, string(word))
			word = word[:0]
		}
	}
	for _, r := range runes {
		if e.stripAccents {
			r = baseOf(r)
		}
		switch {
		case setSpace.has(r):
			flush()
			continue
		case r == 0 || r == unicode.ReplacementChar || setControl.has(r) || e.stripAccents && setMark.has(r):
			continue
		}
		alone := setPunctuation.has(r) || r < 0x7F && setSymbol.has(r) || isChinese(r)
		if e.lowercase {
			r = unicode.ToLower(r)
		}
		if alone {
			flush()
		}
		word = appendRune(word, r)
		if alone {
			flush()
		}
	}
	flush()
	return words
}

// baseOf is the first code point of r's canonical decomposition, all that
// llama.cpp keeps of it (unicode_cpts_normalize_nfd): a Hangul syllable becomes
// its first consonant.
func baseOf(r rune) rune {
	if r < 0xC0 {
		return r
	}
	if r >= 0xAC00 && r <= 0xD7A3 {
		return 0x1100 + (r-0xAC00)/588
	}
	if d := norm.NFD.PropertiesString(string(r)).Decomposition(); d != nil {
		first, _ := looseRune(string(d))
		return first
	}
	return r
}

// isChinese are the ideographs that BERT takes for words. The block that
// starts at 2B920 starts at 2B820 in Unicode, but not in BERT's code.
func isChinese(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0x20000 && r <= 0x2A6DF ||
		r >= 0x2A700 && r <= 0x2B73F || r >= 0x2B740 && r <= 0x2B81F || r >= 0x2B920 && r <= 0x2CEAF ||
		r >= 0xF900 && r <= 0xFAFF || r >= 0x2F800 && r <= 0x2FA1F
}

// newUGM indexes the pieces of a Unigram vocabulary.
func (e *GGUFEncoder) newUGM() *unigram {
	u := &unigram{pieces: newTrie(), unk: e.unk}
	lowest := float32(0)
	first := true
	for id, a := range e.attrs {
		if a&attrNormal != 0 && (first || e.scores[id] < lowest) {
			lowest, first = e.scores[id], false
		}
		if a&(attrNormal|attrUser|attrUnused) != 0 {
			u.pieces.insert(e.tokens[id], int32(id))
		}
		if a&attrUser != 0 {
			e.userTexts.insert(e.tokens[id], int32(id))
		}
	}
	u.unkScore = float64(lowest - 10)
	u.score = func(id int32) float64 {
		if e.attrs[id]&attrUser != 0 {
			return 0
		}
		return float64(e.scores[id])
	}
	return u
}

// encodeUGM is SentencePiece's Unigram (llm_tokenizer_ugm_session).
func (e *GGUFEncoder) encodeUGM(text string, out []int32) ([]int32, error) {
	text, err := e.normalizeUGM(text)
	if err != nil {
		return nil, err
	}
	unknown := false
	for _, s := range e.ugm.best(text) {
		if s.id == e.unk && unknown {
			continue // neighbours become one
		}
		if unknown = s.id == e.unk; unknown && e.unk == noToken {
			return nil, fmt.Errorf("the vocabulary has no unknown token for %q", text[s.start:s.end])
		}
		out = append(out, s.id)
	}
	return out, nil
}

func (e *GGUFEncoder) normalizeUGM(text string) (string, error) {
	var b strings.Builder
	prepended, inWord := false, false
	for i := 0; i < len(text); {
		part, size, err := e.normalizePrefix(text[i:])
		if err != nil {
			return "", err
		}
		i += size
		for j := range len(part) {
			c := part[j]
			if c == ' ' {
				inWord = false
				if !e.removeExtraSpaces {
					b.WriteString(escapedSpace)
				}
				continue
			}
			if !inWord {
				inWord = true
				if e.addSpacePrefix && !prepended || e.removeExtraSpaces {
					b.WriteString(escapedSpace)
					prepended = true
				}
			}
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

// normalizePrefix returns what the beginning of text becomes and its size.
// Text that leads into a user-defined token, be it whole or not, stays.
func (e *GGUFEncoder) normalizePrefix(text string) (string, int, error) {
	if n := e.userTexts.walk(text, func(int, int32) {}); n > 0 {
		return text[:n], n, nil
	}
	if e.charsmap != nil {
		if to, n, err := e.charsmap.longest(text); n > 0 || err != nil {
			return to, n, err
		}
	}
	r, n := looseRune(text)
	if r == unicode.ReplacementChar && n == 1 {
		return string(r), 1, nil
	}
	return text[:n], n, nil
}
