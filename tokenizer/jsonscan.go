package tokenizer

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// scanner walks JSON text that encoding/json has already found valid. It
// exists for the three big values of a tokenizer (vocabulary, merges,
// pieces): it keeps the order of an object's members, sees repeated keys, and
// reads 200k entries in a few tens of milliseconds.
type scanner struct {
	data []byte
	pos  int
}

// peek returns the next byte that is not white space, or 0 at the end.
func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// take consumes the byte c, which must be the next one.
func (s *scanner) take(c byte) error {
	if got := s.peek(); got != c {
		return fmt.Errorf("byte %d: want %q, got %s", s.pos, c, describe(got))
	}
	s.pos++
	return nil
}

// describe names a byte that was met where another was wanted.
func describe(c byte) string {
	if c == 0 {
		return "the end"
	}
	return strconv.QuoteRune(rune(c))
}

// str reads a string.
func (s *scanner) str() (string, error) {
	if err := s.take('"'); err != nil {
		return "", err
	}
	start, plain := s.pos, true
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c == '"':
			raw := s.data[start:s.pos]
			s.pos++
			if plain && utf8.Valid(raw) {
				return string(raw), nil
			}
			var text string
			if err := json.Unmarshal(s.data[start-1:s.pos], &text); err != nil {
				return "", fmt.Errorf("byte %d: %w", start, err)
			}
			return text, nil
		case c == '\\':
			plain = false
			s.pos += 2
		default:
			s.pos++
		}
	}
	return "", fmt.Errorf("byte %d: string without an end", start)
}

// number returns the text of a number.
func (s *scanner) number() (string, error) {
	s.peek()
	start := s.pos
	for s.pos < len(s.data) {
		switch c := s.data[s.pos]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			s.pos++
			continue
		}
		break
	}
	if start == s.pos {
		return "", fmt.Errorf("byte %d: want a number, got %s", start, describe(s.peek()))
	}
	return string(s.data[start:s.pos]), nil
}

// id reads a token id: an integer in [0, MaxTokens).
func (s *scanner) id() (int32, error) {
	text, err := s.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n >= MaxTokens {
		return 0, fmt.Errorf("token id %s: want an integer from 0 to %d", text, MaxTokens-1)
	}
	return int32(n), nil
}

// list calls each for every element of an array; each must consume it.
func (s *scanner) list(each func(i int) error) error { return s.items('[', ']', each) }

// object calls each for every member of an object with its key; each must
// consume the value.
func (s *scanner) object(each func(key string) error) error {
	return s.items('{', '}', func(int) error {
		key, err := s.str()
		if err != nil {
			return err
		}
		if err := s.take(':'); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		if err := each(key); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		return nil
	})
}

func (s *scanner) items(open, end byte, each func(i int) error) error {
	if err := s.take(open); err != nil {
		return err
	}
	if s.peek() == end {
		s.pos++
		return nil
	}
	for i := 0; ; i++ {
		if err := each(i); err != nil {
			return err
		}
		switch c := s.peek(); c {
		case ',':
			s.pos++
		case end:
			s.pos++
			return nil
		default:
			return fmt.Errorf("byte %d: want ',' or %q, got %s", s.pos, end, describe(c))
		}
	}
}

// raw returns the text of the next value, whatever it is.
func (s *scanner) raw() (json.RawMessage, error) {
	s.peek()
	start, depth := s.pos, 0
	for {
		switch c := s.peek(); c {
		case 0:
			return nil, fmt.Errorf("byte %d: value without an end", start)
		case '"':
			if err := s.skipString(); err != nil {
				return nil, err
			}
		case '[', '{':
			depth++
			s.pos++
		case ']', '}':
			depth--
			s.pos++
		case ',', ':':
			if depth == 0 {
				return nil, fmt.Errorf("byte %d: want a value, got %q", s.pos, c)
			}
			s.pos++
		default: // a number, true, false or null
			for s.pos < len(s.data) && strings.IndexByte(" \t\r\n,:]}", s.data[s.pos]) < 0 {
				s.pos++
			}
		}
		if depth <= 0 {
			return s.data[start:s.pos], nil
		}
	}
}

// skipString passes over a string.
func (s *scanner) skipString() error {
	start := s.pos
	for s.pos++; s.pos < len(s.data); s.pos++ {
		switch s.data[s.pos] {
		case '\\':
			s.pos++
		case '"':
			s.pos++
			return nil
		}
	}
	return fmt.Errorf("byte %d: string without an end", start)
}

// members returns the members of a JSON object and their names in order. The
// values are parts of data. A repeated name is an error where strict; in the
// small files that people edit the last one counts, as in Python.
func members(data []byte, strict bool) (map[string]json.RawMessage, []string, error) {
	if !json.Valid(data) {
		var v any
		return nil, nil, json.Unmarshal(data, &v) // says where
	}
	s := scanner{data: data}
	values := make(map[string]json.RawMessage)
	var names []string
	err := s.object(func(name string) error {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		} else if strict {
			return fmt.Errorf("the member occurs twice")
		}
		raw, err := s.raw()
		values[name] = raw
		return err
	})
	return values, names, err
}
