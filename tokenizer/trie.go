package tokenizer

// trie finds the tokens that a text begins with. Nodes are a flat array of
// first-child and next-sibling links, 16 bytes for each byte of the tokens at
// most; the children of the root are found by index.
type trie struct {
	nodes []trieNode
	first [256]int32 // children of the root; 0: none
}

type trieNode struct {
	child, sibling int32
	id             int32 // noToken: no token ends here
	b              byte
}

func newTrie() *trie { return &trie{nodes: make([]trieNode, 1)} }

// insert adds a text. An empty one is never found.
func (t *trie) insert(text string, id int32) {
	if text == "" {
		return
	}
	at := t.first[text[0]]
	if at == 0 {
		at = t.add(text[0])
		t.first[text[0]] = at
	}
	for i := 1; i < len(text); i++ {
		next := t.step(at, text[i])
		if next == 0 {
			next = t.add(text[i])
			t.nodes[next].sibling = t.nodes[at].child
			t.nodes[at].child = next
		}
		at = next
	}
	t.nodes[at].id = id
}

func (t *trie) add(b byte) int32 {
	t.nodes = append(t.nodes, trieNode{id: noToken, b: b})
	return int32(len(t.nodes) - 1)
}

func (t *trie) step(at int32, b byte) int32 {
	for at = t.nodes[at].child; at != 0 && t.nodes[at].b != b; at = t.nodes[at].sibling {
	}
	return at
}

// walk calls found for each token that text begins with, shortest first, and
// returns how many bytes of text lead along the trie.
func (t *trie) walk(text string, found func(size int, id int32)) int {
	if text == "" {
		return 0
	}
	at := t.first[text[0]]
	for i := 1; at != 0; i++ {
		if id := t.nodes[at].id; id != noToken {
			found(i, id)
		}
		if i == len(text) {
			return i
		}
		if at = t.step(at, text[i]); at == 0 {
			return i
		}
	}
	return 0
}
