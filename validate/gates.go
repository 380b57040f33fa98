package validate

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/spec"
)

// A Gate is a condition of a report. Limit and Value are booleans or numbers.
// kld.stock is kld.mean, held to a stock preset.
type Gate struct {
	Name  string `json:"name"` // the key of the report that it is about
	Limit any    `json:"limit"`
	Value any    `json:"value"`
	Pass  bool   `json:"pass"`
	Why   string `json:"why,omitempty"` // where the limit comes from
}

func mustHold(name string, value bool, why string) Gate {
	return Gate{Name: name, Limit: true, Value: value, Pass: value, Why: why}
}

func atMost(name string, value, limit float64, why string) Gate {
	return Gate{Name: name, Limit: limit, Value: value, Pass: value <= limit, Why: why}
}

func atLeast(name string, value, limit float64, why string) Gate {
	return Gate{Name: name, Limit: limit, Value: value, Pass: value >= limit, Why: why}
}

// stockKLD is the upper envelope of what llama-quantize's presets without an
// importance matrix lose on two small models, which lose the most
// (docs/validate.md): bits per weight and mean KLD in nats.
var stockKLD = []struct{ bits, kld float64 }{
	{3.66, 1.940},   // Q2_K, SmolLM2-wide
	{4.40, 0.5045},  // Q3_K_M, SmolLM2-wide
	{5.14, 0.4449},  // Q2_K, SmolLM2-135M
	{5.35, 0.3058},  // Q4_0, SmolLM2-135M
	{6.56, 0.0782},  // Q5_K_M, SmolLM2-135M
	{8.51, 0.00423}, // Q8_0, SmolLM2-135M
}

// ceilingMargin allows for another text and another small model.
const ceilingMargin = 1.25

// Ceiling is the mean KLD in nats that a file whose quantized tensors have that
// many bits per weight may have where the caller sets no limit: the envelope of stock presets
// on small models, interpolated in the logarithm, with a margin. Below the
// lowest row it is that row's, above the highest it goes on falling.
func Ceiling(bitsPerWeight float64) float64 {
	t := stockKLD
	if bitsPerWeight <= t[0].bits {
		return ceilingMargin * t[0].kld
	}
	i := 1
	for i < len(t)-1 && bitsPerWeight > t[i].bits {
		i++
	}
	a, b := t[i-1], t[i]
	slope := math.Log(b.kld/a.kld) / (b.bits - a.bits)
	return max(1e-5, ceilingMargin*a.kld*math.Exp(slope*(bitsPerWeight-a.bits)))
}

// A file that is not quantized must predict what its source predicts, but for
// the rounding of its types and for what llama.cpp does in its own way.
var (
	exact       = floatGate{1e-6, 0.99, "the file's types hold the source's values"}
	roundedF16  = floatGate{1e-5, 0.98, "rounding to F16"}
	runtimeWays = floatGate{1e-4, 0.95, "what llama.cpp computes in its own way: see structure.notes"}
	roundedBF16 = floatGate{1e-3, 0.95, "rounding to BF16"}
)

// floatGate is what is demanded of a file that is not quantized.
type floatGate struct {
	nmse, top1 float64
	why        string
}

// quantized says whether a file has tensors in types that round in blocks.
func quantized(h *gguf.Header) bool {
	for _, t := range h.Tensors {
		if t.Type.BlockElements() > 1 {
			return true
		}
	}
	return false
}

// floatLimits are the limits of a file that is not quantized, by the types of
// the weights on both sides. noted says that llama.cpp does something in its
// own way.
func floatLimits(source, file *spec.Model, noted bool) floatGate {
	gate := exact
	if noted {
		gate = runtimeWays
	}
	for s, w := range file.Weights {
		from := source.Weights[s].Type
		switch {
		case w.Type == "BF16" && from != "BF16":
			return roundedBF16
		case w.Type == "F16" && from != "F16" && gate == exact:
			gate = roundedF16
		}
	}
	return gate
}

// finite fails where a figure is no number: a comparison of them would say
// nothing.
func finite(figures map[string]float64) error {
	for _, name := range slices.Sorted(maps.Keys(figures)) {
		if x := figures[name]; math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%s is %v: the model's outputs are not finite", name, x)
		}
	}
	return nil
}
