package tokenizer

import "slices"

// unigram finds the most probable sequence of pieces (Kudo 2018): Viterbi over
// the positions of the text, where each piece that the text has at a position
// is an edge whose weight is its score.
type unigram struct {
	pieces   *trie
	score    func(id int32) float64
	unk      int32
	unkScore float64 // of one character that no piece covers
}

type unigramNode struct {
	score float64
	start int
	id    int32
	set   bool
}

// segment is a piece of the best sequence.
type segment struct {
	start, end int
	id         int32
}

// best returns the best sequence for text, unknown characters one by one. Of
// equal ones it returns that which was found first.
func (u *unigram) best(text string) []segment {
	nodes := make([]unigramNode, len(text)+1)
	nodes[0].set = true
	offer := func(start, end int, id int32, score float64) {
		if n := &nodes[end]; !n.set || score > n.score {
			*n = unigramNode{score: score, start: start, id: id, set: true}
		}
	}
	for start := 0; start < len(text); {
		size := min(leadSize(text[start]), len(text)-start)
		base := nodes[start].score
		whole := false
		u.pieces.walk(text[start:], func(n int, id int32) {
			whole = whole || n == size
			offer(start, start+n, id, base+u.score(id))
		})
		if !whole {
			offer(start, start+size, u.unk, base+u.unkScore)
		}
		start += size
	}
	var out []segment
	for end := len(text); end > 0; end = nodes[end].start {
		out = append(out, segment{nodes[end].start, end, nodes[end].id})
	}
	slices.Reverse(out)
	return out
}

// leadSize is the length in bytes of the UTF-8 sequence that b leads; 1 for a
// byte that leads none.
func leadSize(b byte) int {
	switch {
	case b < 0xC0:
		return 1
	case b < 0xE0:
		return 2
	case b < 0xF0:
		return 3
	}
	return 4
}
