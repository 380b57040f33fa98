package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// Nomic's BERT, by the code that comes with it: rotary positions, a gated part
// whose gate is fc12, norms of the sums.
var _ = register(family{
	classes:  []string{"NomicBertModel", "NomicBertForPreTraining"},
	prefixes: []string{"bert."},
	others:   []string{"cls.", "pooler."},
	read: func(r *reader) {
		for field, want := range map[string]any{
			"prenorm": false, "causal": false, "parallel_block": false, "use_rms_norm": false,
			"rotary_emb_scale_base": nil, "rotary_scaling_factor": nil, "scale_attn_by_inverse_layer_idx": false,
		} {
			r.only(field, want)
		}
		r.only("activation_function", "swiglu")
		m := r.model
		m.Vocab, m.Width, m.Context = r.dim("vocab_size"), r.dim("n_embd"), r.dim("n_positions")
		r.embedding("embeddings.word_embeddings")
		if types := r.count("type_vocab_size", 0); types > 0 {
			r.put(spec.Global(spec.TokenTypes), r.matrix("embeddings.token_type_embeddings", types, m.Width))
		}
		norm := &spec.Norm{Kind: spec.LayerNorm, Eps: r.eps("layer_norm_epsilon", 1e-12)}
		m.Embedding.Norm = norm
		r.norm(spec.Global(spec.EmbdNorm), "emb_ln", m.Width, true)
		heads := r.dim("n_head")
		attn := &spec.Attention{Heads: heads, KVHeads: heads, KeyDim: r.headDim(heads)}
		r.checkHeads(attn)
		attn.Rope = r.rope(r.positive("rotary_emb_base", 10000), nil, attn.KeyDim, rotary{
			partial: r.positive("rotary_emb_fraction"), interleaved: r.flag("rotary_emb_interleaved", false),
		})
		qkvBias, upBias, downBias := r.flag("qkv_proj_bias", true), r.flag("mlp_fc1_bias", true), r.flag("mlp_fc2_bias", true)
		inner := r.dim("n_inner")
		r.layers("n_layer", "encoder.layers.%d.", func(l layer) spec.Block {
			l.fusedQKV(attn, "attn.Wqkv", qkvBias)
			l.linear(spec.AttnOut, "attn.out_proj", m.Width, m.Width, qkvBias)
			l.streamNorm(spec.SumMix, "norm1", true)
			l.streamNorm(spec.SumFFN, "norm2", true)
			l.linear(spec.Up, "mlp.fc11", inner, m.Width, upBias)
			l.linear(spec.Gate, "mlp.fc12", inner, m.Width, upBias)
			l.linear(spec.Down, "mlp.fc2", m.Width, inner, downBias)
			return spec.Block{SumMix: norm, SumFFN: norm, Attention: attn, FFN: spec.FFN{Gated: true, Activation: spec.SiLU, Inner: inner}}
		})
		m.Pooling = r.pooling()
	},
})
