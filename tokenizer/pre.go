package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/internal/nearest"
)

// gpt2Regex is the expression of a ByteLevel step that cuts by itself
// (tokenizers' ByteLevel pre-tokenizer, from openai/gpt-2's encoder.py).
const gpt2Regex = cutGPT2 + `|\s+`

// Structure returns the pre-tokenizer in the normal form by which it is
// recognised: one line per step. Two spellings of one behaviour get one form:
// an inverted Split that removes the gaps isolates its matches, and a ByteLevel
// step with use_regex is a Split by GPT-2's expression and then plain bytes.
func (d *Definition) Structure() []string {
	var lines []string
	for _, p := range d.PreTokenizers {
		lines = append(lines, p.structure()...)
	}
	return lines
}

func (p PreTokenizer) structure() []string {
	switch p.Type {
	case "ByteLevel":
		line := "bytes"
		if p.AddPrefixSpace {
			line = "bytes prefix-space"
		}
		if p.UseRegex {
			return []string{"split isolated " + gpt2Regex, line}
		}
		return []string{line}
	case "Split":
		behavior, what := strings.ToLower(p.Behavior), normalRegex(p.Pattern.Regex)
		switch {
		case p.Invert && p.Behavior == "Removed":
			behavior = "isolated"
		case p.Invert:
			behavior += " inverted"
		}
		if p.Pattern.Regex == "" {
			return []string{fmt.Sprintf("split %s literal %q", behavior, p.Pattern.String)}
		}
		return []string{"split " + behavior + " " + what}
	case "Digits":
		if p.IndividualDigits {
			return []string{"digits individual"}
		}
		return []string{"digits"}
	case "Punctuation":
		return []string{"punctuation " + strings.ToLower(p.Behavior)}
	case "Metaspace":
		return []string{fmt.Sprintf("metaspace %s %s split=%t", p.Replacement, p.PrependScheme, p.SplitWords)}
	case "CharDelimiterSplit":
		return []string{fmt.Sprintf("delimiter %q", p.Delimiter)}
	case "FixedLength":
		return []string{fmt.Sprintf("length %d", p.Length)}
	}
	return []string{strings.ToLower(p.Type)}
}

// normalRegex writes control characters as escapes, drops escapes that mean
// nothing, and replaces the known other spellings, so that the same expression
// stored in two ways is one text.
func normalRegex(re string) string {
	re = escapes.Replace(re)
	for _, s := range spellings {
		re = strings.ReplaceAll(re, s[0], s[1])
	}
	return re
}

var escapes = strings.NewReplacer("\r", `\r`, "\n", `\n`, "\t", `\t`, `\"`, `"`, `\'`, `'`)

// recognise returns llama.cpp's name of the definition's pre-tokenizer. names
// are what the model is known by: config.json's model_type, then the
// architecture. How rows with one structure are told apart is said at the
// table.
func (d *Definition) recognise(names ...string) (string, error) {
	return nameOf(d.Structure(), d.hasToken, d.Model.IgnoreMerges, names)
}

func nameOf(have []string, hasToken func(string) bool, ignoreMerges bool, names []string) (string, error) {
	var same []preTokenizer
	for _, row := range preTokenizers {
		if slices.Equal(row.structure, have) {
			same = append(same, row)
		}
	}
	if len(same) == 0 {
		return "", unknownPre(have)
	}
	for _, row := range same {
		if row.token != "" && hasToken(row.token) {
			return row.name, nil
		}
	}
	for _, name := range names {
		for _, row := range same {
			if row.token == "" && slices.Contains(row.archs, name) {
				return row.name, nil
			}
		}
	}
	for _, row := range same {
		if rules, err := lookupPre(row.name); err == nil && row.token == "" && rules.ignoreMerges == ignoreMerges {
			return row.name, nil
		}
	}
	return same[0].name, nil
}

// hasToken tells whether the model or the added tokens have a text.
func (d *Definition) hasToken(text string) bool {
	_, ok := d.Model.Vocab[text]
	return ok || slices.ContainsFunc(d.AddedTokens, func(a AddedToken) bool { return a.Content == text })
}

// unknownPre is the error for a pre-tokenizer that no row describes. It shows
// the lines that differ from the nearest row.
func unknownPre(have []string) error {
	var closest preTokenizer
	best := -1
	for _, row := range preTokenizers {
		if d := distance(have, row.structure); best < 0 || d < best {
			closest, best = row, d
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "pre-tokenizer not recognised; --pre NAME says which of llama.cpp's it is. The nearest is %q, which differs (- %s, + this tokenizer):", closest.name, closest.name)
	for _, line := range diff(closest.structure, have) {
		b.WriteString("\n  " + shorten(line))
	}
	return errors.New(b.String())
}

// distance is how unlike two structures are: the edits of whole lines, each
// weighed by the edits of characters inside them.
func distance(a, b []string) int {
	return nearest.Distance(len(a), len(b), lineWeight, func(i, j int) int {
		ra, rb := []rune(a[i]), []rune(b[j])
		if gap := len(ra) - len(rb); max(gap, -gap) >= lineWeight {
			return lineWeight // as many edits at least, and a file's line may be long
		}
		return min(lineWeight, nearest.Distance(len(ra), len(rb), 1, func(i, j int) int {
			if ra[i] == rb[j] {
				return 0
			}
			return 1
		}))
	})
}

// shorten cuts a line for an error message. The longest line of the table has
// fewer than 3,000 bytes.
func shorten(line string) string {
	const most = 4096
	if len(line) > most {
		return strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}

// lineWeight is the cost of a step too many; a step that is changed beyond
// recognition costs as much.
const lineWeight = 400

// diff lists the lines of two structures, marked "- " where only a has them
// and "+ " where only b has them. Lines in common are left out.
func diff(a, b []string) []string {
	var out []string
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	for _, line := range a {
		out = append(out, "- "+line)
	}
	for _, line := range b {
		out = append(out, "+ "+line)
	}
	return out
}
