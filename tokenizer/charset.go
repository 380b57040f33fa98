package tokenizer

import (
	"slices"
	"sort"
	"unicode"
)

// charSet is a set of code points: ASCII as a bitmap, all of it as sorted,
// disjoint, non-adjacent inclusive ranges. The zero value is the empty set.
type charSet struct {
	ascii  [2]uint64
	ranges []charRange
}

type charRange struct{ lo, hi rune }

// newCharSet normalises ranges, in any order and overlapping, to a set.
func newCharSet(ranges []charRange) *charSet {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b charRange) int { return int(a.lo) - int(b.lo) })
	s := &charSet{}
	for _, r := range sorted {
		if n := len(s.ranges); n > 0 && r.lo <= s.ranges[n-1].hi+1 {
			s.ranges[n-1].hi = max(s.ranges[n-1].hi, r.hi)
			continue
		}
		s.ranges = append(s.ranges, r)
	}
	for c := rune(0); c < 128; c++ {
		if s.search(c) {
			s.ascii[c>>6] |= 1 << (c & 63)
		}
	}
	return s
}

// chars is the set of the code points of text.
func chars(text string) *charSet {
	var ranges []charRange
	for _, r := range text {
		ranges = append(ranges, charRange{r, r})
	}
	return newCharSet(ranges)
}

// tables is the union of Unicode tables.
func tables(tabs ...*unicode.RangeTable) *charSet {
	var ranges []charRange
	add := func(lo, hi, stride rune) {
		if stride == 1 {
			ranges = append(ranges, charRange{lo, hi})
			return
		}
		for c := lo; c <= hi; c += stride {
			ranges = append(ranges, charRange{c, c})
		}
	}
	for _, t := range tabs {
		for _, r := range t.R16 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
		for _, r := range t.R32 {
			add(rune(r.Lo), rune(r.Hi), rune(r.Stride))
		}
	}
	return newCharSet(ranges)
}

// has reports whether c is in the set.
func (s *charSet) has(c rune) bool {
	if uint32(c) < 128 {
		return s.ascii[c>>6]&(1<<(c&63)) != 0
	}
	return s.search(c)
}

func (s *charSet) search(c rune) bool {
	i := sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].hi >= c })
	return i < len(s.ranges) && s.ranges[i].lo <= c
}

// union is the set of the code points of s or t.
func (s *charSet) union(t *charSet) *charSet {
	return newCharSet(slices.Concat(s.ranges, t.ranges))
}

// not is the set of all code points, surrogates included, that s lacks.
func (s *charSet) not() *charSet {
	var ranges []charRange
	next := rune(0)
	for _, r := range s.ranges {
		if r.lo > next {
			ranges = append(ranges, charRange{next, r.lo - 1})
		}
		next = r.hi + 1
	}
	if next <= unicode.MaxRune {
		ranges = append(ranges, charRange{next, unicode.MaxRune})
	}
	return newCharSet(ranges)
}

// intersect is the set of the code points of both s and t.
func (s *charSet) intersect(t *charSet) *charSet {
	return s.not().union(t.not()).not()
}

// foldCase is s with every simple case variant of its members.
func (s *charSet) foldCase() *charSet {
	ranges := slices.Clone(s.ranges)
	for _, r := range s.ranges {
		if int(r.hi-r.lo) > foldLimit {
			// A range this wide (a negated class) holds its members'
			// variants already, but for the few that are outside.
			continue
		}
		for c := r.lo; c <= r.hi; c++ {
			for f := unicode.SimpleFold(c); f != c; f = unicode.SimpleFold(f) {
				ranges = append(ranges, charRange{f, f})
			}
		}
	}
	return newCharSet(ranges)
}

// foldLimit bounds the work of foldCase: no script has more cased letters.
const foldLimit = 1 << 12

// The categories of Unicode 15.1: Go's tables are those of 15.0, llama.cpp's
// (unicode-data.cpp) are those of 15.1, which added CJK extension I and five
// ideographic description characters.
var (
	lettersOf151 = newCharSet([]charRange{{0x2EBF0, 0x2EE5D}})
	symbolsOf151 = newCharSet([]charRange{{0x2FFC, 0x2FFF}, {0x31EF, 0x31EF}})

	setLetter      = tables(unicode.L).union(lettersOf151)
	setNumber      = tables(unicode.N)
	setMark        = tables(unicode.M)
	setPunctuation = tables(unicode.P)
	setSymbol      = tables(unicode.S).union(symbolsOf151)
	setControl     = tables(unicode.Cc, unicode.Cf, unicode.Cs, unicode.Co)
	setSpace       = tables(unicode.White_Space)
	setDigit       = tables(unicode.Nd)
	setWord        = tables(unicode.L, unicode.M, unicode.Nd, unicode.Pc).union(lettersOf151)
	setRustWord    = tables(unicode.L, unicode.Nl, unicode.Other_Alphabetic, unicode.M, unicode.Nd, unicode.Pc, unicode.Join_Control).union(lettersOf151)
	setASCIISpace  = chars("\t\n\v\f\r ")
	setASCIIDigit  = newCharSet([]charRange{{'0', '9'}})
	setASCIIWord   = newCharSet([]charRange{{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {'_', '_'}})
)
