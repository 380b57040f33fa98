package convert

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Qwen3 and its embedding models: Qwen2 without biases and with a norm on each
// head of q and k (conversion/qwen.py, Qwen3Model).
//
// Its rerankers are language models of which only the answers "yes" and "no"
// count: their two rows of the head become a classifier, and an untied head is
// left out.
var _ = register(Architecture{
	Name:     "qwen3",
	Classes:  []string{"Qwen3ForCausalLM", "Qwen3Model"},
	Prefixes: []string{"model."},
	Keys: keys(decoderKeys, []Key{
		{"pooling_type", u32, poolingType},
		{"pooling_type", u32, when(qwen3Reranker, fixed(int64(4)))},
		{"classifier.output_labels", str, when(qwen3Reranker, fixed([]string{"yes", "no"}))},
	}),
	Tensors: rules(
		plainAttention, headNorms, preNorms, gatedFFN, finalNorm,
		embedding,
		[]Rule{
			{From: "lm_head.weight", To: "output.weight", Shape: "vocab, hidden", Need: qwen3Headed, Rename: qwen3Head},
			{From: "lm_head.weight", To: "cls.output.weight", Shape: "vocab, hidden", Do: []Transform{yesNo{}}, Rename: qwen3Answers(false)},
			{From: "embed_tokens.weight", To: "cls.output.weight", Shape: "vocab, hidden", Do: []Transform{yesNo{}}, Rename: qwen3Answers(true)},
		},
	),
	VocabKeys: []Key{
		{"tokenizer.chat_template.rerank", str, when(qwen3Reranker, fixed(qwen3RerankTemplate))},
		{"tokenizer.chat_templates", str, when(qwen3Reranker, fixed([]string{"rerank"}))},
	},
})

// qwen3RerankTemplate is the prompt of the model card.
const qwen3RerankTemplate = "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. " +
	"Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n" +
	"<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n" +
	"<Query>: {query}\n<Document>: {document}<|im_end|>\n" +
	"<|im_start|>assistant\n<think>\n\n</think>\n\n"

// qwen3Reranker holds for rerankers, which only their names and their cards
// tell from other models.
func qwen3Reranker(m *Model) (bool, error) {
	original, _ := m.Config.Text("_name_or_path")
	for _, name := range []string{m.options.Source, m.options.Repository, original} {
		if strings.Contains(strings.ToLower(name), "qwen3-reranker") {
			return true, nil
		}
	}
	card, err := readFile(m.source, "README.md")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.Contains(strings.ToLower(string(card)), "# qwen3-reranker"), err
}

// qwen3Headed holds for the models that keep a head of their own.
func qwen3Headed(m *Model, bid int) bool {
	reranker, err := qwen3Reranker(m)
	return err == nil && !reranker && untied(m, bid)
}

// qwen3Head drops a reranker's own head.
func qwen3Head(m *Model, _ int, to string) string {
	if reranker, err := qwen3Reranker(m); reranker || err != nil {
		return ""
	}
	return to
}

// qwen3Answers keeps the classifier of rerankers whose head is the embedding,
// or is not.
func qwen3Answers(tied bool) func(m *Model, bid int, to string) string {
	return func(m *Model, _ int, to string) string {
		isTied, err := m.Config.Bool("tie_word_embeddings")
		if reranker, rerr := qwen3Reranker(m); !reranker || rerr != nil || err != nil || isTied != tied {
			return ""
		}
		return to
	}
}

// yesNo takes the rows of the tokens "yes" and "no".
type yesNo struct{}

func (yesNo) apply(m *Model, _ int, x operand) (operand, error) {
	var stack Stack
	for _, word := range []string{"yes", "no"} {
		id := m.token(word)
		if id < 0 || id >= x.shape[0] {
			return x, fmt.Errorf("the vocabulary has no token %q, which a reranker answers with", word)
		}
		stack.Parts = append(stack.Parts, Rows{Of: x.from, Every: x.shape[0], Start: id, Count: 1})
	}
	return operand{stack, []int64{2, x.shape[1]}}, nil
}
