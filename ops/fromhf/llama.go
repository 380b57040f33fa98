package fromhf

import "github.com/modelpipe/modelpipe/ops/spec"

// decoderNames are the prefixes that language models have, alone and within
// multimodal models.
var decoderNames = []string{"language_model.model.", "model.language_model.", "language_model.", "model."}

// vision are the parts of multimodal models that do not concern text.
var vision = []string{"vision_tower.", "vision_model.", "visual.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."}

// inverseFrequencies are buffers that old checkpoints store.
var inverseFrequencies = []string{"rotary_emb.inv_freq"}

// Llama, and what is like it but for biases, the pairs that turn, or the gate:
// Mistral, whose layers may all have a sliding window; Seed-OSS; ERNIE 4.5,
// whose pairs are interleaved; Arcee, without gate. SmolLM is a Llama.
var _ = register(family{
	classes:  []string{"LlamaForCausalLM", "MistralForCausalLM", "SeedOssForCausalLM", "Ernie4_5_ForCausalLM", "ArceeForCausalLM"},
	prefixes: decoderNames,
	buffers:  inverseFrequencies,
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm, attn := r.rms(1e-6), r.heads()
		attn.Rope = r.ropeOf("", attn.KeyDim, rotary{theta: 10000, interleaved: r.class == "Ernie4_5_ForCausalLM"})
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")
		var bias, outBias, mlpBias bool
		switch r.class {
		case "MistralForCausalLM":
			attn.Window = r.count("sliding_window", 0)
		case "Ernie4_5_ForCausalLM":
			bias = r.flag("use_bias", false)
			outBias, mlpBias = bias, bias
		case "SeedOssForCausalLM":
			bias, outBias, mlpBias = r.flag("attention_bias", true), r.flag("attention_out_bias", false), r.flag("mlp_bias", false)
		default:
			bias, mlpBias = r.flag("attention_bias", false), r.flag("mlp_bias", false)
			outBias = bias
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.streamNorm(spec.PreMix, "input_layernorm", false)
			l.streamNorm(spec.PreFFN, "post_attention_layernorm", false)
			l.selfAttn(attn, bias, outBias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn}
			if r.class == "ArceeForCausalLM" {
				b.FFN = l.plainFFN("mlp.up_proj", "mlp.down_proj", act, inner, mlpBias)
			} else {
				b.FFN = l.mlp(act, inner, mlpBias)
			}
			return b
		})
		r.finalNorm(norm, "norm", false)
		r.model.Head = r.head("lm_head", r.class == "Ernie4_5_ForCausalLM", false)
	},
})

// finalNorm gives the last norm its place.
func (r *reader) finalNorm(n *spec.Norm, name string, bias bool) {
	r.model.FinalNorm = n
	r.norm(spec.Global(spec.FinalNorm), name, r.model.Width, bias)
}
