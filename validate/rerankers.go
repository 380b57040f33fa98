package validate

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// rerankPrompt is the name of the template that a reranker's file has for
// llama.cpp, and its source does not.
const rerankPrompt = "rerank"

// ranking is a language model as the reranker that it is used as: it answers
// by its next token, and the scores are the probabilities of the labels among
// themselves. Each label is one token.
func (s *Source) ranking(labels []string) (*Source, error) {
	m := *s.Model
	out, ok := m.Weights[spec.Global(spec.Output)]
	_, biased := m.Weights[spec.Global(spec.Output.Bias())]
	if !ok || biased || s.Encoder == nil || m.Head.SoftCap != 0 || m.Head.Scale != 1 {
		return nil, &OtherModelError{"it is a reranker, and the source's head has more than a matrix, or no tokens"}
	}
	rows := make([]int, len(labels))
	for i, label := range labels {
		ids, err := s.Encoder.Encode(label, tokenizer.EncodeOptions{})
		if err != nil {
			return nil, fmt.Errorf("label %q: %w", label, err)
		}
		if len(ids) != 1 {
			return nil, &OtherModelError{fmt.Sprintf("its label %q is %d of the source's tokens: want 1", label, len(ids))}
		}
		rows[i] = int(ids[0])
	}
	answers := out
	answers.Rows = len(rows)
	answers.Read = func(ctx context.Context, dst []float32, first int) error {
		if len(dst)%out.Cols != 0 || first < 0 || first+len(dst)/out.Cols > len(rows) {
			return errors.New("rows beyond the labels")
		}
		for _, row := range rows[first:][:len(dst)/out.Cols] {
			if err := out.Read(ctx, dst[:out.Cols], row); err != nil {
				return err
			}
			dst = dst[out.Cols:]
		}
		return nil
	}
	m.Weights = maps.Clone(m.Weights)
	delete(m.Weights, spec.Global(spec.Output))
	m.Weights[spec.Global(spec.ClassOut)] = answers
	m.Head, m.Pooling, m.Classifier = nil, spec.PoolLast, &spec.Classifier{Labels: len(rows), Softmax: true}
	r := *s
	r.Model = &m
	return &r, m.Check()
}
