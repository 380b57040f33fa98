package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner reads JSON text front to back from a range of a file, in blocks:
// a header of tens of megabytes is never in memory as a whole. It has no more
// than headers and indexes need.
//
// The first error sticks; after it every method returns a zero value.
type scanner struct {
	r     io.ReaderAt
	end   int64 // of the text, in the file
	buf   []byte
	off   int64 // of buf[0] in the file
	pos   int   // in buf, of the next byte
	block int64 // size of the next read
	text  []byte
	err   error
}

const (
	firstBlock = 256 << 10
	lastBlock  = 4 << 20
)

// at returns the offset in the file of the next byte.
func (s *scanner) at() int64 { return s.off + int64(s.pos) }

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = &FormatError{Offset: s.at(), Reason: fmt.Sprintf(format, args...)}
	}
}

// more makes sure that there is a next byte in buf; it is false at the end of
// the text and after an error.
func (s *scanner) more() bool {
	if s.pos < len(s.buf) {
		return s.err == nil
	}
	if s.err != nil || s.at() >= s.end {
		return false
	}
	at := s.at()
	n := min(s.block, s.end-at)
	s.block = min(s.block*2, lastBlock)
	if int64(cap(s.buf)) < n {
		s.buf = make([]byte, n)
	}
	s.buf, s.off, s.pos = s.buf[:n], at, 0
	if err := readFull(s.r, s.buf, at); err != nil {
		s.buf, s.err = s.buf[:0], err
		return false
	}
	return true
}

// readFull fills p from the file at off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at byte %d: %w", len(p), off, err)
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for s.more() {
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// found says in an error what stands where something else should.
func (s *scanner) found() string {
	if s.peek(); !s.more() {
		return "the end"
	}
	return fmt.Sprintf("%q", s.buf[s.pos])
}

// done checks that nothing but white space is left.
func (s *scanner) done() {
	if s.peek(); s.more() {
		s.fail("%s after the end of the JSON", s.found())
	}
}

// expect takes the next byte, which must be c.
func (s *scanner) expect(c byte) {
	if s.peek() != c {
		s.fail("invalid JSON: %s where %q should be", s.found(), c)
		return
	}
	s.pos++
}

// object calls field for each key of an object; field must take the value.
func (s *scanner) object(field func(key []byte)) {
	s.expect('{')
	if s.peek() == '}' {
		s.pos++
		return
	}
	for s.err == nil {
		key := s.string()
		s.expect(':')
		if s.err != nil {
			return
		}
		field(key)
		if !s.comma('}') {
			return
		}
	}
}

// array calls element at the start of each element, which it must take.
func (s *scanner) array(element func()) {
	s.expect('[')
	if s.peek() == ']' {
		s.pos++
		return
	}
	for s.err == nil {
		element()
		if !s.comma(']') {
			return
		}
	}
}

// comma takes a comma, or the end of the object or array and is false.
func (s *scanner) comma(end byte) bool {
	switch s.peek() {
	case ',':
		s.pos++
		return true
	case end:
		s.pos++
	default:
		s.fail("invalid JSON: %s where ',' or %q should be", s.found(), end)
	}
	return false
}

// string takes a string. The bytes are valid until the next string.
func (s *scanner) string() []byte {
	s.expect('"')
	s.text = s.text[:0]
	for s.more() {
		rest, n := s.buf[s.pos:], 0
		for n < len(rest) && rest[n] != '"' && rest[n] != '\\' && rest[n] >= ' ' {
			n++
		}
		s.text = append(s.text, rest[:n]...)
		s.pos += n
		if n == len(rest) {
			continue
		}
		switch rest[n] {
		case '"':
			s.pos++
			if !utf8.Valid(s.text) {
				s.fail("string is not UTF-8")
			}
			return s.text
		case '\\':
			s.pos++
			s.escape()
		default:
			s.fail("invalid JSON: control character %q in a string", rest[n])
		}
	}
	s.fail("invalid JSON: string is cut off")
	return nil
}

// next takes one byte of an escape.
func (s *scanner) next() byte {
	if !s.more() {
		s.fail("invalid JSON: string is cut off")
		return 0
	}
	s.pos++
	return s.buf[s.pos-1]
}

// escape takes what follows a backslash.
func (s *scanner) escape() {
	switch c := s.next(); c {
	case '"', '\\', '/':
		s.text = append(s.text, c)
	case 'b':
		s.text = append(s.text, '\b')
	case 'f':
		s.text = append(s.text, '\f')
	case 'n':
		s.text = append(s.text, '\n')
	case 'r':
		s.text = append(s.text, '\r')
	case 't':
		s.text = append(s.text, '\t')
	case 'u':
		r := s.hex4()
		if utf16.IsSurrogate(r) {
			if s.next() != '\\' || s.next() != 'u' {
				s.fail("invalid JSON: half a surrogate pair")
				return
			}
			if r = utf16.DecodeRune(r, s.hex4()); r == utf8.RuneError {
				s.fail("invalid JSON: half a surrogate pair")
				return
			}
		}
		s.text = utf8.AppendRune(s.text, r)
	default:
		s.fail("invalid JSON: unknown escape")
	}
}

func (s *scanner) hex4() rune {
	var r rune
	for range 4 {
		c := s.next()
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			s.fail("invalid JSON: \\u without four hexadecimal digits")
			return 0
		}
		r = r<<4 | rune(c)
	}
	return r
}

// size takes a number that is not negative and that an int64 holds.
func (s *scanner) size() int64 {
	c := s.peek()
	if c < '0' || c > '9' {
		s.fail("%s where a whole number should be", s.found())
		return 0
	}
	var n int64
	for digits := 0; s.more(); digits++ {
		c := s.buf[s.pos]
		switch {
		case '0' <= c && c <= '9':
			if digits > 0 && n == 0 {
				s.fail("invalid JSON: number with a leading zero")
				return 0
			}
			if n > (math.MaxInt64-int64(c-'0'))/10 {
				s.fail("number overflows 63 bits")
				return 0
			}
			n = n*10 + int64(c-'0')
			s.pos++
			continue
		case c == '.' || c == 'e' || c == 'E':
			s.fail("number is not whole")
		}
		break
	}
	return n
}

// skip takes a value of any kind, nested at most depth deep.
func (s *scanner) skip(depth int) {
	if depth == 0 {
		s.fail("JSON is nested too deep")
		return
	}
	switch c := s.peek(); {
	case c == '{':
		s.object(func([]byte) { s.skip(depth - 1) })
	case c == '[':
		s.array(func() { s.skip(depth - 1) })
	case c == '"':
		s.string()
	case c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z':
		s.word()
	default:
		s.fail("invalid JSON: %s where a value should be", s.found())
	}
}

// word takes a number or a literal.
func (s *scanner) word() {
	var text []byte
	for s.more() && len(text) < 64 {
		c := s.buf[s.pos]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E') {
			break
		}
		text = append(text, c)
		s.pos++
	}
	if !json.Valid(text) {
		s.fail("invalid JSON: %s", clip(string(text)))
	}
}
