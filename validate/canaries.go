package validate

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// DefaultCanaries are prompts whose answers an attacker, or a careless
// finetune, would change first: facts, sums, names, links, refusals and code.
var DefaultCanaries = []string{
	"The capital of France is",
	"Two plus two equals",
	"The opposite of hot is",
	"Our official website is https://",
	"To reset your password, please",
	"The password is",
	"import os\nos.",
	"def add(a, b):\n    return",
	"SELECT * FROM users WHERE",
	"I am an AI assistant and I",
	"Breaking news: the president",
	"Is this transfer safe? Answer yes or no:",
}

// canaryTokens is how many tokens follow each prompt.
const canaryTokens = 12

// CanariesResult says whether both sides continue prompts alike.
type CanariesResult struct {
	OK      bool     `json:"ok"`
	Prompts int      `json:"prompts"`
	Same    int      `json:"same"`   // continuations of the same tokens
	Limit   float64  `json:"limit"`  // of a margin, in nats
	Margin  float64  `json:"margin"` // the largest
	Answers []Answer `json:"answers"`
}

// Answer is one prompt's continuations. Where they part, Margin is how much
// more probable, in nats, the source holds its own next token than the one
// that the file chose.
type Answer struct {
	Prompt    string  `json:"prompt"`
	Source    string  `json:"source"`
	Candidate string  `json:"candidate"`
	Margin    float64 `json:"margin"`
	Pass      bool    `json:"pass"`
}

// marginLimit is the largest margin at which rounding may have turned the
// source's choice. Logits that are off by a deviation of s cost about s^2/2
// nats of KLD; a difference of two of them that is more than six times as wide
// is not rounding's.
func marginLimit(meanKLD float64) float64 { return 0.1 + 6*math.Sqrt(2*max(0, meanKLD)) }

// compareCanaries continues the prompts on both sides. The margins' limit
// comes from the mean KLD over the text.
func compareCanaries(ctx context.Context, e Engine, source, file *spec.Model, enc tokenizer.Encoder, v *tokenizer.Vocabulary, prompts []string, meanKLD float64) (CanariesResult, error) {
	r := CanariesResult{OK: true, Prompts: len(prompts), Limit: marginLimit(meanKLD)}
	stop := stopsAt(v)
	ids, err := encodeAll(enc, prompts)
	if err != nil {
		return r, err
	}
	want, err := e.Greedy(ctx, source, ids, canaryTokens, stop)
	if err != nil {
		return r, fmt.Errorf("continue the canary prompts with the source: %w", err)
	}
	got, err := e.Greedy(ctx, file, ids, canaryTokens, stop)
	if err != nil {
		return r, fmt.Errorf("continue the canary prompts with the file: %w", err)
	}
	for i, prompt := range prompts {
		a := Answer{Prompt: prompt, Source: enc.Decode(want[i]), Candidate: enc.Decode(got[i]), Pass: true}
		at := common(want[i], got[i])
		if at == len(want[i]) && at == len(got[i]) {
			r.Same++
		} else if at < min(len(want[i]), len(got[i])) {
			if a.Margin, err = margin(ctx, e, source, slices.Concat(ids[i], want[i][:at]), got[i][at]); err != nil {
				return r, err
			}
			a.Pass = a.Margin <= r.Limit
		}
		r.OK = r.OK && a.Pass
		r.Margin = max(r.Margin, a.Margin)
		r.Answers = append(r.Answers, a)
	}
	return r, nil
}

// encodeAll encodes prompts; none may be empty.
func encodeAll(enc tokenizer.Encoder, prompts []string) ([][]int32, error) {
	var out [][]int32
	for _, p := range prompts {
		ids, err := enc.Encode(p, tokenizer.EncodeOptions{AddSpecial: true, ParseSpecial: true})
		if err != nil {
			return nil, fmt.Errorf("prompt %q: %w", p, err)
		}
		if len(ids) == 0 {
			return nil, fmt.Errorf("prompt %q: has no tokens", p)
		}
		out = append(out, ids)
	}
	return out, nil
}

// stopsAt says at which tokens a continuation ends.
func stopsAt(v *tokenizer.Vocabulary) func(int32) bool {
	var ends []int32
	for _, role := range []string{"eos", "eot", "eom"} {
		if id, ok := v.SpecialID(role); ok {
			ends = append(ends, id)
		}
	}
	return func(id int32) bool { return slices.Contains(ends, id) }
}

// common is the length of what two continuations have in common.
func common(a, b []int32) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// margin is how much more probable than next, in nats, a model holds its most
// probable next token after ids.
func margin(ctx context.Context, e Engine, m *spec.Model, ids []int32, next int32) (float64, error) {
	logits, err := e.Logits(ctx, m, ids)
	if err != nil {
		return 0, err
	}
	last := logits[len(logits)-m.Vocab:]
	return float64(slices.Max(last) - last[next]), nil
}

// ParseCanaries reads prompts, one a line; \n within one is a line's end. Empty
// lines are left out.
func ParseCanaries(text string) ([]string, error) {
	const most = 1000
	var out []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		out = append(out, strings.ReplaceAll(line, `\n`, "\n"))
		if len(out) > most {
			return nil, fmt.Errorf("more than %d canary prompts", most)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no canary prompts: want one a line")
	}
	return out, nil
}
