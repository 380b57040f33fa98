package fromhf

import (
	"github.com/modelpipe/modelpipe/ops/spec"
)

// GPT-2: learned positions, and matrices of class Conv1D, which are stored
// transposed: [in, out].
var _ = register(family{
	classes:  []string{"GPT2LMHeadModel"},
	prefixes: []string{"transformer."},
	buffers:  []string{".attn.bias", ".attn.masked_bias"},
	read: func(r *reader) {
		m := r.model
		m.Vocab, m.Width, m.Context = r.dim("vocab_size"), r.dim(r.either("n_embd", "hidden_size")), r.dim("n_positions")
		r.embedding("wte")
		r.put(spec.Global(spec.PositionEmbd), r.matrix("wpe", m.Context, m.Width))
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_epsilon", 1e-5)}
		heads := r.dim("n_head")
		attn := spec.Attention{Heads: heads, KVHeads: heads, KeyDim: r.headDim(heads), Causal: true}
		r.checkHeads(&attn)
		if !r.flag("scale_attn_weights", true) {
			attn.Scale = 1
		}
		byLayer := r.flag("scale_attn_by_inverse_layer_idx", false)
		r.only("add_cross_attention", false)
		act, inner := r.activation("activation_function", "gelu_new"), r.dim("n_inner", 4*m.Width)
		r.layers("n_layer", "h.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "ln_1", true)
			l.streamNorm(spec.PreFFN, "ln_2", true)
			a := attn
			if byLayer {
				a.Scale /= float64(l.i + 1)
			}
			w, b := l.conv1D("attn.c_attn", 3*m.Width, m.Width)
			for i, role := range []spec.Role{spec.Q, spec.K, spec.V} {
				l.slice(l.slot(role), w, b, 3*m.Width, i*m.Width, m.Width)
			}
			l.putConv1D(spec.AttnOut, "attn.c_proj", m.Width, m.Width)
			l.putConv1D(spec.Up, "mlp.c_fc", inner, m.Width)
			l.putConv1D(spec.Down, "mlp.c_proj", m.Width, inner)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: &a, FFN: spec.FFN{Activation: act, Inner: inner}}
		})
		r.finalNorm(norm, "ln_f", true)
		m.Head = r.head("lm_head", true, false)
	},
})

// conv1D is the weight, turned to [rows, cols], and the bias of a Conv1D.
func (l layer) conv1D(name string, rows, cols int) (w, b spec.Weight) {
	if t := l.numeric(l.prefix+name+".weight", cols, rows); t != nil {
		w = transposed(t, 0, cols, rows)
	}
	return w, l.vector(l.prefix+name+".bias", rows)
}

func (l layer) putConv1D(role spec.Role, name string, rows, cols int) {
	w, b := l.conv1D(name, rows, cols)
	l.put(l.slot(role), w)
	l.put(biasOf(l.slot(role)), b)
}
