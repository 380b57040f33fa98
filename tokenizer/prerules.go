package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// preRules is what llama.cpp does for one value of tokenizer.ggml.pre: how it
// cuts text into words, and which defaults the name carries with it
// (llama-vocab.cpp, llama_vocab::impl::load and llm_tokenizer_bpe). Adding a
// pre-tokenizer is a row of preTable.
type preRules struct {
	names []string

	// cuts are applied in order, each to the pieces the one before left; what
	// an expression does not match stays a piece of its own.
	cuts []string

	rawUTF8          bool // pieces are text, not GPT-2's byte alphabet
	escapeSpaces     bool // ' ' becomes U+2581 first
	ignoreMerges     bool // a piece that is a token needs no merges
	keepSpaces       bool // no clean-up of spaces before punctuation
	addBOS           bool
	forceBOS         bool // whatever tokenizer.ggml.add_bos_token says
	noBOS            bool // no default BOS id
	newlinesAreWords bool // a piece of newlines that is a token stays whole
	keepCase         bool // no lower-casing by default
}

// The alternatives that many expressions share.
const (
	exprContraction = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
	exprWord        = `[^\r\n\p{L}\p{N}]?\p{L}+`
	exprMarkWord    = `[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`
	exprSymbols     = ` ?[^\s\p{L}\p{N}]+[\r\n]*`
	exprPathSymbols = ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
	exprNewlines    = `\s*[\r\n]+`
	exprSpaces      = `\s+(?!\S)|\s+`
	exprPunctWord   = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
	exprCJK         = `[一-龥぀-ゟ゠-ヿ]+`

	cutGPT2      = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
	cutLlama3    = exprContraction + `|` + exprWord + `|\p{N}{1,3}|` + exprSymbols + `|` + exprNewlines + `|` + exprSpaces
	cutQwen2     = exprContraction + `|` + exprWord + `|\p{N}|` + exprSymbols + `|` + exprNewlines + `|` + exprSpaces
	cutQwen35    = exprContraction + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|` + exprNewlines + `|` + exprSpaces
	cutDeepSeek3 = exprPunctWord + `|` + exprMarkWord + `| ?[\p{P}\p{S}]+[\r\n]*|` + exprNewlines + `|` + exprSpaces
	cutLines     = `[^\n]+|[\n]+`

	// llama.cpp spells "upper case or caseless" and "lower case or caseless"
	// as a letter that is not an ASCII letter of the other case.
	exprUpper     = `((?=[\p{L}])([^a-z]))`
	exprLower     = `((?=[\p{L}])([^A-Z]))`
	exprUpperMark = `((?=[\p{L}\p{M}])([^a-z]))`
	exprLowerMark = `((?=[\p{L}\p{M}])([^A-Z]))`
	exprUpperCat  = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	exprLowerCat  = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	exprLead      = `[^\r\n\p{L}\p{N}]?`

	// The cased letters as deepseek-llm lists them, by number because some would
	// not survive Unicode normalization in an editor.
	exprCasedLetters = `A-Za-z` +
		`\x{00B5}\x{00C0}-\x{00D6}\x{00D8}-\x{00F6}\x{00F8}-\x{01BA}\x{01BC}-\x{01BF}\x{01C4}-\x{0293}` +
		`\x{0295}-\x{02AF}\x{0370}-\x{0373}\x{0376}\x{0377}\x{037B}-\x{037D}\x{037F}\x{0386}\x{0388}-\x{038A}` +
		`\x{038C}\x{038E}-\x{03A1}\x{03A3}-\x{03F5}\x{03F7}-\x{0481}\x{048A}-\x{052F}\x{0531}-\x{0556}` +
		`\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}` +
		`\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}` +
		`\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}` +
		`\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}` +
		`\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}` +
		`\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}` +
		`\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}` +
		`\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}` +
		`\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}` +
		`\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}`

	// These two names stand for code in llama.cpp (unicode.cpp,
	// unicode_regex_split_custom), not for expressions.
	cutDigitsFromRight = `\p{AFMoE_digits}`
	cutKimi            = `\p{Han}+`
)

// caseWords is gpt-4o's pair of word alternatives.
func caseWords(upper, lower, suffix string) string {
	return exprLead + upper + `*` + lower + `+` + suffix + `|` + exprLead + upper + `+` + lower + `*` + suffix
}

var preTable = []preRules{
	{
		names: []string{"default"},
		cuts:  []string{`[\p{P}\$\+<=>\^~\|]+`, cutGPT2, `\p{N}+`, `[0-9][0-9][0-9]`},
	},
	{
		names: []string{
			"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
		},
		cuts: []string{cutLlama3}, ignoreMerges: true, addBOS: true,
	},
	{names: []string{"dbrx", "smaug-bpe"}, cuts: []string{cutLlama3}},
	{names: []string{"chatglm-bpe"}, cuts: []string{cutLlama3}, noBOS: true},
	{names: []string{"glm4", "glm5"}, cuts: []string{cutLlama3}, noBOS: true, ignoreMerges: true},
	{
		names: []string{"jais-2"},
		cuts: []string{exprContraction + `|` + exprWord + `|\p{N}{1,3}|` + exprSymbols + `|` + exprNewlines +
			`|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`},
	},
	{
		names: []string{"minicpm5"},
		cuts: []string{`\p{N}{1,3}`,
			exprContraction + `|` + exprWord + `|\p{N}+|` + exprSymbols + `|` + exprNewlines + `|` + exprSpaces},
		ignoreMerges: true,
	},
	{
		names: []string{"deepseek-llm"},
		cuts: []string{
			"[\r\n]",
			`\s?[` + exprCasedLetters + `]+`,
			`\s?[!-/:-~！-／：-～‘-‟　-。]+`,
			`\s+$`,
			`[一-龥ࠀ-一가-퟿]+`,
			`\p{N}+`,
		},
		keepSpaces: true,
	},
	{
		names:      []string{"deepseek-coder"},
		cuts:       []string{"[\r\n]", `\s?\p{L}+`, `\s?\p{P}+`, `[一-龥ࠀ-一가-퟿]+`, `\p{N}`},
		keepSpaces: true,
	},
	{
		names:      []string{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
		cuts:       []string{`\p{N}{1,3}`, exprCJK, cutDeepSeek3},
		keepSpaces: true,
	},
	{
		names: []string{"spark2_5"},
		cuts: []string{`\p{N}{1,3}`, exprCJK,
			exprPunctWord + `|` + exprMarkWord + `| ?[\p{P}\p{S}]+|[` + "\r\n" + `]|` + exprSpaces, `\p{N}`},
		keepSpaces: true,
	},
	{
		names: []string{"youtu"},
		cuts: []string{
			`[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`,
			caseWords(exprUpperCat, exprLowerCat, exprContraction+`?`) + `|\p{N}|` + exprPathSymbols + `|` + exprNewlines + `|` + exprSpaces,
		},
		keepSpaces: true, ignoreMerges: true,
	},
	{
		names: []string{"falcon"},
		cuts:  []string{"[\\p{P}\\$\\+<=>\\^~\\|`]+", cutGPT2, `[0-9][0-9][0-9]`},
	},
	{
		names: []string{"starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"},
		cuts:  []string{`\p{N}`, cutGPT2},
	},
	{names: []string{"command-r", "smollm"}, cuts: []string{`\p{N}`, cutGPT2}, keepSpaces: true},
	{
		names: []string{
			"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
			"jina-v1-en", "jina-v2-code", "roberta-bpe", "gigachat", "a.x-4.0", "mellum", "modern-bert",
		},
		cuts: []string{cutGPT2},
	},
	{names: []string{"trillion", "granite-docling"}, cuts: []string{cutGPT2}, keepSpaces: true},
	{names: []string{"stablelm2", "megrez"}, cuts: []string{cutQwen2}},
	{
		names: []string{
			"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "hunyuan", "solar-open", "grok-2",
		},
		cuts: []string{cutQwen2}, keepSpaces: true,
	},
	{names: []string{"qwen35"}, cuts: []string{cutQwen35}, keepSpaces: true},
	{names: []string{"laguna"}, cuts: []string{cutLines, cutQwen2}, keepSpaces: true},
	{
		names:      []string{"ufakzeka"},
		cuts:       []string{exprWord + `|\p{N}|` + exprSymbols + `|` + exprNewlines + `|` + exprSpaces},
		keepSpaces: true,
	},
	{names: []string{"poro-chat"}, cuts: []string{` ?[^(\s|.,!?…。，、।۔،)]+`}, keepSpaces: true},
	{names: []string{"bloom", "gpt3-finnish"}, cuts: []string{` ?[^(\s|.,!?…。，、।۔،)]+`}},
	{names: []string{"viking"}, cuts: []string{` ?[^(\s|.,!?…。，、।۔،)]+`, `\p{N}`}, keepSpaces: true},
	{
		names: []string{"tekken"},
		cuts:  []string{caseWords(exprUpper, exprLower, ``) + `|\p{N}|` + exprPathSymbols + `|` + exprNewlines + `|` + exprSpaces},

		keepSpaces: true, ignoreMerges: true, addBOS: true,
	},
	{
		names: []string{"chameleon"},
		cuts: []string{`<sentinel:[0-9]+>`, `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`, `([\t\n]|    |  )`,
			`\p{N}`, "[\\p{P}!-/:-@\\[-`{-~]", cutGPT2},
		keepSpaces: true, addBOS: true,
	},
	{
		names: []string{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
		cuts: []string{caseWords(exprUpper, exprLower, exprContraction+`?`) + `|\p{N}{1,3}|` + exprPathSymbols +
			`|` + exprNewlines + `|` + exprSpaces},
		keepSpaces: true,
	},
	{
		names: []string{"granite-embed-multi-97m"},
		cuts: []string{caseWords(exprUpperMark, exprLowerMark, exprContraction+`?`) + `|\p{N}{1,3}|` + exprPathSymbols +
			`|` + exprNewlines + `|` + exprSpaces},
		keepSpaces: true, ignoreMerges: true,
	},
	{
		names: []string{"tiny_aya", "cohere2moe"},
		cuts: []string{cutDigitsFromRight,
			caseWords(exprUpperCat, exprLowerCat, exprContraction+`?`) + `|\p{N}{1,3}|` + exprPathSymbols + `|` + exprNewlines + `|` + exprSpaces},
		keepSpaces: true,
	},
	{names: []string{"kimi-k2"}, cuts: []string{cutKimi}, keepSpaces: true},
	{names: []string{"superbpe"}, cuts: []string{`\p{N}+`, `(?=(\d{3})+(?!\d))`}, keepSpaces: true},
	{
		names: []string{"bailingmoe", "bailingmoe2", "llada-moe"},
		cuts: []string{`'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|` + exprWord + `|\p{N}|` + exprSymbols +
			`|\s*[\r\n]|` + exprSpaces},
		keepSpaces: true,
	},
	{
		names: []string{"seed-coder"},
		cuts: []string{exprContraction + `|` + exprWord + `|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|` + exprNewlines +
			`|` + exprSpaces},
		keepSpaces: true,
	},
	{
		names: []string{"afmoe"},
		cuts: []string{cutDigitsFromRight,
			`[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+`, cutDeepSeek3},
		keepSpaces: true,
	},
	{
		names: []string{"exaone-moe"},
		cuts: []string{exprContraction + `|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|` +
			exprSpaces},
	},
	{
		names: []string{"gemma4", "granite-embed-multi-311m"}, cuts: []string{cutLines},
		rawUTF8: true, escapeSpaces: true, newlinesAreWords: true, forceBOS: true,
	},
	{names: []string{"sarvam-moe"}, cuts: []string{cutLines}, rawUTF8: true, escapeSpaces: true, keepSpaces: true},
	{names: []string{"whitespace"}, cuts: []string{`\S+`}, rawUTF8: true, keepCase: true},
}

// lookupPre returns the rules of a value of tokenizer.ggml.pre.
func lookupPre(name string) (*preRules, error) {
	for i := range preTable {
		if slices.Contains(preTable[i].names, name) {
			return &preTable[i], nil
		}
	}
	return nil, fmt.Errorf("unknown pre-tokenizer %q", name)
}

// cutter is one compiled cut of llama.cpp.
//
// llama.cpp has code for the commonest expressions; the others it gives to
// std::basic_regex, which knows no Unicode. For that it replaces the text: an
// expression with categories sees one stand-in per category instead of each
// code point from 128 on, so all letters are alike to it, and \p{Lu} is
// \p{L}; an expression without sees the text itself, but with all white space
// from 128 on as a vertical tab. In both \s and \d are ASCII.
type cutter struct {
	re   *regex
	view func(rune) rune // what the expression sees of a code point; nil: itself
	code func(text []rune, ends []int, start, end int) []int
}

// The stand-ins of collapsed text.
const (
	seenOther       = 0xD0
	seenNumber      = 0xD1
	seenLetter      = 0xD2
	seenPunctuation = 0xD3
	seenMark        = 0xD4
	seenSymbol      = 0xD5
	seenSpace       = '\v'
)

// seenAs is what collapsed text shows for a code point.
func seenAs(c rune) rune {
	switch {
	case c < 128:
		return c
	case setSpace.has(c):
		return seenSpace
	case setLetter.has(c):
		return seenLetter
	case setNumber.has(c):
		return seenNumber
	case setPunctuation.has(c):
		return seenPunctuation
	case setMark.has(c):
		return seenMark
	case setSymbol.has(c):
		return seenSymbol
	}
	return seenOther
}

func wideView(c rune) rune {
	if c >= 128 && setSpace.has(c) {
		return seenSpace
	}
	return c
}

var (
	// codeDialect is that of the expressions llama.cpp has code for: real
	// categories and white space, see unicode_regex_split_custom.
	codeDialect = &dialect{space: setSpace, digit: setASCIIDigit, wd: setASCIIWord, property: func(name string) *charSet {
		return map[string]*charSet{"L": setLetter, "N": setNumber, "M": setMark, "Han": setHan}[name]
	}}
	collapsedDialect = &dialect{space: setASCIISpace, digit: setASCIIDigit, wd: setASCIIWord, property: func(name string) *charSet {
		stand := func(c rune, s *charSet) *charSet {
			return s.intersect(newCharSet([]charRange{{0, 127}})).union(newCharSet([]charRange{{c, c}}))
		}
		switch name {
		case "L", "Lu", "Ll", "Lt", "Lm", "Lo":
			return stand(seenLetter, setLetter)
		case "N":
			return stand(seenNumber, setNumber)
		case "P":
			return stand(seenPunctuation, setPunctuation)
		case "M":
			return stand(seenMark, setMark)
		case "S":
			return stand(seenSymbol, setSymbol)
		}
		return nil
	}}
	wideDialect = &dialect{space: setASCIISpace, digit: setASCIIDigit, wd: setASCIIWord, property: func(string) *charSet { return nil }}

	// setHan is llama.cpp's idea of \p{Han} (unicode_cpt_is_han).
	setHan = newCharSet([]charRange{
		{0x3400, 0x4DBF}, {0x4E00, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x2A6DF}, {0x2A700, 0x2EBEF}, {0x2F800, 0x2FA1F},
	})
)

// newCutter compiles one entry of preRules.cuts.
func newCutter(expr string) (*cutter, error) {
	c := &cutter{}
	d := codeDialect
	switch expr {
	case cutDigitsFromRight:
		c.code = digitsFromRight
		return c, nil
	case cutGPT2:
		expr += `|\s+`
	case cutKimi:
		expr = `\p{Han}+|` + exprLead + `[\p{L}&&[^\p{Han}]]+` + exprContraction + `?|\p{N}{1,3}|` + exprSymbols + `|` + exprNewlines + `|` + exprSpaces
	case cutLlama3, cutQwen2, cutQwen35, cutLines:
	default:
		c.view, d = wideView, wideDialect
		if strings.Contains(expr, `\p{`) {
			c.view, d = seenAs, collapsedDialect
		}
	}
	var err error
	c.re, err = compileRegex(expr, d)
	return c, err
}

// cut divides each piece of text that ends, in order, at one of ends.
func (c *cutter) cut(text []rune, ends []int) ([]int, error) {
	seen := text
	if c.view != nil {
		seen = make([]rune, len(text))
		for i, r := range text {
			seen[i] = c.view(r)
		}
	}
	var out []int
	start := 0
	for _, end := range ends {
		if c.code != nil {
			out = c.code(text, out, start, end)
		} else {
			var err error
			if out, err = cutMatches(c.re, seen[start:end], start, out); err != nil {
				return nil, err
			}
		}
		start = end
	}
	return out, nil
}

// cutMatches appends the ends of the matches in piece and of the text between
// them. An empty match is a cut too.
func cutMatches(re *regex, piece []rune, base int, out []int) ([]int, error) {
	m := re.matcher(piece)
	last := 0
	mark := func(at int) {
		if at > last {
			out = append(out, base+at)
			last = at
		}
	}
	for from := 0; from <= len(piece); {
		start, end, ok, err := m.find(from)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		mark(start)
		mark(end)
		from = max(end, from)
		if start == end {
			from = end + 1
		}
	}
	mark(len(piece))
	return out, nil
}

// digitsFromRight cuts runs of digits into threes that are aligned with the
// end of the run. As in llama.cpp (unicode_regex_split_custom_afmoe) the first
// group of a run takes the text before the run with it.
func digitsFromRight(text []rune, ends []int, start, end int) []int {
	last := start
	mark := func(at int) {
		if at > last {
			ends = append(ends, at)
			last = at
		}
	}
	for pos := start; pos < end; {
		if !setNumber.has(text[pos]) {
			pos++
			continue
		}
		run := pos
		for pos < end && setNumber.has(text[pos]) {
			pos++
		}
		for at := run + (pos-run-1)%3 + 1; at <= pos; at += 3 {
			mark(at)
		}
	}
	mark(end)
	return ends
}

// cutters returns the compiled cuts of r, compiled once per process.
func (r *preRules) cutters() ([]*cutter, error) {
	var out []*cutter
	for _, expr := range r.cuts {
		cached, ok := cutterCache.Load(expr)
		if !ok {
			c, err := newCutter(expr)
			if err != nil {
				return nil, err
			}
			cached, _ = cutterCache.LoadOrStore(expr, c)
		}
		out = append(out, cached.(*cutter))
	}
	return out, nil
}

var cutterCache sync.Map // expression -> *cutter

// looseRunes decodes text as llama.cpp does (unicode_cpts_from_utf8): every
// byte that does not start a well-formed sequence is U+FFFD, over-long forms
// and surrogates are taken as they are. offsets[i] is the byte where rune i
// starts in clean, the text with these repairs; it has one entry more.
func looseRunes(text string) (runes []rune, clean string, offsets []int32) {
	runes = make([]rune, 0, len(text))
	offsets = make([]int32, 0, len(text)+1)
	var fixed []byte
	for i := 0; i < len(text); {
		c, n := looseRune(text[i:])
		size := runeSize(c)
		if fixed == nil && (size != n || c == unicode.ReplacementChar && text[i:i+n] != "\uFFFD") {
			fixed = append(make([]byte, 0, len(text)+8), text[:i]...)
		}
		if fixed != nil {
			offsets = append(offsets, int32(len(fixed)))
			fixed = appendRune(fixed, c)
		} else {
			offsets = append(offsets, int32(i))
		}
		runes = append(runes, c)
		i += n
	}
	if fixed != nil {
		text = string(fixed)
	}
	return runes, text, append(offsets, int32(len(text)))
}

// looseRune decodes the first code point of text and its length in bytes.
func looseRune(text string) (rune, int) {
	b := text[0]
	if b < 0x80 {
		return rune(b), 1
	}
	n, c := 0, rune(0)
	switch {
	case b>>5 == 0b110:
		n, c = 2, rune(b&0x1F)
	case b>>4 == 0b1110:
		n, c = 3, rune(b&0x0F)
	case b>>3 == 0b11110:
		n, c = 4, rune(b&0x07)
	default:
		return unicode.ReplacementChar, 1
	}
	if len(text) < n {
		return unicode.ReplacementChar, 1
	}
	for i := 1; i < n; i++ {
		if text[i]>>6 != 0b10 {
			return unicode.ReplacementChar, 1
		}
		c = c<<6 | rune(text[i]&0x3F)
	}
	if c > unicode.MaxRune { // llama.cpp stops with an exception here
		return unicode.ReplacementChar, 1
	}
	return c, n
}

func runeSize(c rune) int {
	switch {
	case c < 0x80:
		return 1
	case c < 0x800:
		return 2
	case c < 0x10000:
		return 3
	}
	return 4
}

// appendRune is utf8.AppendRune that also encodes surrogates.
func appendRune(b []byte, c rune) []byte {
	switch runeSize(c) {
	case 1:
		return append(b, byte(c))
	case 2:
		return append(b, 0xC0|byte(c>>6), 0x80|byte(c)&0x3F)
	case 3:
		return append(b, 0xE0|byte(c>>12), 0x80|byte(c>>6)&0x3F, 0x80|byte(c)&0x3F)
	}
	return append(b, 0xF0|byte(c>>18), 0x80|byte(c>>12)&0x3F, 0x80|byte(c>>6)&0x3F, 0x80|byte(c)&0x3F)
}
