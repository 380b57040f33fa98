package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// ERNIE 4.5: Llama's blocks in ggml's rotary order; some checkpoints fuse q, k
// and v, and gate and up (conversion/ernie.py, Ernie4_5Model).
var _ = register(Architecture{
	Name:     "ernie4_5",
	Classes:  []string{"Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM"},
	Prefixes: []string{"model.", "ernie."},
	Keys:     decoderKeys,
	Tensors:  rules(embedding, plainAttention, outputBias, splitAttention, preNorms, gatedFFN, splitFFN, finalNorm, head),
	Vocab:    tokenizer.Options{SpacePrefixFromConfig: true},
})

// splitAttention takes a fused q, k and v apart.
var splitAttention = rules(
	may("layers.{bid}.self_attn.qkv_proj.weight", block+"attn_q.weight", "(heads+2*kv_heads)*head_dim, hidden", rows{Count: "heads*head_dim"}),
	may("layers.{bid}.self_attn.qkv_proj.weight", block+"attn_k.weight", "(heads+2*kv_heads)*head_dim, hidden", rows{Start: "heads*head_dim", Count: "kv_heads*head_dim"}),
	may("layers.{bid}.self_attn.qkv_proj.weight", block+"attn_v.weight", "(heads+2*kv_heads)*head_dim, hidden", rows{Start: "(heads+kv_heads)*head_dim", Count: "kv_heads*head_dim"}),
)

// splitFFN takes a fused gate and up apart.
var splitFFN = rules(
	may("layers.{bid}.mlp.up_gate_proj.weight", block+"ffn_gate.weight", "2*ff, hidden", rows{Count: "ff"}),
	may("layers.{bid}.mlp.up_gate_proj.weight", block+"ffn_up.weight", "2*ff, hidden", rows{Start: "ff", Count: "ff"}),
)
