package site

import (
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// scaled writes a number with three digits and the largest unit that fits.
func scaled(n int64, units string, gap string) string {
	if n < 1000 {
		return strconv.FormatInt(n, 10) + gap
	}
	i, size := -1, int64(1)
	for n/size >= 1000 && i+1 < len(units) {
		size *= 1000
		i++
	}
	digits := 2
	switch {
	case n/size >= 100:
		digits = 0
	case n/size >= 10:
		digits = 1
	}
	text := big.NewRat(n, size).FloatString(digits)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + gap + units[i:i+1]
}

// bytesText writes a size in decimal units, as in 397 MB.
func bytesText(n int64) string { return scaled(n, "kMGTP", " ") + "B" }

// countText writes a number of weights, as in 596M.
func countText(n int64) string { return strings.TrimSuffix(scaled(n, "KMBT", ""), " ") }

// thinSpace keeps the groups of a number together on a line.
const thinSpace = "\u202f"

// tokensText writes a number of tokens with spaces between thousands.
func tokensText(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + thinSpace + s[i:]
	}
	return s
}

func dateText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2 Jan 2006")
}

// numberText writes a number, or what a pointer points to, with four digits.
func numberText(x any) string { return strconv.FormatFloat(float(x), 'g', 4, 64) }

func percentText(x any) string { return strconv.FormatFloat(100*float(x), 'f', 2, 64) + " %" }

func float(x any) float64 {
	switch x := x.(type) {
	case float64:
		return x
	case *float64:
		return *x
	}
	return 0
}

// unitText names what is charged for.
func unitText(unit string) string {
	if name := unitNames[unit]; name != "" {
		return name
	}
	return unit
}

var unitNames = map[string]string{
	catalog.UnitInputToken: "Input tokens", catalog.UnitCachedInputToken: "Input tokens from a cache", catalog.UnitOutputToken: "Output tokens",
	catalog.UnitReasoningToken: "Reasoning tokens", catalog.UnitRequest: "Requests", catalog.UnitImage: "Images", catalog.UnitSecond: "Seconds",
}

// shortDigest is the beginning of a digest.
func shortDigest(d any) string {
	s := ""
	switch d := d.(type) {
	case catalog.Digest:
		s = string(d)
	case string:
		s = d
	}
	s = strings.TrimPrefix(s, "sha256:")
	return s[:min(len(s), 12)]
}

// taskText names a task for people.
func taskText(t string) string {
	s := strings.ReplaceAll(t, "-", " ")
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

var languageNames = map[string]string{
	"ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish",
	"fr": "French", "hi": "Hindi", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
	"pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}

// languageText names a language for people, or gives back its tag.
func languageText(tag string) string {
	if name := languageNames[tag]; name != "" {
		return name
	}
	return tag
}
