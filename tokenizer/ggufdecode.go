package tokenizer

import (
	"fmt"
	"strings"
)

// Decode implements Encoder as llama_detokenize does: control and unknown
// tokens are left out, the space that encoding put in front goes where the
// first id is text, and where the vocabulary asks for it spaces before
// punctuation go too.
func (e *GGUFEncoder) Decode(ids []int32) string {
	var b strings.Builder
	for i, id := range ids {
		piece := e.piece(id)
		if i == 0 && e.addSpacePrefix {
			piece = strings.TrimPrefix(piece, " ")
		}
		b.WriteString(piece)
	}
	if e.keepSpaces {
		return b.String()
	}
	return cleanSpaces(b.String())
}

// piece is the text of one token.
func (e *GGUFEncoder) piece(id int32) string {
	if id < 0 || int(id) >= len(e.tokens) || e.attrs[id]&attrSpecial != 0 {
		return ""
	}
	text := e.tokens[id]
	switch a := e.attrs[id]; {
	case a&attrUser != 0:
		return text
	case a&attrNormal != 0:
		if e.pre == nil || e.escapeSpaces {
			return strings.ReplaceAll(text, escapedSpace, " ")
		}
		return shownText(text)
	case a&attrByte != 0:
		if b, ok := parseByteToken(text); ok {
			return string([]byte{b})
		}
	}
	return ""
}

// shownText is the text of a token in the byte alphabet. What is not of the
// alphabet is shown as llama.cpp shows it (llama_decode_text).
func shownText(text string) string {
	out := make([]byte, 0, len(text))
	runes, _, _ := looseRunes(text)
	for _, r := range runes {
		if b, ok := alphabetByte[r]; ok {
			out = append(out, b)
			continue
		}
		out = fmt.Appendf(out, "[UNK_BYTE_0x%x%s]", appendRune(nil, r), text)
	}
	return string(out)
}

// cleanSpaces is the clean-up of spaces that llama_detokenize shares with
// Hugging Face's clean_up_tokenization_spaces, in its three passes.
func cleanSpaces(text string) string {
	// " ?" " !" " ." " ,"
	text = dropSpace(text, func(rest string) (int, int) {
		if strings.IndexByte("?!.,", rest[0]) >= 0 {
			return 1, 1
		}
		return 0, 0
	})
	// " ' "
	text = dropSpace(text, func(rest string) (int, int) {
		if strings.HasPrefix(rest, "' ") {
			return 1, 2
		}
		return 0, 0
	})
	// " 's" " 'm" " 're" " 've"
	return dropSpace(text, func(rest string) (int, int) {
		for _, s := range []string{"'s", "'m", "'re", "'ve"} {
			if strings.HasPrefix(rest, s) {
				return 1, 1
			}
		}
		return 0, 0
	})
}

// dropSpace removes each space before which drop says so: of the text after
// the space keep bytes stay and skip bytes are passed over.
func dropSpace(text string, drop func(rest string) (keep, skip int)) string {
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == ' ' && i+1 < len(text) {
			if keep, skip := drop(text[i+1:]); skip > 0 {
				out = append(out, text[i+1:i+1+keep]...)
				i += skip
				continue
			}
		}
		out = append(out, text[i])
	}
	return string(out)
}

var _ Encoder = (*GGUFEncoder)(nil)
