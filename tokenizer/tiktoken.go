package tokenizer

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Tiktoken is a parsed tiktoken rank file: the byte strings of a byte-level
// BPE in order of their rank, which is their id. Merges are not written: two
// neighbours merge where their union is a token, lowest rank first.
type Tiktoken struct {
	Tokens [][]byte         // by rank
	Ranks  map[string]int32 // rank of each byte string

	name string // of the file
}

// ParseTiktoken reads lines of "BASE64 RANK" (Llama 3's tokenizer.model,
// qwen.tiktoken). Every rank from 0 to the number of lines must occur once, and
// every single byte must be a token.
func ParseTiktoken(data []byte) (*Tiktoken, error) {
	n := bytes.Count(data, []byte{'\n'}) + 1
	if n > MaxTokens {
		return nil, fmt.Errorf("more than %d lines", MaxTokens)
	}
	t := &Tiktoken{Tokens: make([][]byte, 0, n), Ranks: make(map[string]int32, n)}
	type ranked struct {
		token []byte
		rank  int
	}
	var rows []ranked
	line := 0
	for len(data) > 0 {
		line++
		var text []byte
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			text, data = data[:i], data[i+1:]
		} else {
			text, data = data, nil
		}
		if text = bytes.TrimSuffix(text, []byte{'\r'}); len(text) == 0 {
			continue
		}
		code, number, ok := bytes.Cut(text, []byte{' '})
		if !ok {
			return nil, fmt.Errorf("line %d: want a base64 token and a rank", line)
		}
		token, err := base64.StdEncoding.Strict().AppendDecode(nil, code)
		if err != nil {
			return nil, fmt.Errorf("line %d: token: %w", line, err)
		}
		rank, err := strconv.ParseUint(string(number), 10, 31)
		if err != nil || rank >= MaxTokens {
			return nil, fmt.Errorf("line %d: rank %q: want an integer from 0 to %d", line, number, MaxTokens-1)
		}
		rows = append(rows, ranked{token, int(rank)})
	}
	slices.SortStableFunc(rows, func(a, b ranked) int { return a.rank - b.rank })
	for i, r := range rows {
		if r.rank != i {
			if i > 0 && r.rank == rows[i-1].rank {
				return nil, fmt.Errorf("rank %d belongs to both %q and %q", r.rank, rows[i-1].token, r.token)
			}
			return nil, fmt.Errorf("no token has rank %d", i)
		}
		if err := t.add(r.token); err != nil {
			return nil, err
		}
	}
	return t, t.check()
}

// add appends the token of the next rank.
func (t *Tiktoken) add(token []byte) error {
	rank := len(t.Tokens)
	if len(token) == 0 {
		return fmt.Errorf("the token of rank %d is empty", rank)
	}
	if other, ok := t.Ranks[string(token)]; ok {
		return fmt.Errorf("token %q has both rank %d and rank %d", token, other, rank)
	}
	t.Ranks[string(token)] = int32(rank)
	t.Tokens = append(t.Tokens, token)
	return nil
}

// check makes sure that every text can be encoded.
func (t *Tiktoken) check() error {
	for b := range 256 {
		if _, ok := t.Ranks[string([]byte{byte(b)})]; !ok {
			return fmt.Errorf("byte 0x%02x is not a token", b)
		}
	}
	return nil
}

// isTiktoken tells whether data looks like a rank file: its first line is a
// base64 text, a space and a number. A SentencePiece model starts with the
// byte 0x0A.
func isTiktoken(data []byte) bool {
	line, _, _ := bytes.Cut(data[:min(len(data), 4096)], []byte{'\n'})
	code, number, ok := bytes.Cut(bytes.TrimSuffix(line, []byte{'\r'}), []byte{' '})
	if !ok || len(code) == 0 {
		return false
	}
	if _, err := base64.StdEncoding.DecodeString(string(code)); err != nil {
		return false
	}
	_, err := strconv.ParseUint(string(number), 10, 31)
	return err == nil
}

// parts returns the tokens that token's bytes have merged into just before
// the merge of rank limit, which is the last one. It is the BPE loop over the
// ranks below limit.
func (t *Tiktoken) parts(token []byte, limit int32) [][]byte {
	cut := make([]int, len(token)+1) // part i is token[cut[i]:cut[i+1]]
	for i := range cut {
		cut[i] = i
	}
	for len(cut) > 2 {
		best, at := int32(math.MaxInt32), -1
		for i := 0; i+2 < len(cut); i++ {
			if r, ok := t.Ranks[string(token[cut[i]:cut[i+2]])]; ok && r < best {
				best, at = r, i
			}
		}
		if at < 0 || best >= limit {
			break
		}
		cut = slices.Delete(cut, at+1, at+2)
	}
	out := make([][]byte, len(cut)-1)
	for i := range out {
		out[i] = token[cut[i]:cut[i+1]]
	}
	return out
}

// Merges returns one merge "left right" in byte-level characters for every
// token of more than one byte, in order of rank: the last step by which BPE
// makes the token. A token that BPE cannot make of two parts is an error where
// strict, and has no merge otherwise.
func (t *Tiktoken) Merges(strict bool) ([]string, error) {
	if err := t.checkCost(); err != nil {
		return nil, err
	}
	merges := make([]string, 0, len(t.Tokens))
	for rank, token := range t.Tokens {
		if len(token) == 1 {
			continue
		}
		parts := t.parts(token, int32(rank))
		if len(parts) != 2 {
			if strict {
				return nil, fmt.Errorf("token %q of rank %d is not a merge of two others", token, rank)
			}
			continue
		}
		merges = append(merges, toByteAlphabet(string(parts[0]))+" "+toByteAlphabet(string(parts[1])))
	}
	return merges, nil
}

// Finding the merge of a token is quadratic in its length. These bound the
// length in bytes (published tokens have up to 128) and the sum of the squares
// of the lengths (published files stay below 1<<24).
const (
	maxTiktokenBytes = 2048
	maxTiktokenCost  = 1 << 28
)

// checkCost refuses a file whose merges would take too long to find.
func (t *Tiktoken) checkCost() error {
	cost := 0
	for rank, token := range t.Tokens {
		if len(token) > maxTiktokenBytes {
			return fmt.Errorf("the token of rank %d has %d bytes, more than %d", rank, len(token), maxTiktokenBytes)
		}
		if cost += len(token) * len(token); cost > maxTiktokenCost {
			return fmt.Errorf("the tokens up to rank %d are too long for their number", rank)
		}
	}
	return nil
}
