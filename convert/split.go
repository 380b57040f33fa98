package convert

import (
	"fmt"

	"github.com/modelpipe/modelpipe/gguf"
)

// Split distributes a plan over parts of at most maxBytes of tensor data, as
// gguf.Split does; a plan that fits one part is returned as it is.
func (p *Plan) Split(maxBytes int64) ([]*Plan, error) {
	headers, err := gguf.Split(&p.Header, gguf.SplitLimit{MaxBytes: maxBytes})
	if err != nil {
		return nil, fmt.Errorf("split: %w", err)
	}
	if len(headers) == 1 {
		return []*Plan{p}, nil
	}
	var parts []*Plan
	next := 0
	for _, h := range headers {
		part := &Plan{Header: *h, Arch: p.Arch}
		if part.Size, err = part.Header.Layout(); err != nil {
			return nil, fmt.Errorf("split: %w", err)
		}
		if part.HeaderSize, err = part.Header.DataOffset(); err != nil {
			return nil, fmt.Errorf("split: %w", err)
		}
		for _, info := range part.Header.Tensors {
			s := p.Steps[next]
			s.Offset = part.HeaderSize + info.Offset
			part.Steps = append(part.Steps, s)
			part.Parameters += product(s.Shape)
			next++
		}
		parts = append(parts, part)
	}
	return parts, nil
}
