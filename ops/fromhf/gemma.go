package fromhf

import (
	"math"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// Gemma 1 to 3. Norms are stored as weight-1, the embedding is multiplied by
// the root of its width and is also the head. From the second on each part
// also has a norm behind it and most layers a sliding window; the second has
// soft caps, the third norms queries and keys and turns local layers by a base
// of their own. The embedding model is a third one that sees both ways.
var _ = register(family{
	classes:  []string{"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel"},
	prefixes: decoderNames,
	others:   vision,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		switch r.class {
		case "GemmaForCausalLM":
			r.gemma1()
		case "Gemma2ForCausalLM":
			r.gemma2()
		default:
			r.gemma3()
		}
	},
})

// gemmaNorm is a root mean square norm stored as weight-1.
func (r *reader) gemmaNorm() *spec.Norm {
	n := r.rms(1e-6)
	n.Offset = 1
	return n
}

func (r *reader) gemmaSize() {
	r.size()
	r.model.Embedding.Scale = float32(math.Sqrt(float64(r.model.Width)))
	r.embedding("embed_tokens")
}

// gemmaActivation is gelu_pytorch_tanh for every Gemma: where hidden_activation
// is missing, hidden_act's "gelu" was a mistake that the modelling code mends.
func (r *reader) gemmaActivation() spec.Activation {
	r.only(r.either("hidden_activation", "hidden_act"), "gelu_pytorch_tanh", "gelu")
	return spec.GELUTanh
}

func (r *reader) gemma1() {
	r.gemmaSize()
	norm, attn, act := r.gemmaNorm(), r.heads(), r.gemmaActivation()
	attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
	inner, bias := r.dim("intermediate_size"), r.flag("attention_bias", false)
	r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
		l.streamNorm(spec.PreMix, "input_layernorm", false)
		l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
		l.selfAttn(attn, bias, bias)
		return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.mlp(act, inner, false)}
	})
	r.finalNorm(norm, "norm", false)
	r.model.Head = r.head("lm_head", true, false)
}

// gemmaBlocks reads the blocks of Gemma 2 and 3; attend gives each layer its
// attention.
func (r *reader) gemmaBlocks(norm *spec.Norm, attend func(l layer) *spec.Attention) {
	act, inner, bias := r.gemmaActivation(), r.dim("intermediate_size"), r.flag("attention_bias", false)
	r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
		l.streamNorm(spec.PreMix, "input_layernorm", false)
		l.streamNorm(spec.PostMix, "post_attention_layernorm", false)
		l.streamNorm(spec.PreFFN, "pre_feedforward_layernorm", false)
		l.streamNorm(spec.PostFFN, "post_feedforward_layernorm", false)
		a := attend(l)
		l.selfAttn(a, bias, bias)
		return spec.Block{PreMix: norm, PostMix: norm, PreFFN: norm, PostFFN: norm, Attention: a, FFN: l.mlp(act, inner, false)}
	})
	r.finalNorm(norm, "norm", false)
}

func (r *reader) gemma2() {
	r.gemmaSize()
	norm, attn := r.gemmaNorm(), r.heads()
	attn.Scale = 1 / math.Sqrt(r.positive("query_pre_attn_scalar", 256))
	attn.SoftCap = float32(r.number("attn_logit_softcapping", 0))
	attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
	windowed := r.windowed(r.layerCount("num_hidden_layers"), func(i int) bool { return i%2 == 0 })
	r.gemmaBlocks(norm, func(l layer) *spec.Attention {
		a := *attn
		if windowed[l.i] {
			a.Window = r.dim("sliding_window")
		}
		return &a
	})
	r.model.Head = r.head("lm_head", true, false)
	r.model.Head.SoftCap = float32(r.number("final_logit_softcapping", 0))
}

func (r *reader) gemma3() {
	// What a multimodal model's text_config leaves out is as in
	// Gemma3TextConfig.
	if r.class == "Gemma3ForConditionalGeneration" {
		for field, def := range map[string]int{
			"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
			"query_pre_attn_scalar": 256, "max_position_embeddings": 131072, "sliding_window": 4096,
		} {
			r.setDefault(field, def)
		}
	}
	r.gemmaSize()
	norm, attn := r.gemmaNorm(), r.heads()
	attn.Causal = !r.flag("use_bidirectional_attention", false)
	attn.Scale = 1 / math.Sqrt(r.positive("query_pre_attn_scalar", 256))
	attn.SoftCap = float32(r.number("attn_logit_softcapping", 0))
	pattern := r.dim(r.either("sliding_window_pattern", "_sliding_window_pattern"), 6)
	windowed := r.windowed(r.layerCount("num_hidden_layers"), func(i int) bool { return (i+1)%pattern != 0 })

	global := r.ropeOf("full_attention", attn.KeyDim, rotary{theta: 1e6})
	var local *spec.Rope
	if r.has("rope_parameters") {
		local = r.ropeOf("sliding_attention", attn.KeyDim, rotary{theta: 10000})
	} else {
		local = r.rope(r.positive("rope_local_base_freq", 10000), nil, attn.KeyDim, rotary{})
	}
	r.gemmaBlocks(norm, func(l layer) *spec.Attention {
		a := *attn
		a.Rope = global
		if windowed[l.i] {
			a.Rope, a.Window = local, r.dim("sliding_window")
		}
		l.headNorms(norm, &a, "self_attn.q_norm", "self_attn.k_norm")
		return &a
	})
	if r.class == "Gemma3TextModel" {
		r.model.Pooling = r.pooling()
		return
	}
	r.model.Head = r.head("lm_head", true, false)
	r.model.Head.SoftCap = float32(r.number("final_logit_softcapping", 0))
}
