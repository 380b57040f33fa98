package tokenizer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// The regular expressions of tokenizers.
//
// Pre-tokenizers are written for Oniguruma (Hugging Face) or for
// std::basic_regex (llama.cpp): backtracking, leftmost-first, with look-around,
// possessive quantifiers, class intersections and Unicode categories, which
// Go's regexp leaves out by design. This file is that dialect and no more:
//
//	alternation, groups (plain, named, (?:), (?i:), (?i), (?m:)), greedy, lazy and
//	possessive quantifiers, atomic groups, look-ahead, fixed-width look-behind,
//	classes with ranges, nesting, negation and &&, \p{...}, \P{...}, \s \d \w
//	\h, \b \B \A \z \Z ^ $ and the dot.
//
// Back-references, conditionals and everything else are errors. Matching works
// on code points. A run of one class, which is what nearly every loop of a
// tokenizer is, costs one backtracking entry however long it is, the stack of
// the others is on the heap, and the steps spent on a text are bounded: a
// hostile expression ends in an error, never in a hang.

// A text may cost budgetBase steps and budgetPerChar more for each code point.
// The known pre-tokenizers need less than 50 per code point.
const (
	budgetBase    = 10_000_000
	budgetPerChar = 1000
)

// maxExpression bounds the text of an expression in bytes, of which the
// longest known has 3,000; maxProgram bounds the compiled size, which counted
// repeats multiply.
const (
	maxExpression = 16 << 10
	maxProgram    = 20_000
)

var errRegexBudget = errors.New("regular expression needs too many steps on this text")

// dialect says what the names in an expression mean.
type dialect struct {
	property         func(name string) *charSet // \p{name}; nil: unknown
	space, digit, wd *charSet                   // \s, \d, \w
	lineAnchors      bool                       // ^ and $ also match at line ends
	possessiveCounts bool                       // {n,m}+ is possessive, not a repeated repeat
}

// onigDialect is Oniguruma's Ruby syntax on Unicode text, the one that the
// tokenizers library compiles its patterns with.
var onigDialect = &dialect{
	property:    unicodeProperty,
	space:       setSpace,
	digit:       setDigit,
	wd:          setWord,
	lineAnchors: true,
}

// rustDialect is that of Rust's regex and fancy-regex crates, which tiktoken
// uses, and the tokenizers library where it has expressions of its own.
var rustDialect = &dialect{
	property:         unicodeProperty,
	space:            setSpace,
	digit:            setDigit,
	wd:               setRustWord,
	possessiveCounts: true,
}

// unicodeProperty resolves general categories (L, Lu, ...), scripts (Han) and
// properties, ignoring case, spaces, '-' and '_' as Oniguruma does.
func unicodeProperty(name string) *charSet {
	switch plainName(name) {
	case "l", "letter":
		return setLetter
	case "lo", "otherletter":
		return tables(unicode.Lo).union(lettersOf151)
	case "s", "symbol":
		return setSymbol
	case "so", "othersymbol":
		return tables(unicode.So).union(symbolsOf151)
	case "han":
		return tables(unicode.Han).union(lettersOf151)
	case "alpha", "alphabetic":
		return tables(unicode.L, unicode.Nl, unicode.Other_Alphabetic).union(lettersOf151)
	case "space", "whitespace":
		return setSpace
	case "digit":
		return setDigit
	case "upper", "uppercase":
		return tables(unicode.Lu, unicode.Other_Uppercase)
	case "lower", "lowercase":
		return tables(unicode.Ll, unicode.Other_Lowercase)
	case "punct":
		return setPunctuation.union(chars("$+<=>^`|~"))
	case "alnum":
		return tables(unicode.L, unicode.Nl, unicode.Other_Alphabetic, unicode.Nd).union(lettersOf151)
	case "any":
		return (&charSet{}).not()
	}
	if t, ok := namedTables()[plainName(name)]; ok {
		return tables(t)
	}
	return nil
}

// namedTables are Unicode's tables by plain name: properties, scripts, and
// categories by their short and long names, the later over the earlier.
var namedTables = sync.OnceValue(func() map[string]*unicode.RangeTable {
	named := make(map[string]*unicode.RangeTable)
	for _, known := range []map[string]*unicode.RangeTable{unicode.Properties, unicode.Scripts, unicode.Categories} {
		for name, t := range known {
			named[plainName(name)] = t
		}
	}
	for long, short := range unicode.CategoryAliases {
		named[plainName(long)] = unicode.Categories[short]
	}
	return named
})

func plainName(name string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(name))
}

type nodeKind uint8

const (
	kindSet    nodeKind = iota // one code point of set
	kindSeq                    // subs in order
	kindAlt                    // the first of subs that leads to a match
	kindRepeat                 // subs[0], min to max times
	kindAtomic                 // subs[0] without backtracking into it
	kindLook                   // look-around over subs[0]
	kindAssert                 // a position
)

type quantity uint8

const (
	greedy quantity = iota
	lazy
	possessive
)

type regexNode struct {
	kind     nodeKind
	set      *charSet
	subs     []*regexNode
	min, max int // kindRepeat; max < 0: no bound
	quantity quantity
	behind   bool // kindLook
	negate   bool // kindLook
	assert   byte // kindAssert: one of ^ $ b B A z Z
}

type regexOp uint8

const (
	opSet     regexOp = iota // consume one of set
	opRun                    // consume min to max of set, greedy or possessive
	opSplit                  // try x, then y
	opJump                   // to x
	opMark                   // remember the position in slot x
	opAdvance                // leave the loop (to y) unless past the mark in slot x
	opSub                    // run sub as an atomic group
	opLook                   // run sub as look-around
	opAssert
	opMatch
)

type regexInst struct {
	op         regexOp
	assert     byte
	possessive bool
	behind     bool
	negate     bool
	set        *charSet
	min, max   int
	x, y       int
	width      int // look-behind: code points before the position
	sub        []regexInst
}

// regex is a compiled expression. It is safe for concurrent use.
type regex struct {
	expr  string
	prog  []regexInst
	slots int
	word  *charSet
	first *charSet // nil: any, or an empty match is possible
	lines bool
}

// compileRegex compiles expr. Errors quote the expression and the place.
func compileRegex(expr string, d *dialect) (*regex, error) {
	if len(expr) > maxExpression {
		return nil, fmt.Errorf("regular expression of %d bytes: more than %d", len(expr), maxExpression)
	}
	p := &regexParser{src: []rune(expr), d: d}
	if !utf8.ValidString(expr) {
		return nil, fmt.Errorf("regular expression %q: not UTF-8", expr)
	}
	tree, err := p.alternation(0)
	if err == nil && p.pos < len(p.src) {
		err = errors.New("unmatched ')'")
	}
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: at %d: %w", expr, p.pos, err)
	}
	c := &regexCompiler{}
	prog, err := c.program(tree)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	re := &regex{expr: expr, prog: prog, slots: c.slots, word: d.wd, lines: d.lineAnchors}
	if set, empty := firstSet(tree); !empty {
		re.first = set
	}
	return re, nil
}

// regexParser reads the syntax.
type regexParser struct {
	src []rune
	pos int
	d   *dialect
	regexFlags
}

// regexFlags are the flags that hold where the parser is: (?i) and Ruby's (?m),
// with which the dot matches line ends.
type regexFlags struct{ fold, dotAll bool }

// flags reads flags such as "?i-m" up to the ':' or ')' that follows them. It
// reads nothing where something else stands there.
func (p *regexParser) flags() bool {
	start, set, on := p.pos, p.regexFlags, true
	if p.accept("?") {
		for p.more() {
			switch p.next() {
			case 'i':
				set.fold = on
				continue
			case 'm':
				set.dotAll = on
				continue
			case '-':
				on = false
				continue
			case ':', ')':
				if p.pos -= 1; p.pos > start+1 {
					p.regexFlags = set
					return true
				}
			}
			break
		}
	}
	p.pos = start
	return false
}

// maxGroupDepth bounds the depth of groups.
const maxGroupDepth = 100

func (p *regexParser) more() bool          { return p.pos < len(p.src) }
func (p *regexParser) next() rune          { p.pos++; return p.src[p.pos-1] }
func (p *regexParser) looking(c rune) bool { return p.more() && p.src[p.pos] == c }

func (p *regexParser) accept(text string) bool {
	rs := []rune(text)
	if len(p.src)-p.pos < len(rs) {
		return false
	}
	for i, r := range rs {
		if p.src[p.pos+i] != r {
			return false
		}
	}
	p.pos += len(rs)
	return true
}

func (p *regexParser) alternation(depth int) (*regexNode, error) {
	if depth > maxGroupDepth {
		return nil, fmt.Errorf("groups nested deeper than %d", maxGroupDepth)
	}
	flags := p.regexFlags
	alt := &regexNode{kind: kindAlt}
	for {
		seq, err := p.sequence(depth)
		if err != nil {
			return nil, err
		}
		alt.subs = append(alt.subs, seq)
		if !p.accept("|") {
			break
		}
	}
	p.regexFlags = flags // (?i) lasts to the end of its group
	if len(alt.subs) == 1 {
		return alt.subs[0], nil
	}
	return alt, nil
}

func (p *regexParser) sequence(depth int) (*regexNode, error) {
	seq := &regexNode{kind: kindSeq}
	for p.more() && !p.looking('|') && !p.looking(')') {
		atom, err := p.atom(depth)
		if err != nil {
			return nil, err
		}
		if atom == nil { // a flag group
			continue
		}
		if atom, err = p.quantified(atom); err != nil {
			return nil, err
		}
		seq.subs = append(seq.subs, atom)
	}
	return simplify(seq), nil
}

// simplify joins a look-ahead of one class and the class after it, the way
// llama.cpp spells an intersection: (?=[\p{L}])([^a-z]). As one class it loops
// as a run.
func simplify(seq *regexNode) *regexNode {
	if len(seq.subs) == 2 {
		look, next := seq.subs[0], seq.subs[1]
		if look.kind == kindLook && !look.behind && !look.negate && look.subs[0].kind == kindSet && next.kind == kindSet {
			return &regexNode{kind: kindSet, set: look.subs[0].set.intersect(next.set)}
		}
	}
	if len(seq.subs) == 1 {
		return seq.subs[0]
	}
	return seq
}

func (p *regexParser) atom(depth int) (*regexNode, error) {
	switch c := p.next(); c {
	case '(':
		return p.group(depth)
	case '[':
		set, err := p.class(depth)
		if err != nil {
			return nil, err
		}
		return p.setNode(set), nil
	case '.':
		if p.dotAll {
			return &regexNode{kind: kindSet, set: (&charSet{}).not()}, nil
		}
		return &regexNode{kind: kindSet, set: chars("\n").not()}, nil
	case '^', '$':
		return &regexNode{kind: kindAssert, assert: byte(c)}, nil
	case '*', '+', '?':
		return nil, fmt.Errorf("quantifier %q without a target", c)
	case '\\':
		if !p.more() {
			return nil, errors.New("trailing backslash")
		}
		switch c := p.src[p.pos]; c {
		case 'b', 'B', 'A', 'z', 'Z':
			p.pos++
			return &regexNode{kind: kindAssert, assert: byte(c)}, nil
		}
		set, err := p.escape()
		if err != nil {
			return nil, err
		}
		return p.setNode(set), nil
	default:
		return p.setNode(newCharSet([]charRange{{c, c}})), nil
	}
}

func (p *regexParser) setNode(set *charSet) *regexNode {
	if p.fold {
		set = set.foldCase()
	}
	return &regexNode{kind: kindSet, set: set}
}

// group reads what follows an opening parenthesis.
func (p *regexParser) group(depth int) (*regexNode, error) {
	wrap := func(n *regexNode) *regexNode { return n }
	look := func(behind, negate bool) func(*regexNode) *regexNode {
		return func(n *regexNode) *regexNode {
			return &regexNode{kind: kindLook, behind: behind, negate: negate, subs: []*regexNode{n}}
		}
	}
	flags := p.regexFlags
	switch {
	case p.accept("?:"):
	case p.accept("?="):
		wrap = look(false, false)
	case p.accept("?!"):
		wrap = look(false, true)
	case p.accept("?<="):
		wrap = look(true, false)
	case p.accept("?<!"):
		wrap = look(true, true)
	case p.accept("?>"):
		wrap = func(n *regexNode) *regexNode { return &regexNode{kind: kindAtomic, subs: []*regexNode{n}} }
	case p.flags():
		if p.accept(")") {
			return nil, nil
		}
		p.pos++ // the colon
	case p.accept("?<"), p.accept("?P<"):
		for p.more() && !p.looking('>') {
			p.pos++
		}
		if !p.accept(">") {
			return nil, errors.New("group name without '>'")
		}
	case p.looking('?'):
		return nil, errors.New("unsupported group")
	}
	n, err := p.alternation(depth + 1)
	if err != nil {
		return nil, err
	}
	if !p.accept(")") {
		return nil, errors.New("missing ')'")
	}
	p.regexFlags = flags
	return wrap(n), nil
}

// maxRepeat bounds the counts of {n,m}.
const maxRepeat = 1000

// quantified reads the quantifiers after atom.
func (p *regexParser) quantified(atom *regexNode) (*regexNode, error) {
	for p.more() {
		lo, hi := 0, -1
		braces := false
		switch {
		case p.accept("*"):
		case p.accept("+"):
			lo = 1
		case p.accept("?"):
			hi = 1
		case p.looking('{'):
			start := p.pos
			var ok bool
			if lo, hi, ok = p.counts(); !ok {
				p.pos = start
				return atom, nil // a literal brace, read as the next atom
			}
			braces = true
		default:
			return atom, nil
		}
		if lo > maxRepeat || hi > maxRepeat || hi >= 0 && hi < lo {
			return nil, fmt.Errorf("repeat {%d,%d}: counts go from small to large, up to %d", lo, hi, maxRepeat)
		}
		q := greedy
		switch {
		case p.accept("?"):
			q = lazy
		case (!braces || p.d.possessiveCounts) && p.accept("+"):
			q = possessive
		}
		atom = &regexNode{kind: kindRepeat, min: lo, max: hi, quantity: q, subs: []*regexNode{atom}}
	}
	return atom, nil
}

// counts reads {n}, {n,}, {,m} or {n,m}.
func (p *regexParser) counts() (lo, hi int, ok bool) {
	p.pos++
	number := func() (int, bool) {
		start := p.pos
		for p.more() && p.src[p.pos] >= '0' && p.src[p.pos] <= '9' {
			p.pos++
		}
		n, err := strconv.Atoi(string(p.src[start:p.pos]))
		return n, err == nil
	}
	lo, haveLo := number()
	if !p.accept(",") {
		return lo, lo, haveLo && p.accept("}")
	}
	hi, haveHi := number()
	if !haveHi {
		hi = -1
	}
	return lo, hi, (haveLo || haveHi) && p.accept("}")
}

// escape reads what follows a backslash, where it stands for a set.
func (p *regexParser) escape() (*charSet, error) {
	one := func(c rune) *charSet { return newCharSet([]charRange{{c, c}}) }
	if !p.more() {
		return nil, errors.New("trailing backslash")
	}
	switch c := p.next(); c {
	case 's':
		return p.d.space, nil
	case 'S':
		return p.d.space.not(), nil
	case 'd':
		return p.d.digit, nil
	case 'D':
		return p.d.digit.not(), nil
	case 'w':
		return p.d.wd, nil
	case 'W':
		return p.d.wd.not(), nil
	case 'h':
		return chars("0123456789abcdefABCDEF"), nil
	case 'H':
		return chars("0123456789abcdefABCDEF").not(), nil
	case 'p', 'P':
		name := ""
		if p.accept("{") {
			start := p.pos
			for p.more() && !p.looking('}') {
				p.pos++
			}
			name = string(p.src[start:p.pos])
			if !p.accept("}") {
				return nil, errors.New("\\p{ without '}'")
			}
		} else if p.more() {
			name = string(p.next())
		}
		negate := c == 'P'
		if rest, ok := strings.CutPrefix(name, "^"); ok {
			name, negate = rest, !negate
		}
		set := p.d.property(name)
		if set == nil {
			return nil, fmt.Errorf("unknown property \\p{%s}", name)
		}
		if negate {
			set = set.not()
		}
		return set, nil
	case 't':
		return one('\t'), nil
	case 'n':
		return one('\n'), nil
	case 'r':
		return one('\r'), nil
	case 'f':
		return one('\f'), nil
	case 'v':
		return one('\v'), nil
	case 'a':
		return one('\a'), nil
	case 'e':
		return one(0x1B), nil
	case 'x', 'u':
		var digits string
		if p.accept("{") {
			for p.more() && !p.looking('}') {
				digits += string(p.next())
			}
			if !p.accept("}") {
				return nil, errors.New("escape without '}'")
			}
		} else {
			for want := map[rune]int{'x': 2, 'u': 4}[c]; want > 0 && p.more() && unicode.Is(unicode.ASCII_Hex_Digit, p.src[p.pos]); want-- {
				digits += string(p.next())
			}
		}
		n, err := strconv.ParseUint(digits, 16, 21)
		if err != nil || n > unicode.MaxRune {
			return nil, fmt.Errorf("bad code point %q", digits)
		}
		return one(rune(n)), nil
	default:
		if c < 128 && (unicode.IsLetter(c) || unicode.IsDigit(c)) {
			return nil, fmt.Errorf("unsupported escape \\%c", c)
		}
		return one(c), nil
	}
}

// class reads a bracketed class after its '['.
func (p *regexParser) class(depth int) (*charSet, error) {
	if depth > maxGroupDepth {
		return nil, fmt.Errorf("classes nested deeper than %d", maxGroupDepth)
	}
	negate := p.accept("^")
	var members []charRange
	var left *charSet // what stands before &&
	for first := true; ; first = false {
		if !p.more() {
			return nil, errors.New("class without ']'")
		}
		if p.looking(']') && !first {
			p.pos++
			break
		}
		if p.accept("&&") {
			right := newCharSet(members)
			if left != nil {
				right = right.intersect(left)
			}
			left, members = right, nil
			continue
		}
		if p.accept("[:") {
			member, err := p.posix()
			if err != nil {
				return nil, err
			}
			members = append(members, member.ranges...)
			continue
		}
		if p.looking('[') {
			p.pos++
			member, err := p.class(depth + 1)
			if err != nil {
				return nil, err
			}
			members = append(members, member.ranges...)
			continue
		}
		member, err := p.member()
		if err != nil {
			return nil, err
		}
		lo, single := only(member)
		if single && p.looking('-') && p.pos+1 < len(p.src) && p.src[p.pos+1] != ']' {
			p.pos++
			to, err := p.member()
			if err != nil {
				return nil, err
			}
			hi, ok := only(to)
			if !ok || hi < lo {
				return nil, errors.New("class range out of order")
			}
			members = append(members, charRange{lo, hi})
			continue
		}
		members = append(members, member.ranges...)
	}
	set := newCharSet(members)
	if left != nil {
		set = set.intersect(left)
	}
	if p.fold {
		set = set.foldCase()
	}
	if negate {
		set = set.not()
	}
	return set, nil
}

// member reads one character or escape of a class.
func (p *regexParser) member() (*charSet, error) {
	if p.accept("\\") {
		if p.accept("b") {
			return chars("\b"), nil
		}
		return p.escape()
	}
	c := p.next()
	return newCharSet([]charRange{{c, c}}), nil
}

// only returns the single member of a set.
func only(s *charSet) (rune, bool) {
	if len(s.ranges) == 1 && s.ranges[0].lo == s.ranges[0].hi {
		return s.ranges[0].lo, true
	}
	return 0, false
}

// posix reads a bracket such as [:alpha:] after its "[:".
func (p *regexParser) posix() (*charSet, error) {
	negate := p.accept("^")
	start := p.pos
	for p.more() && !p.looking(':') {
		p.pos++
	}
	name := string(p.src[start:p.pos])
	if !p.accept(":]") {
		return nil, errors.New("[: without :]")
	}
	set := p.d.property(name)
	if set == nil {
		return nil, fmt.Errorf("unknown class [:%s:]", name)
	}
	if negate {
		set = set.not()
	}
	return set, nil
}

// regexCompiler turns the tree into instructions.
type regexCompiler struct {
	slots int
	size  int
}

func (c *regexCompiler) program(n *regexNode) ([]regexInst, error) {
	prog, err := c.emit(nil, n)
	if err != nil {
		return nil, err
	}
	return append(prog, regexInst{op: opMatch}), nil
}

func (c *regexCompiler) emit(prog []regexInst, n *regexNode) ([]regexInst, error) {
	if c.size++; c.size > maxProgram {
		return nil, fmt.Errorf("larger than %d instructions", maxProgram)
	}
	var err error
	switch n.kind {
	case kindSet:
		return append(prog, regexInst{op: opSet, set: n.set}), nil
	case kindAssert:
		return append(prog, regexInst{op: opAssert, assert: n.assert}), nil
	case kindSeq:
		for _, sub := range n.subs {
			if prog, err = c.emit(prog, sub); err != nil {
				return nil, err
			}
		}
		return prog, nil
	case kindAlt:
		var ends []int
		for i, sub := range n.subs {
			split := -1
			if i < len(n.subs)-1 {
				split = len(prog)
				prog = append(prog, regexInst{op: opSplit, x: len(prog) + 1})
			}
			if prog, err = c.emit(prog, sub); err != nil {
				return nil, err
			}
			if split >= 0 {
				ends = append(ends, len(prog))
				prog = append(prog, regexInst{op: opJump})
				prog[split].y = len(prog)
			}
		}
		for _, at := range ends {
			prog[at].x = len(prog)
		}
		return prog, nil
	case kindAtomic, kindLook:
		sub, err := c.program(n.subs[0])
		if err != nil {
			return nil, err
		}
		if n.kind == kindAtomic {
			return append(prog, regexInst{op: opSub, sub: sub}), nil
		}
		inst := regexInst{op: opLook, sub: sub, behind: n.behind, negate: n.negate}
		if n.behind {
			width, ok := fixedWidth(n.subs[0])
			if !ok {
				return nil, errors.New("look-behind of variable width")
			}
			inst.width = width
		}
		return append(prog, inst), nil
	default:
		return c.repeat(prog, n)
	}
}

func (c *regexCompiler) repeat(prog []regexInst, n *regexNode) ([]regexInst, error) {
	sub := n.subs[0]
	if sub.kind == kindSet && n.quantity != lazy {
		return append(prog, regexInst{op: opRun, set: sub.set, min: n.min, max: n.max, possessive: n.quantity == possessive}), nil
	}
	if n.quantity == possessive {
		inner := *n
		inner.quantity = greedy
		return c.emit(prog, &regexNode{kind: kindAtomic, subs: []*regexNode{&inner}})
	}
	var err error
	for range n.min {
		if prog, err = c.emit(prog, sub); err != nil {
			return nil, err
		}
	}
	split := func(body, out int) regexInst {
		if n.quantity == lazy {
			return regexInst{op: opSplit, x: out, y: body}
		}
		return regexInst{op: opSplit, x: body, y: out}
	}
	if n.max < 0 {
		// L: split body, out; mark; body; advance (else out); jump L
		top := len(prog)
		slot := c.slots
		c.slots++
		prog = append(prog, regexInst{}, regexInst{op: opMark, x: slot})
		if prog, err = c.emit(prog, sub); err != nil {
			return nil, err
		}
		out := len(prog) + 2
		prog = append(prog, regexInst{op: opAdvance, x: slot, y: out}, regexInst{op: opJump, x: top})
		prog[top] = split(top+1, out)
		return prog, nil
	}
	var splits []int
	for range n.max - n.min {
		splits = append(splits, len(prog))
		prog = append(prog, regexInst{})
		if prog, err = c.emit(prog, sub); err != nil {
			return nil, err
		}
	}
	for _, at := range splits {
		prog[at] = split(at+1, len(prog))
	}
	return prog, nil
}

// fixedWidth returns the number of code points that n always takes.
func fixedWidth(n *regexNode) (int, bool) {
	switch n.kind {
	case kindSet:
		return 1, true
	case kindAssert, kindLook:
		return 0, true
	case kindSeq:
		total := 0
		for _, sub := range n.subs {
			w, ok := fixedWidth(sub)
			if !ok {
				return 0, false
			}
			total += w
		}
		return total, true
	case kindRepeat:
		w, ok := fixedWidth(n.subs[0])
		return w * n.min, ok && n.min == n.max
	case kindAtomic:
		return fixedWidth(n.subs[0])
	default:
		width, ok := fixedWidth(n.subs[0])
		for _, sub := range n.subs[1:] {
			w, subOK := fixedWidth(sub)
			ok = ok && subOK && w == width
		}
		return width, ok
	}
}

// firstSet returns the code points that a match can begin with, and whether a
// match can be empty.
func firstSet(n *regexNode) (set *charSet, empty bool) {
	switch n.kind {
	case kindSet:
		return n.set, false
	case kindSeq:
		set = &charSet{}
		for _, sub := range n.subs {
			s, e := firstSet(sub)
			set = set.union(s)
			if !e {
				return set, false
			}
		}
		return set, true
	case kindAlt:
		set = &charSet{}
		for _, sub := range n.subs {
			s, e := firstSet(sub)
			set, empty = set.union(s), empty || e
		}
		return set, empty
	case kindRepeat:
		set, empty = firstSet(n.subs[0])
		return set, empty || n.min == 0
	case kindAtomic:
		return firstSet(n.subs[0])
	default:
		return &charSet{}, true
	}
}

// backtrack is a point to return to: a pending branch (run < 0), a run of a
// class that can give back code points down to low, or a slot to restore.
type backtrack struct {
	pc, pos int
	low     int
	kind    uint8
}

const (
	backBranch uint8 = iota
	backRun
	backSlot
)

// matcher is the state of the matches on one text.
type matcher struct {
	re    *regex
	text  []rune
	marks []int
	stack []backtrack
	steps int // left
}

func (re *regex) matcher(text []rune) *matcher {
	return &matcher{re: re, text: text, marks: make([]int, re.slots), steps: budgetBase + budgetPerChar*len(text)}
}

// find returns the leftmost match that starts at from or later.
func (m *matcher) find(from int) (start, end int, ok bool, err error) {
	for pos := from; pos <= len(m.text); pos++ {
		if first := m.re.first; first != nil {
			for pos < len(m.text) && !first.has(m.text[pos]) {
				pos++
			}
			if pos == len(m.text) {
				return 0, 0, false, nil
			}
		}
		end, ok, err := m.run(m.re.prog, pos)
		if err != nil {
			return 0, 0, false, err
		}
		if ok {
			return pos, end, true, nil
		}
		if head := &m.re.prog[0]; head.op == opRun && head.max < 0 && !head.possessive {
			// The rest failed at every length of the run; a later start in
			// the same run would only try some of these again.
			for pos < len(m.text) && head.set.has(m.text[pos]) {
				pos++
			}
		}
	}
	return 0, 0, false, nil
}

// run matches prog at pos and returns the end of the match.
func (m *matcher) run(prog []regexInst, pos int) (int, bool, error) {
	base := len(m.stack)
	defer func() { m.stack = m.stack[:base] }()
	pc := 0
	for {
		if m.steps--; m.steps < 0 {
			return 0, false, errRegexBudget
		}
		ok := true
		in := &prog[pc]
		switch in.op {
		case opSet:
			if ok = pos < len(m.text) && in.set.has(m.text[pos]); ok {
				pos++
				pc++
			}
		case opRun:
			limit := len(m.text)
			if in.max >= 0 && in.max < limit-pos {
				limit = pos + in.max
			}
			end := pos
			for end < limit && in.set.has(m.text[end]) {
				end++
			}
			m.steps -= end - pos
			low := pos + in.min
			if ok = end >= low; ok {
				pc++
				if end > low && !in.possessive {
					m.stack = append(m.stack, backtrack{pc: pc, pos: end, low: low, kind: backRun})
				}
				pos = end
			}
		case opSplit:
			m.stack = append(m.stack, backtrack{pc: in.y, pos: pos, kind: backBranch})
			pc = in.x
		case opJump:
			pc = in.x
		case opMark:
			m.stack = append(m.stack, backtrack{pc: in.x, pos: m.marks[in.x], kind: backSlot})
			m.marks[in.x] = pos
			pc++
		case opAdvance:
			if m.marks[in.x] == pos {
				pc = in.y
			} else {
				pc++
			}
		case opSub:
			end, matched, err := m.run(in.sub, pos)
			if err != nil {
				return 0, false, err
			}
			if ok = matched; ok {
				pos = end
				pc++
			}
		case opLook:
			matched := false
			if start := pos - in.width; start >= 0 {
				end, found, err := m.run(in.sub, start)
				if err != nil {
					return 0, false, err
				}
				matched = found && (!in.behind || end == pos)
			}
			ok = matched != in.negate
			pc++
		case opAssert:
			ok = m.assert(in.assert, pos)
			pc++
		case opMatch:
			return pos, true, nil
		}
		if ok {
			continue
		}
		for {
			if len(m.stack) == base {
				return 0, false, nil
			}
			top := &m.stack[len(m.stack)-1]
			if top.kind == backSlot {
				m.marks[top.pc] = top.pos
				m.stack = m.stack[:len(m.stack)-1]
				continue
			}
			pc = top.pc
			if top.kind == backRun {
				top.pos--
				pos = top.pos
				if pos == top.low {
					m.stack = m.stack[:len(m.stack)-1]
				}
			} else {
				pos = top.pos
				m.stack = m.stack[:len(m.stack)-1]
			}
			break
		}
	}
}

func (m *matcher) assert(kind byte, pos int) bool {
	word := func(i int) bool { return i >= 0 && i < len(m.text) && m.re.word.has(m.text[i]) }
	switch kind {
	case '^':
		return pos == 0 || m.re.lines && m.text[pos-1] == '\n'
	case '$':
		return pos == len(m.text) || m.re.lines && m.text[pos] == '\n'
	case 'A':
		return pos == 0
	case 'z':
		return pos == len(m.text)
	case 'Z':
		return pos == len(m.text) || pos == len(m.text)-1 && m.text[pos] == '\n'
	case 'b':
		return word(pos-1) != word(pos)
	default: // 'B'
		return word(pos-1) == word(pos)
	}
}
