package convert

// OLMoE: experts in every block, norms over all of q and of k
// (conversion/olmo.py, OlmoeModel).
var _ = register(Architecture{
	Name:     "olmoe",
	Classes:  []string{"OlmoeForCausalLM"},
	Prefixes: []string{"model."},
	Keys:     keys(decoderKeys, moeKeys, []Key{{"attention.layer_norm_rms_epsilon", f32, fixed(1e-5)}}),
	Tensors: rules(embedding, plainAttention, preNorms,
		norm("layers.{bid}.self_attn.q_norm", block+"attn_q_norm", "heads*head_dim"),
		norm("layers.{bid}.self_attn.k_norm", block+"attn_k_norm", "kv_heads*head_dim"),
		router, experts("layers.{bid}.mlp.experts"),
		finalNorm, head),
})
