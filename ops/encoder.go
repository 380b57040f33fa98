package ops

import (
	"fmt"

	"github.com/modelpipe/modelpipe/ops/encode"
)

// Encoder returns an encoder of ggml's blocks on a device of XLA. On the Go
// backend there is none: the codecs of package quantize, which are the
// definition, are a hundred times faster there.
func (d *Device) Encoder() (*encode.Encoder, error) {
	if d.shares {
		return nil, fmt.Errorf("device %s: encoders need XLA: the processor's own are faster than graphs", d.name)
	}
	return encode.New(d.backend), nil
}
