package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// decoderNames are the prefixes that language models have, alone and within
// multimodal models.
var decoderNames = []string{"language_model.model.", "model.language_model.", "language_model.", "model."}

// vision are the parts of multimodal models that do not concern text.
var vision = []string{"vision_tower.", "vision_model.", "visual.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."}

// inverseFrequencies are buffers that old checkpoints store.
var inverseFrequencies = []string{"rotary_emb.inv_freq"}

// Llama, and what is like it but for names of biases: Mistral, whose layers may
// all have a sliding window; SmolLM is a Llama.
var _ = register(family{
	classes:  []string{"LlamaForCausalLM", "MistralForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-6), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000})
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		bias, mlpBias := false, false
		if r.class == "LlamaForCausalLM" {
			bias, mlpBias = r.flag("attention_bias", false), r.flag("mlp_bias", false)
		} else {
			attn.Window = r.count("sliding_window", 0)
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, bias)
			return spec.Block{PreMix: norm, PreFFN: norm, Attention: attn, FFN: l.mlp(act, inner, mlpBias)}
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", false, false)
	},
})

// finalNorm gives the last norm its place.
func (r *reader) finalNorm(n *spec.Norm, name string, bias bool) {
	r.model.FinalNorm = n
	r.norm(spec.Global(spec.FinalNorm), name, r.model.Width, bias)
}
