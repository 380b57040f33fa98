package validate

import (
	"fmt"
	"math"

	"github.com/modelpipe/modelpipe/gguf"
)

// A Gate is a condition of a report. Limit and Value are booleans or numbers.
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

// Ceiling is the mean KLD in nats that a quantized file of that many bits per
// weight may have where the caller sets no limit: the envelope of stock presets
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
// the rounding of its type.
const (
	exactNMSE = 1e-6 // the file's types hold every value of the source
	f16NMSE   = 1e-5
	bf16NMSE  = 1e-3
	exactTop1 = 0.98
)

// quantized says whether a file has tensors in types that round in blocks.
func quantized(h *gguf.Header) bool {
	for _, t := range h.Tensors {
		switch t.Type {
		case gguf.F32, gguf.F16, gguf.BF16, gguf.F64, gguf.I8, gguf.I16, gguf.I32, gguf.I64:
		default:
			return true
		}
	}
	return false
}

// floatLimit is the NMSE that a file of plain numbers may have, given the
// types of both sides' tensors.
func floatLimit(file *gguf.Header, sourceTypes map[string]bool) (float64, string) {
	limit, why := exactNMSE, "the file's types hold the source's values"
	for _, t := range file.Tensors {
		switch name := t.Type.String(); {
		case t.Type == gguf.BF16 && !sourceTypes[name] && limit < bf16NMSE:
			limit, why = bf16NMSE, "rounding to BF16"
		case t.Type == gguf.F16 && !sourceTypes[name] && limit < f16NMSE:
			limit, why = f16NMSE, "rounding to F16"
		}
	}
	return limit, why
}

// finite fails where a figure is no number: a comparison of them would say
// nothing.
func finite(figures map[string]float64) error {
	for name, x := range figures {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return fmt.Errorf("%s is %v: the model's outputs are not finite", name, x)
		}
	}
	return nil
}
