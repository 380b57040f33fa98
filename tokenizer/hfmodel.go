package tokenizer

import (
	"fmt"
	"slices"
	"unicode/utf8"
)

// wordCache keeps the ids of the words of one text, which recur.
type wordCache struct {
	ids    map[string][]int32
	encode func(word string, out []int32) ([]int32, error)
}

func (c *wordCache) append(word string, out []int32) ([]int32, error) {
	if ids, ok := c.ids[word]; ok {
		return append(out, ids...), nil
	}
	before := len(out)
	out, err := c.encode(word, out)
	if err != nil {
		return nil, err
	}
	if len(word) <= maxCachedWord && len(c.ids) < maxCachedWords {
		c.ids[word] = slices.Clone(out[before:])
	}
	return out, nil
}

// newModel returns the function that encodes words by the model.
func newModel(m *Model) (func(words []part, out []int32) ([]int32, error), error) {
	var word func() func(word string, out []int32) ([]int32, error)
	switch m.Type {
	case BPE:
		merges := newMergeTable(m)
		word = func() func(string, []int32) ([]int32, error) { return newBPEWord(m, merges) }
	case Unigram:
		u := newUnigram(m)
		texts := make(map[string]int32, len(m.Pieces))
		for id, p := range m.Pieces {
			texts[p.Text] = int32(id)
		}
		word = func() func(string, []int32) ([]int32, error) {
			return func(s string, out []int32) ([]int32, error) { return encodeUnigram(m, u, texts, s, out) }
		}
	case WordPiece:
		word = func() func(string, []int32) ([]int32, error) {
			return func(s string, out []int32) ([]int32, error) { return encodeWordPiece(m, s, out) }
		}
	case WordLevel:
		word = func() func(string, []int32) ([]int32, error) {
			return func(s string, out []int32) ([]int32, error) {
				if id, ok := m.Vocab[s]; ok {
					return append(out, id), nil
				}
				return m.unknown(s, out)
			}
		}
	default:
		return nil, fmt.Errorf("type %q is not implemented", m.Type)
	}
	return func(words []part, out []int32) ([]int32, error) {
		cache := wordCache{ids: make(map[string][]int32), encode: word()}
		var err error
		for _, w := range words {
			if w.text == "" {
				continue
			}
			if out, err = cache.append(w.text, out); err != nil {
				return nil, err
			}
		}
		return out, nil
	}, nil
}

func (m *Model) unknown(word string, out []int32) ([]int32, error) {
	if m.UnkID < 0 {
		return nil, fmt.Errorf("%q is not in the vocabulary, which has no unknown token", word)
	}
	return append(out, m.UnkID), nil
}

// mergeTable maps a pair of ids to the rank and the result of their merge.
type mergeTable map[[2]int32]struct{ rank, result int32 }

func newMergeTable(m *Model) mergeTable {
	t := make(mergeTable, len(m.Merges))
	for rank, merge := range m.Merges {
		t[[2]int32{merge.Left, merge.Right}] = struct{ rank, result int32 }{int32(rank), merge.Result}
	}
	return t
}

// newBPEWord returns the encoder of BPE words (BPE::merge_word).
func newBPEWord(m *Model, table mergeTable) func(string, []int32) ([]int32, error) {
	work := &merger{find: func(left, right *symbol) (float64, int32, bool) {
		merge, ok := table[[2]int32{left.id, right.id}]
		return float64(merge.rank), merge.result, ok
	}}
	return func(word string, out []int32) ([]int32, error) {
		if m.IgnoreMerges {
			if id, ok := m.Vocab[word]; ok {
				return append(out, id), nil
			}
		}
		work.reset()
		unknown := 0 // bytes of unknown characters that wait to become a symbol
		flush := func(at int) {
			if unknown > 0 {
				work.add(at-unknown, at, m.UnkID)
				unknown = 0
			}
		}
		for i := 0; i < len(word); {
			_, n := utf8.DecodeRuneInString(word[i:])
			text := word[i : i+n]
			if i > 0 {
				text = m.ContinuingSubwordPrefix + text
			}
			if i+n == len(word) {
				text += m.EndOfWordSuffix
			}
			if id, ok := m.Vocab[text]; ok {
				flush(i)
				work.add(i, i+n, id)
			} else if ids, ok := m.byteIDs(text); ok {
				flush(i)
				for j, id := range ids {
					// The affixes' bytes take no room in the word.
					work.add(min(i+j, i+n), min(i+j+1, i+n), id)
				}
			} else if m.UnkID >= 0 {
				if !m.FuseUnk {
					flush(i)
				}
				unknown += n
			} else {
				flush(i)
			}
			i += n
		}
		flush(len(word))
		work.merge()
		for i := int32(0); int(i) < len(work.symbols) && i >= 0; i = work.symbols[i].next {
			out = append(out, work.symbols[i].id)
		}
		return out, nil
	}
}

// byteIDs returns the byte tokens of text, if all of them are there and the
// model falls back on them.
func (m *Model) byteIDs(text string) ([]int32, bool) {
	if !m.ByteFallback {
		return nil, false
	}
	ids := make([]int32, len(text))
	for i := range len(text) {
		id, ok := m.Vocab[fmt.Sprintf("<0x%02X>", text[i])]
		if !ok {
			return nil, false
		}
		ids[i] = id
	}
	return ids, true
}

// unknownPenalty is what an unknown character costs below the worst piece.
const unknownPenalty = 10

func newUnigram(m *Model) *unigram {
	u := &unigram{pieces: newTrie(), unk: m.UnkID, score: func(id int32) float64 { return m.Pieces[id].Score }}
	lowest := 0.0
	for id, p := range m.Pieces {
		u.pieces.insert(p.Text, int32(id))
		if id == 0 || p.Score < lowest {
			lowest = p.Score
		}
	}
	u.unkScore = lowest - unknownPenalty
	return u
}

// encodeUnigram is Unigram::tokenize: neighbouring unknown characters are one
// piece, which falls back on bytes or is the unknown token.
func encodeUnigram(m *Model, u *unigram, texts map[string]int32, word string, out []int32) ([]int32, error) {
	segments := u.best(word)
	for i := 0; i < len(segments); i++ {
		s := segments[i]
		if s.id != u.unk || m.UnkID < 0 {
			if s.id < 0 {
				return nil, fmt.Errorf("%q is not in the vocabulary, which has no unknown token", word[s.start:s.end])
			}
			out = append(out, s.id)
			continue
		}
		for i+1 < len(segments) && segments[i+1].id == u.unk {
			i++
			s.end = segments[i].end
		}
		text := word[s.start:s.end]
		if id, ok := texts[text]; ok {
			out = append(out, id)
			continue
		}
		if m.ByteFallback {
			ids := make([]int32, 0, len(text))
			for j := range len(text) {
				if id, ok := texts[fmt.Sprintf("<0x%02X>", text[j])]; ok {
					ids = append(ids, id)
				}
			}
			if len(ids) == len(text) {
				out = append(out, ids...)
				continue
			}
		}
		out = append(out, m.UnkID)
	}
	return out, nil
}

// encodeWordPiece takes the longest token at each place; a word with a place
// where none fits is unknown as a whole.
func encodeWordPiece(m *Model, word string, out []int32) ([]int32, error) {
	if utf8.RuneCountInString(word) > m.MaxInputCharsPerWord {
		return m.unknown(word, out)
	}
	before := len(out)
	for start := 0; start < len(word); {
		end := len(word)
		for ; end > start; end-- {
			if end < len(word) && !utf8.RuneStart(word[end]) {
				continue
			}
			text := word[start:end]
			if start > 0 {
				text = m.ContinuingSubwordPrefix + text
			}
			if id, ok := m.Vocab[text]; ok {
				out = append(out, id)
				break
			}
		}
		if end == start {
			return m.unknown(word, out[:before])
		}
		start = end
	}
	return out, nil
}
