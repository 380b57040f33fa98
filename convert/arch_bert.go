package convert

import (
	"github.com/modelpipe/modelpipe/tokenizer"
	"slices"
	"strconv"
	"strings"
)

// BERT and its like, for embeddings and reranking: the pooler and the heads of
// the pre-training are dropped (conversion/bert.py, BertModel).
var _ = register(Architecture{
	Name:     "bert",
	Classes:  []string{"BertModel", "BertForMaskedLM", "BertForSequenceClassification", "CamembertModel"},
	Prefixes: bertPrefixes,
	Dims:     map[string]Dim{"positions": {Expr: "context"}, "labels": {Calc: countLabels}},
	Keys:     bertKeys,
	Tensors:  bertTensors,
	Drop:     bertDropped,
	Vocab:    tokenizer.Options{Kinds: []tokenizer.Kind{tokenizer.KindWordPiece}},
})

var bertPrefixes = []string{"bert.", "roberta.", "model."}

var bertKeys = keys(layerNormKeys, []Key{
	{"attention.causal", boolean, fixed(false)},
	{"pooling_type", u32, poolingType},
	{"classifier.output_labels", str, classLabels},
	{"tokenizer.ggml.token_type_count", u32, fieldOr(int64(1), "type_vocab_size")},
})

var bertTensors = rules(
	one("embeddings.word_embeddings.weight", "token_embd.weight", "vocab, hidden"),
	one("embeddings.position_embeddings.weight", "position_embd.weight", "positions, hidden", rows{Start: "positions-context", Count: "context"}),
	may("embeddings.token_type_embeddings.weight", "token_types.weight", "token_types, hidden"),
	oldNorm("embeddings.LayerNorm", "token_embd_norm"),
	complete(linear("encoder.layer.{bid}.attention.self.query", block+"attn_q", "hidden, hidden")),
	complete(linear("encoder.layer.{bid}.attention.self.key", block+"attn_k", "hidden, hidden")),
	complete(linear("encoder.layer.{bid}.attention.self.value", block+"attn_v", "hidden, hidden")),
	complete(linear("encoder.layer.{bid}.attention.output.dense", block+"attn_output", "hidden, hidden")),
	oldNorm("encoder.layer.{bid}.attention.output.LayerNorm", block+"attn_output_norm"),
	complete(linear("encoder.layer.{bid}.intermediate.dense", block+"ffn_up", "ff, hidden")),
	complete(linear("encoder.layer.{bid}.output.dense", block+"ffn_down", "hidden, ff")),
	oldNorm("encoder.layer.{bid}.output.LayerNorm", block+"layer_output_norm"),
	classifier,
)

// classifier is the head of a reranker: one layer, or two.
var classifier = rules(
	may("classifier.dense.weight", "cls.weight", "hidden, hidden"),
	may("classifier.dense.bias", "cls.bias", "hidden"),
	may("classifier.out_proj.weight", "cls.output.weight", "labels, hidden"),
	may("classifier.out_proj.bias", "cls.output.bias", "labels"),
	[]Rule{
		{From: "classifier.weight", To: "cls.output.weight", Shape: "labels, hidden", Rename: unnamedClassifier},
		{From: "classifier.bias", To: "cls.output.bias", Shape: "labels", Rename: unnamedClassifier},
	},
)

var bertDropped = []string{
	"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias",
	"cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias",
	"cls.predictions.transform.dense.weight", "cls.predictions.transform.dense.bias",
	"cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.LayerNorm.bias",
	"cls.predictions.transform.LayerNorm.gamma", "cls.predictions.transform.LayerNorm.beta",
	"cls.seq_relationship.weight", "cls.seq_relationship.bias",
	"lm_head.bias", "lm_head.dense.weight", "lm_head.dense.bias", "lm_head.layer_norm.weight", "lm_head.layer_norm.bias",
	"lm_head.decoder.weight", "lm_head.decoder.bias",
}

// oldNorm is a LayerNorm, whose parts old checkpoints call gamma and beta.
func oldNorm(from, to string) []Rule {
	return []Rule{
		{From: from + ".weight", To: to + ".weight", Shape: "hidden", Need: all},
		{From: from + ".bias", To: to + ".bias", Shape: "hidden", Need: all},
		{From: from + ".gamma", To: to + ".weight", Shape: "hidden"},
		{From: from + ".beta", To: to + ".bias", Shape: "hidden"},
	}
}

// classLabels are the names of a classifier's outputs in their order; nil
// where the model has none but the two that transformers makes up. A classifier
// with those two gets their names: upstream writes none, and llama.cpp takes it
// for one with a single output and does not load it.
func classLabels(m *Model) (any, error) {
	byID, err := m.Config.Object("id2label")
	if err != nil {
		return nil, err
	}
	classifies := strings.HasSuffix(m.Class, "ForSequenceClassification")
	if byID == nil && classifies {
		return []string{"LABEL_0", "LABEL_1"}, nil
	}
	if byID == nil {
		return nil, nil
	}
	ids := make([]int, 0, len(byID))
	for k := range byID {
		id, err := strconv.Atoi(k)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	labels := make([]string, len(ids))
	for i, id := range ids {
		labels[i], _ = byID[strconv.Itoa(id)].(string)
	}
	if len(labels) == 2 && labels[0] == "LABEL_0" && !classifies {
		return nil, nil
	}
	return labels, nil
}

// countLabels is the number of a classifier's outputs; transformers makes two
// where the config names none.
func countLabels(m *Model) (int64, error) {
	byID, err := m.Config.Object("id2label")
	if byID == nil || err != nil {
		return 2, err
	}
	return int64(len(byID)), nil
}

// unnamedClassifier is what upstream calls the only layer of a classifier
// whose outputs have no names.
func unnamedClassifier(m *Model, _ int, to string) string {
	if labels, err := classLabels(m); labels == nil && err == nil {
		return strings.Replace(to, "cls.output.", "cls.", 1)
	}
	return to
}
