package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// InternLM2: Llama with q, k and v fused by key-value group
// (conversion/internlm.py, InternLM2Model).
var _ = register(Architecture{
	Name:     "internlm2",
	Classes:  []string{"InternLM2ForCausalLM"},
	Prefixes: []string{"model."},
	Dims: map[string]Dim{
		"head_dim": {Expr: "hidden/heads"},
		"group":    {Expr: "heads/kv_heads+2"},
	},
	Keys: decoderKeys,
	Tensors: rules(
		one("tok_embeddings.weight", "token_embd.weight", "vocab, hidden"),
		one("layers.{bid}.attention.wqkv.weight", block+"attn_q.weight", "kv_heads*group*head_dim, hidden",
			rows{Every: "group*head_dim", Count: "(group-2)*head_dim"}, permute{"heads"}),
		one("layers.{bid}.attention.wqkv.weight", block+"attn_k.weight", "kv_heads*group*head_dim, hidden",
			rows{Every: "group*head_dim", Start: "(group-2)*head_dim", Count: "head_dim"}, permute{"kv_heads"}),
		one("layers.{bid}.attention.wqkv.weight", block+"attn_v.weight", "kv_heads*group*head_dim, hidden",
			rows{Every: "group*head_dim", Start: "(group-1)*head_dim", Count: "head_dim"}),
		one("layers.{bid}.attention.wo.weight", block+"attn_output.weight", "hidden, hidden"),
		norm("layers.{bid}.attention_norm", block+"attn_norm", "hidden"),
		norm("layers.{bid}.ffn_norm", block+"ffn_norm", "hidden"),
		one("layers.{bid}.feed_forward.w1.weight", block+"ffn_gate.weight", "ff, hidden"),
		one("layers.{bid}.feed_forward.w3.weight", block+"ffn_up.weight", "ff, hidden"),
		one("layers.{bid}.feed_forward.w2.weight", block+"ffn_down.weight", "hidden, ff"),
		finalNorm,
		one("output.weight", "output.weight", "vocab, hidden"),
	),
	Vocab: tokenizer.Options{AddedFromDefinition: true},
	VocabKeys: []Key{
		{"tokenizer.ggml.add_space_prefix", boolean, fixed(true)},
		{"tokenizer.ggml.eos_token_id", u32, internlm2End},
	},
})

// internlm2End is the end of a chat model's turn, where there is one: the files
// name the end of a text only.
func internlm2End(m *Model) (any, error) {
	if id := m.token("<|im_end|>"); id >= 0 {
		return id, nil
	}
	return nil, nil
}
