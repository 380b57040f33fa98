package ops

import (
	"fmt"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/ops/decode"
)

// decoder is the graph from rows of a type as they are stored, the input
// "stored", to weights of [rows, cols].
func (d *Device) decoder(t gguf.Type, rows, cols int) (*program, error) {
	row, err := t.RowBytes(int64(cols))
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	if !decode.Can(t) {
		return nil, fmt.Errorf("decode %v: there is no graph for it", t)
	}
	return d.program(fmt.Sprintf("decode_%v %d %d", t, rows, cols), func(b *builder) []*Node {
		return []*Node{decode.Weights(t, b.bytes("stored", rows, int(row)), cols)}
	})
}

// decoded uploads rows as they are stored and decodes them on the device.
func (d *Device) decoded(t gguf.Type, stored []byte, rows, cols int) (compute.Buffer, error) {
	p, err := d.decoder(t, rows, cols)
	if err != nil {
		return nil, err
	}
	b, err := d.upload(stored, rows, len(stored)/rows)
	if err != nil {
		return nil, err
	}
	out, err := p.run(map[string]compute.Buffer{"stored": b}, "stored")
	if err != nil {
		return nil, err
	}
	return out[0], nil
}
