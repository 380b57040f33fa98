package tokenizer

import "strings"

// The byte alphabet of GPT-2 gives every byte a visible character: printable
// Latin-1 stands for itself, the other 68 for U+0100 and up (bytes_to_unicode
// of openai/gpt-2's encoder.py).
var (
	byteAlphabet [256]string
	alphabetByte = make(map[rune]byte, 256)
)

func init() {
	next := rune(0x100)
	for b := range 256 {
		r := rune(b)
		if !(b >= '!' && b <= '~' || b >= 0xA1 && b <= 0xAC || b >= 0xAE) {
			r = next
			next++
		}
		byteAlphabet[b] = string(r)
		alphabetByte[r] = byte(b)
	}
}

// toByteAlphabet spells the bytes of text.
func toByteAlphabet(text string) string {
	var b strings.Builder
	b.Grow(len(text) + len(text)/4)
	for i := range len(text) {
		b.WriteString(byteAlphabet[text[i]])
	}
	return b.String()
}

// fromByteAlphabet is the inverse of toByteAlphabet; ok is false where text
// has a character that stands for no byte.
func fromByteAlphabet(text string) (bytes string, ok bool) {
	out := make([]byte, 0, len(text))
	for _, r := range text {
		b, ok := alphabetByte[r]
		if !ok {
			return "", false
		}
		out = append(out, b)
	}
	return string(out), true
}
