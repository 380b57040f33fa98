package convert

import "github.com/modelpipe/modelpipe/tokenizer"

// RoBERTa and XLM-RoBERTa are BERT whose positions count from behind the
// padding token's id: the rows before are cut off (conversion/bert.py,
// RobertaModel and XLMRobertaModel).
var _ = register(Architecture{
	Name: "bert",
	Classes: []string{
		"RobertaModel", "RobertaForSequenceClassification",
		"XLMRobertaModel", "XLMRobertaForSequenceClassification",
	},
	Prefixes: bertPrefixes,
	Dims: map[string]Dim{
		"positions": {Fields: []string{"max_position_embeddings"}},
		"context":   {Calc: robertaContext},
		"labels":    {Calc: countLabels},
	},
	Keys:    keys(bertKeys, []Key{{"context_length", u32, size("context")}}),
	Tensors: bertTensors,
	Drop:    bertDropped,
	Vocab:   tokenizer.Options{Kinds: []tokenizer.Kind{tokenizer.KindUnigram, tokenizer.KindBPE}},
})

// robertaContext is the number of positions that tokens can have.
func robertaContext(m *Model) (int64, error) {
	n, err := m.Config.Int("max_position_embeddings")
	if err != nil {
		return 0, err
	}
	pad, err := m.Config.Int("pad_token_id")
	if isMissing(err) {
		return n, nil
	}
	return n - 1 - pad, err
}
