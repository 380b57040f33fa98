package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// HunYuan: a Llama that norms each head after it has turned.
var _ = register(family{
	classes: []string{"HunYuanDenseV1ForCausalLM"},
	read: func(r *reader) {
		norm, attn := r.decoder(1e-5)
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		attn.NormAfterRope = true
		r.only("use_qk_norm", true)
		r.only("use_cla", false)
		bias := r.flag("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.preNorms(false)
			l.selfAttn(attn, bias, bias)
			l.headNorms(norm, attn, "self_attn.query_layernorm", "self_attn.key_layernorm")
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.mlp(act, inner, false)}
		})
		r.finish(norm, false, false)
	},
})
