package tokenizer

import (
	"fmt"
	"strings"
)

// RankEncoder encodes as tiktoken does: special tokens are cut out, an
// expression cuts the rest into words, and in each word the neighbours whose
// union has the lowest rank merge first. It is safe for concurrent use.
type RankEncoder struct {
	ranks   *Tiktoken
	offset  int32 // of the ids from the ranks
	re      *regex
	special *addedSet
	bos     int32 // what AddSpecial puts in front; noToken: nothing
}

// NewRankEncoder prepares a rank file for encoding. The id of a token is its
// rank and offset; pattern cuts the text; special are the tokens with ids of
// their own; bos goes in front where AddSpecial says so, unless it is -1.
func NewRankEncoder(t *Tiktoken, offset int32, pattern string, special []AddedToken, bos int32) (*RankEncoder, error) {
	re, err := compileRegex(pattern, rustDialect)
	if err != nil {
		return nil, err
	}
	e := &RankEncoder{ranks: t, offset: offset, re: re, special: newAddedSet(), bos: bos}
	for _, s := range special {
		s.Special = true
		e.special.add(s.Content, s)
	}
	return e, nil
}

// Encode implements Encoder.
func (e *RankEncoder) Encode(text string, opts EncodeOptions) ([]int32, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("encode: text of %d bytes: more than %d", len(text), MaxText)
	}
	var out []int32
	if opts.AddSpecial && e.bos != noToken {
		out = append(out, e.bos)
	}
	var work merger
	cache := wordCache{ids: make(map[string][]int32), encode: func(word string, out []int32) ([]int32, error) {
		return e.word(&work, word, out)
	}}
	err := e.special.cut(validUTF8(text), opts.ParseSpecial, func(part string, _ bool, t *AddedToken) error {
		if t != nil {
			out = append(out, t.ID)
			return nil
		}
		var failed error
		err := eachMatch(e.re, part, func(word string, match bool) {
			if match && failed == nil { // what the expression skips is lost
				out, failed = cache.append(word, out)
			}
		})
		if failed != nil {
			return failed
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return out, nil
}

// word is tiktoken's byte_pair_encode.
func (e *RankEncoder) word(work *merger, word string, out []int32) ([]int32, error) {
	if rank, ok := e.ranks.Ranks[word]; ok {
		return append(out, rank+e.offset), nil
	}
	work.reset()
	work.find = func(left, right *symbol) (float64, int32, bool) {
		rank, ok := e.ranks.Ranks[word[left.start:right.end]]
		return float64(rank), noToken, ok
	}
	for i := range len(word) {
		work.add(i, i+1, noToken)
	}
	work.merge()
	for i := int32(0); i >= 0 && int(i) < len(work.symbols); i = work.symbols[i].next {
		s := work.symbols[i]
		rank, ok := e.ranks.Ranks[word[s.start:s.end]]
		if !ok {
			return nil, fmt.Errorf("no rank for the byte %q", word[s.start:s.end])
		}
		out = append(out, rank+e.offset)
	}
	return out, nil
}

// Decode implements Encoder.
func (e *RankEncoder) Decode(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		if rank := int(id) - int(e.offset); rank >= 0 && rank < len(e.ranks.Tokens) {
			b.Write(e.ranks.Tokens[rank])
		}
	}
	return b.String()
}

var _ Encoder = (*RankEncoder)(nil)
