package fromhf

import (
	"context"
	"fmt"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// BitNet: a Llama with a squared ReLU and norms inside of both parts, whose
// matrices are -1, 0 and 1 times a scale. That its code rounds activations to 8
// bits is not part of the specification.
var _ = register(family{
	classes:  []string{"BitNetForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-5), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		attn.InnerNorm = norm
		bias := r.flag("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, bias)
			l.norm(spec.AttnInner, "self_attn.attn_sub_norm", attn.Heads*attn.ValueDim, false)
			l.norm(spec.FFNInner, "mlp.ffn_sub_norm", inner, false)
			ffn := l.mlp(act, inner, false)
			ffn.InnerNorm = norm
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: ffn}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", true, false)
	},
})

// bitNet reads matrices of -1, 0 and 1, plus one, in two bits each: byte i of
// the rows/4 stored rows has rows i, i+rows/4, ... from the lowest bits on.
// NAME.weight_scale multiplies them (autobitlinear) or divides them
// (bitlinear).
func (q *config) bitNet(s *scheme) {
	q.only("quantization_mode", "offline")
	divides := false
	switch class := q.text("linear_class", "bitlinear"); class {
	case "autobitlinear":
	case "bitlinear":
		divides = true
	default:
		q.fail("%s: linear_class %q has no reader", q.name, class)
	}
	s.shape = func(rows, cols int) (int, int) { return (rows + 3) / 4, cols }
	s.scaled = func(r *reader, t *tensor, name string, rows, cols int) spec.Weight {
		if t.DType.String() != "U8" || rows%4 != 0 {
			r.fail("%s: tensor %s of %d rows is of type %s: want U8 and a multiple of 4", t.file.Name, t.Name, rows, t.DType)
			return spec.Weight{}
		}
		scale := r.numeric(name+".weight_scale", 1)
		if scale == nil {
			return spec.Weight{}
		}
		return spec.Weight{
			Names: []string{t.Name, scale.Name}, Rows: rows, Cols: cols, Type: "I2",
			Read: func(ctx context.Context, dst []float32, first int) error {
				var factor [1]float32
				if err := scale.values(ctx, factor[:], 0); err != nil {
					return err
				}
				buf := make([]byte, cols)
				for i := range len(dst) / cols {
					row := first + i
					if err := t.bytes(buf, int64(row%(rows/4))*int64(cols)); err != nil {
						return err
					}
					for j, b := range buf {
						v := int(b>>(2*(row/(rows/4)))&3) - 1
						if v == 2 {
							return fmt.Errorf("%s: tensor %s: the code 3 at row %d, column %d", t.file.Name, t.Name, row, j)
						}
						if divides {
							dst[i*cols+j] = float32(v) / factor[0]
						} else {
							dst[i*cols+j] = float32(v) * factor[0]
						}
					}
				}
				return nil
			},
		}
	}
}
