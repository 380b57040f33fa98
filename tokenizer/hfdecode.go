package tokenizer

import (
	"fmt"
	"strings"
)

// newDecoder returns the function of one decoder of a tokenizer.json: the
// texts of tokens in, texts out that are joined at the end.
func newDecoder(d Decoder) (func([]string) []string, error) {
	each := func(f func(i int, s string) string) (func([]string) []string, error) {
		return func(tokens []string) []string {
			out := make([]string, len(tokens))
			for i, s := range tokens {
				out[i] = f(i, s)
			}
			return out
		}, nil
	}
	switch d.Type {
	case "ByteLevel":
		return func(tokens []string) []string {
			var b strings.Builder
			for _, s := range tokens {
				if bytes, ok := fromByteAlphabet(s); ok {
					s = bytes
				} // else an added token, which stands for itself
				b.WriteString(s)
			}
			return []string{b.String()}
		}, nil
	case "ByteFallback":
		return each(func(_ int, s string) string {
			if b, ok := parseByteToken(s); ok {
				return string([]byte{b})
			}
			return s
		})
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, nil
	case "Replace":
		if d.Pattern.Regex == "" {
			return each(func(_ int, s string) string { return strings.ReplaceAll(s, d.Pattern.String, d.Content) })
		}
		re, err := compileRegex(d.Pattern.Regex, onigDialect)
		if err != nil {
			return nil, err
		}
		return each(func(_ int, s string) string {
			if to, err := replaceMatches(re, s, d.Content); err == nil {
				return to
			}
			return s
		})
	case "Strip":
		return each(func(_ int, s string) string {
			for i := 0; i < d.Start && strings.HasPrefix(s, d.Content); i++ {
				s = s[len(d.Content):]
			}
			for i := 0; i < d.Stop && strings.HasSuffix(s, d.Content); i++ {
				s = s[:len(s)-len(d.Content)]
			}
			return s
		})
	case "Metaspace":
		return each(func(i int, s string) string {
			if i == 0 && d.PrependScheme != "never" {
				s = strings.TrimPrefix(s, d.Replacement)
			}
			return strings.ReplaceAll(s, d.Replacement, " ")
		})
	case "WordPiece":
		return each(func(i int, s string) string {
			if i > 0 {
				if tail, ok := strings.CutPrefix(s, d.Prefix); ok {
					s = tail
				} else {
					s = " " + s
				}
			}
			if d.Cleanup {
				s = wordPieceCleanup.Replace(s)
			}
			return s
		})
	case "BPEDecoder":
		return func(tokens []string) []string {
			out := make([]string, len(tokens))
			for i, s := range tokens {
				space := " "
				if i == len(tokens)-1 {
					space = ""
				}
				out[i] = strings.ReplaceAll(s, d.Suffix, space)
			}
			return out
		}, nil
	case "CTC":
		return func(tokens []string) []string {
			var out []string
			for i, s := range tokens {
				if i > 0 && s == tokens[i-1] {
					continue
				}
				s = strings.ReplaceAll(s, d.PadToken, "")
				if d.Cleanup {
					s = strings.ReplaceAll(wordPieceCleanup.Replace(s), d.WordDelimiter, " ")
				}
				if s != "" {
					out = append(out, s)
				}
			}
			return out
		}, nil
	}
	return nil, fmt.Errorf("decoder %q is not implemented", d.Type)
}

// wordPieceCleanup undoes the spaces that word pieces got.
var wordPieceCleanup = strings.NewReplacer(" .", ".", " ?", "?", " !", "!", " ,", ",", " ' ", "'", " n't", "n't",
	" 'm", "'m", " do not", " don't", " 's", "'s", " 've", "'ve", " 're", "'re")

var _ Encoder = (*HFEncoder)(nil)
