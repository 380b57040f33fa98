package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Falcon: queries, keys and values are one matrix: in the new architecture, for
// each key head its queries, its key and its value; with multi_query all
// queries, the key and the value; else query, key and value of each head.
var _ = register(family{
	classes:  []string{"FalconForCausalLM", "RWForCausalLM"},
	prefixes: []string{"transformer."},
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		m := r.model
		m.Vocab, m.Width, m.Context = r.dim("vocab_size"), r.dim(r.either("hidden_size", "n_embed")), r.count("max_position_embeddings", 2048)
		r.only("alibi", false)
		r.embedding("word_embeddings")
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_epsilon", 1e-5)}

		grouped, single := r.flag("new_decoder_architecture", false), r.flag("multi_query", true)
		heads := r.dim(r.either("num_attention_heads", "n_head"))
		attn := &spec.Attention{Heads: heads, KVHeads: heads, KeyDim: r.headDim(heads), Causal: true}
		switch {
		case grouped:
			attn.KVHeads = r.dim(r.either("num_kv_heads", "n_head_kv"), heads)
		case single:
			attn.KVHeads = 1
		}
		r.checkHeads(attn)
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})

		parallel := grouped || r.flag("parallel_attn", true)
		norms := 1 // of a parallel block
		if grouped {
			norms = r.dim("num_ln_in_parallel_attn", 2)
		}
		bias := r.flag("bias", false)
		act, inner := r.activation("activation", "gelu"), r.dim("ffn_hidden_size", 4*m.Width)
		r.layers(r.either("num_hidden_layers", "n_layer"), "h.%d.", func(l layer) spec.Block {
			b := spec.Block{Parallel: parallel, PreMix: norm, Attention: attn}
			switch {
			case parallel && norms == 2:
				b.PreFFN = norm
				l.streamNorm(spec.PreMix, "ln_attn", true)
				l.streamNorm(spec.PreFFN, "ln_mlp", true)
			case parallel:
				l.streamNorm(spec.PreMix, "input_layernorm", true)
			default:
				b.PreFFN = norm
				l.streamNorm(spec.PreMix, "input_layernorm", true)
				l.streamNorm(spec.PreFFN, "post_attention_layernorm", true)
			}
			l.groupedQKV(attn, "self_attention.query_key_value", bias)
			l.linear(spec.AttnOut, "self_attention.dense", m.Width, m.Width, bias)
			b.FFN = l.plainFFN("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", act, inner, bias)
			return b
		})
		r.finalNorm(norm, "ln_f", true)
		m.Head = r.head("lm_head", true, false)
	},
})

// groupedQKV gives the parts of a fused matrix their places that has, per key
// head, its queries, the key and the value. With one key head that is all
// queries first, and with as many as queries each head's three.
func (l layer) groupedQKV(a *spec.Attention, name string, bias bool) {
	queries := a.Heads / a.KVHeads * a.KeyDim
	group := queries + 2*a.KeyDim
	w, b := l.module(l.prefix+name, a.KVHeads*group, l.model.Width, bias)
	l.slice(l.slot(spec.Q), w, b, group, 0, queries)
	l.slice(l.slot(spec.K), w, b, group, queries, a.KeyDim)
	l.slice(l.slot(spec.V), w, b, group, queries+a.KeyDim, a.KeyDim)
}
