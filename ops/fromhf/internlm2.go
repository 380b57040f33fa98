package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// InternLM2: a Llama with other names, whose queries, keys and values are one
// matrix, by groups.
var _ = register(family{
	classes:  []string{"InternLM2ForCausalLM"},
	prefixes: []string{"model."},
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("tok_embeddings")
		norm, attn := r.rms(1e-6), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		bias := r.flag("bias", true)
		act, inner := r.activation("hidden_act", "silu"), r.dim("intermediate_size")
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "attention_norm", false)
			l.streamNorm(spec.PreFFN, "ffn_norm", false)
			l.groupedQKV(attn, "attention.wqkv", bias)
			l.linear(spec.AttnOut, "attention.wo", l.model.Width, attn.Heads*attn.ValueDim, bias)
			return spec.Block{
				PreMix: norm, PreFFN: norm, Attention: attn,
				FFN: l.gatedFFN("feed_forward.w1", "feed_forward.w3", "feed_forward.w2", act, inner, false),
			}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("output", false, false)
	},
})
