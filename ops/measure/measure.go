// Package measure says how far a candidate's predictions are from a
// reference's, as llama-perplexity's --kl-divergence does: over chunks of n_ctx
// tokens, the predictions made at positions n_ctx/2 to n_ctx-2 count, each
// scored on the token that follows.
package measure

import (
	"math"
	"slices"
)

// Token is what one prediction came to. Logarithms are natural.
type Token struct {
	KLD       float64 // sum over the vocabulary of p_ref * ln(p_ref / p_cand)
	Reference float64 // -ln p_ref(next token)
	Candidate float64 // -ln p_cand(next token)
	SameTop   bool    // both have the same most probable token
	DeltaP    float64 // p_cand(next) - p_ref(next)
}

// Comparison is what many predictions came to.
type Comparison struct {
	Tokens int `json:"tokens"` // predictions that count
	Chunks int `json:"chunks"`
	Ctx    int `json:"ctx"`

	KLD KLD `json:"kld"`

	// Top1 is the share of predictions with the same most probable token.
	Top1 float64 `json:"top1"`

	PPL PPL `json:"ppl"`

	// RMSDeltaP is sqrt(mean((p_cand - p_ref)^2)) of the next token.
	RMSDeltaP float64 `json:"rms_delta_p"`

	// NMSE is sum((cand-ref)^2) / sum(ref^2) over all logits that count.
	NMSE float64 `json:"nmse"`

	// Layers has the same figure for the residual stream after each block.
	Layers []float64 `json:"layers,omitempty"`

	// PerToken holds the KLD of each prediction in the order of the text.
	PerToken []float32 `json:"-"`
}

// KLD is in nats per token.
type KLD struct {
	Mean   float64 `json:"mean"`
	StdErr float64 `json:"std_err"` // of the mean
	Median float64 `json:"median"`
	P90    float64 `json:"p90"`
	P95    float64 `json:"p95"`
	P99    float64 `json:"p99"`
	P999   float64 `json:"p999"`
	Max    float64 `json:"max"`
}

// PPL is exp of the mean negative log-likelihood of the next token.
type PPL struct {
	Reference float64 `json:"reference"`
	Candidate float64 `json:"candidate"`
}

// Accumulator adds up tokens. Its zero value is ready.
type Accumulator struct {
	kld               []float32
	sum, squares      float64
	reference, chosen float64
	same              int
	delta             float64
}

// Add takes one prediction.
func (a *Accumulator) Add(t Token) {
	a.kld = append(a.kld, float32(t.KLD))
	a.sum += t.KLD
	a.squares += t.KLD * t.KLD
	a.reference += t.Reference
	a.chosen += t.Candidate
	a.delta += t.DeltaP * t.DeltaP
	if t.SameTop {
		a.same++
	}
}

// Result is what has been added; a Comparison without tokens holds NaNs.
func (a *Accumulator) Result() Comparison {
	n := float64(len(a.kld))
	mean := a.sum / n
	sorted := slices.Sorted(slices.Values(a.kld))
	return Comparison{
		Tokens: len(a.kld),
		KLD: KLD{
			Mean:   mean,
			StdErr: math.Sqrt(max(0, a.squares/n-mean*mean) / (n - 1)),
			Median: Percentile(sorted, 0.5),
			P90:    Percentile(sorted, 0.90),
			P95:    Percentile(sorted, 0.95),
			P99:    Percentile(sorted, 0.99),
			P999:   Percentile(sorted, 0.999),
			Max:    Percentile(sorted, 1),
		},
		Top1:      float64(a.same) / n,
		PPL:       PPL{Reference: math.Exp(a.reference / n), Candidate: math.Exp(a.chosen / n)},
		RMSDeltaP: math.Sqrt(a.delta / n),
		PerToken:  a.kld,
	}
}

// Percentile interpolates between the two nearest of sorted values, at
// position q*(n-1), as llama-perplexity does.
func Percentile(sorted []float32, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return float64(sorted[len(sorted)-1])
	}
	f := at - float64(i)
	return (1-f)*float64(sorted[i]) + f*float64(sorted[i+1])
}
