package tokenizer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// charsmap is SentencePiece's compiled normalization: a double array (Kanda
// 2018, "XOR-compressed compact double array", as written by darts-clone) that
// maps texts to offsets of NUL-terminated replacements.
type charsmap struct {
	units        []uint32
	replacements []byte
}

// parseCharsmap reads the size of the array in bytes, the array, and the
// replacements.
func parseCharsmap(data []byte) (*charsmap, error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%d bytes: too short for its size field", len(data))
	}
	size := uint64(binary.LittleEndian.Uint32(data))
	data = data[4:]
	if size >= uint64(len(data)) {
		return nil, fmt.Errorf("array of %d bytes in %d", size, len(data))
	}
	c := &charsmap{units: make([]uint32, size/4), replacements: data[size:]}
	for i := range c.units {
		c.units[i] = binary.LittleEndian.Uint32(data[4*i:])
	}
	return c, nil
}

var errCharsmap = errors.New("precompiled charsmap points outside itself")

// walk calls found, shortest first, for each text of the map that text begins
// with.
func (c *charsmap) walk(text string, found func(size int, offset uint32)) error {
	base := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	if len(c.units) == 0 {
		return nil
	}
	node := base(c.units[0])
	for i := range len(text) {
		b := uint32(text[i])
		if b == 0 {
			return nil
		}
		if node ^= b; node >= uint32(len(c.units)) {
			return errCharsmap
		}
		unit := c.units[node]
		if unit&(1<<31|0xFF) != b {
			return nil
		}
		node ^= base(unit)
		if unit>>8&1 == 1 {
			if node >= uint32(len(c.units)) {
				return errCharsmap
			}
			found(i+1, c.units[node]&(1<<31-1))
		}
	}
	return nil
}

// replacement returns the text at offset.
func (c *charsmap) replacement(offset uint32) (string, error) {
	if uint64(offset) >= uint64(len(c.replacements)) {
		return "", errCharsmap
	}
	text := c.replacements[offset:]
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return "", errCharsmap
	}
	return string(text[:end]), nil
}

// longest returns what the longest text of the map that text begins with
// becomes, and its size; 0: none.
func (c *charsmap) longest(text string) (replacement string, size int, err error) {
	var offset uint32
	if err := c.walk(text, func(n int, at uint32) { size, offset = n, at }); err != nil || size == 0 {
		return "", 0, err
	}
	replacement, err = c.replacement(offset)
	return replacement, size, err
}

// shortest returns what the shortest text of the map that text begins with
// becomes.
func (c *charsmap) shortest(text string) (replacement string, ok bool, err error) {
	var offset uint32
	err = c.walk(text, func(_ int, at uint32) {
		if !ok {
			offset, ok = at, true
		}
	})
	if err != nil || !ok {
		return "", false, err
	}
	replacement, err = c.replacement(offset)
	return replacement, err == nil, err
}
