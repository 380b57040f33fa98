package tokenizer

// Merging neighbours, the loop that byte-pair encodings have in common:
// SentencePiece's BPE and llama.cpp's SPM (the pair with the highest score
// first), GPT-2's BPE (the pair with the lowest rank first), tiktoken (the
// pair whose token has the lowest rank first). Ties go to the leftmost pair.
// A heap makes it O(n log n) in the number of symbols.

// symbol is a live piece text[start:end] of a word being merged. id is the
// token it stands for where the model works with ids.
type symbol struct {
	start, end int32
	prev, next int32 // neighbours, -1 at the ends
	id         int32
}

// pair is a merge that was possible when it was put on the heap; size tells
// whether it still is.
type pair struct {
	cost        float64
	left, right int32
	size        int32
	id          int32 // of the result
}

func (p pair) before(q pair) bool {
	return p.cost < q.cost || p.cost == q.cost && p.left < q.left
}

// merger merges symbols in place. It is reused from word to word. find returns
// the cost of merging two neighbours, the id of the result, and whether they
// merge at all.
type merger struct {
	symbols []symbol
	heap    []pair
	find    func(left, right *symbol) (cost float64, id int32, ok bool)
}

func (m *merger) reset() {
	m.symbols = m.symbols[:0]
	m.heap = m.heap[:0]
}

// add appends a symbol to the word.
func (m *merger) add(start, end int, id int32) {
	n := int32(len(m.symbols))
	if n > 0 {
		m.symbols[n-1].next = n
	}
	m.symbols = append(m.symbols, symbol{start: int32(start), end: int32(end), prev: n - 1, next: -1, id: id})
}

// merge merges until no pair is left. The first symbol stays where it is; the
// rest of the result is found by following next.
func (m *merger) merge() {
	for i := 1; i < len(m.symbols); i++ {
		m.offer(int32(i-1), int32(i))
	}
	for len(m.heap) > 0 {
		p := m.pop()
		left, right := &m.symbols[p.left], &m.symbols[p.right]
		if left.start == left.end || right.start == right.end || left.end-left.start+right.end-right.start != p.size {
			continue
		}
		left.end, left.id = right.end, p.id
		right.start = right.end
		left.next = right.next
		if right.next >= 0 {
			m.symbols[right.next].prev = p.left
		}
		if left.prev >= 0 {
			m.offer(left.prev, p.left)
		}
		if left.next >= 0 {
			m.offer(p.left, left.next)
		}
	}
}

func (m *merger) offer(left, right int32) {
	l, r := &m.symbols[left], &m.symbols[right]
	if cost, id, ok := m.find(l, r); ok {
		m.push(pair{cost: cost, left: left, right: right, size: r.end - l.start, id: id})
	}
}

func (m *merger) push(p pair) {
	m.heap = append(m.heap, p)
	i := len(m.heap) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !p.before(m.heap[up]) {
			break
		}
		m.heap[i] = m.heap[up]
		i = up
	}
	m.heap[i] = p
}

func (m *merger) pop() pair {
	top := m.heap[0]
	n := len(m.heap) - 1
	last := m.heap[n]
	m.heap = m.heap[:n]
	i := 0
	for {
		child := 2*i + 1
		if child >= n {
			break
		}
		if child+1 < n && m.heap[child+1].before(m.heap[child]) {
			child++
		}
		if !m.heap[child].before(last) {
			break
		}
		m.heap[i] = m.heap[child]
		i = child
	}
	if n > 0 {
		m.heap[i] = last
	}
	return top
}
