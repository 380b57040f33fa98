// What quantization is expected to lose where nobody has measured it on the
// model: measured proportions of one model, scaled. They rank tensors well
// enough to beat a preset; the losses themselves are rough.

package quantize

import (
	"math"

	"github.com/modelpipe/modelpipe/gguf"
)

// relativeErrors is sum((y-x)^2) / sum(x^2) of normally distributed weights in
// each type, encoded with equal importance; TestRelativeErrors measures them.
var relativeErrors = map[gguf.Type]float64{
	gguf.F16:     4.28e-8,
	gguf.Q8_0:    2.87e-5,
	gguf.Q6_K:    2.99e-4,
	gguf.Q5_1:    1.14e-3,
	gguf.Q5_K:    1.25e-3,
	gguf.Q5_0:    1.64e-3,
	gguf.Q4_1:    4.87e-3,
	gguf.Q4_K:    4.99e-3,
	gguf.IQ4_NL:  5.63e-3,
	gguf.IQ4_XS:  5.73e-3,
	gguf.Q4_0:    6.70e-3,
	gguf.IQ3_S:   1.88e-2,
	gguf.Q3_K:    2.09e-2,
	gguf.IQ3_XXS: 3.32e-2,
	gguf.IQ2_S:   6.18e-2,
	gguf.Q2_K:    7.16e-2,
	gguf.IQ2_XXS: 1.18e-1,
}

// A stake is what a role's tensors together would lose, in nats per
// prediction and per relative error, and how it is spread over the depth of
// the model, from the first tenth of the layers to the last (mean 1).
type stake struct {
	total float64
	depth [10]float64
}

// stakes were measured on SmolLM2-135M (its tensors widened to rows of 768)
// by package ops/budget over 4 chunks of 512 tokens of a calibration text, at
// Q4_K. Its output matrix is the embedding: how their 12.5 together divide into
// the two roles is assumed.
var stakes = map[role]stake{
	tokenEmbd:    {total: 3.4},
	outputMatrix: {total: 9.1},
	attnV:        {2.92, [10]float64{1.05, 2.98, 1.05, 0.43, 0.64, 0.56, 1.23, 0.93, 0.51, 0.62}},
	attnK:        {0.76, [10]float64{1.40, 1.16, 0.78, 0.62, 0.70, 0.85, 1.40, 1.71, 0.70, 0.70}},
	attnQ:        {0.70, [10]float64{0.78, 1.81, 1.21, 0.69, 0.69, 1.03, 1.03, 1.47, 0.69, 0.60}},
	attnOutput:   {1.46, [10]float64{2.49, 1.31, 0.57, 0.78, 0.86, 0.94, 0.73, 0.86, 0.53, 0.90}},
	ffnUp:        {5.04, [10]float64{1.79, 1.10, 0.84, 0.61, 0.43, 0.45, 0.67, 0.84, 1.04, 2.24}},
	ffnGate:      {3.54, [10]float64{2.00, 1.66, 1.20, 0.73, 0.37, 0.39, 0.39, 0.71, 1.22, 1.32}},
	ffnDown:      {8.28, [10]float64{2.21, 0.86, 0.63, 0.46, 0.31, 0.31, 0.45, 0.73, 0.98, 3.05}},
	otherRole:    {1, [10]float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
}

// priorWeights is the number of weights of the model that stakes are from.
// Larger models lose less: by the fourth root of their size, which fits what
// is published of stock presets at 8 to 70 billion weights within a factor of
// two.
const priorWeights = 135e6

// PriorLosses is what types are expected to lose on the tensors of a model that
// nobody has measured.
func PriorLosses(tensors []Tensor) Losses {
	weights, layers := 0.0, 0
	count := map[role]int{}
	tied := true
	for _, t := range tensors {
		if n, err := (gguf.TensorInfo{Name: t.Name, Type: gguf.F32, Shape: t.Shape}).Elements(); err == nil {
			weights += float64(n)
		}
		layers = max(layers, blockOf(t.Name)+1)
		if Quantizable(t.Name, t.Shape) {
			count[roleOf(t.Name)]++
		}
		if roleOf(t.Name) == outputMatrix {
			tied = false
		}
	}
	scale := math.Pow(max(weights, 1)/priorWeights, -0.25)
	losses := Losses{}
	for _, t := range tensors {
		if !Quantizable(t.Name, t.Shape) {
			continue
		}
		r := roleOf(t.Name)
		s := stakes[r]
		at := s.total / float64(count[r])
		switch b := blockOf(t.Name); {
		case b >= 0:
			at *= s.depth[min(9, b*10/layers)]
		case r == tokenEmbd && tied:
			at += stakes[outputMatrix].total
		}
		row := map[gguf.Type]float64{}
		for typ, e := range relativeErrors {
			row[typ] = scale * at * e
		}
		losses[t.Name] = row
	}
	return losses
}
