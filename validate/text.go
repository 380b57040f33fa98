package validate

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/ops/calibrate"
	"github.com/modelpipe/modelpipe/ops/spec"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// DefaultText is what is measured on where no text is given: prose of several
// kinds and languages, code, two scenes of Shakespeare's and technical
// documentation, about 6000 tokens of a usual vocabulary.
//
//go:embed text.txt
var DefaultText string

// The measurement's defaults.
const (
	DefaultChunks = 8
	DefaultCtx    = 512
)

// Chunks makes chunks of ctx tokens of a text, as llama-perplexity does: the
// text is encoded as a whole, with the special tokens that the vocabulary asks
// for, and cut every ctx tokens; where the vocabulary asks for a BOS it takes
// the place of each chunk's first token. n bounds the number of chunks.
func Chunks(e tokenizer.Encoder, v *tokenizer.Vocabulary, text string, n, ctx int) ([][]int32, error) {
	ids, err := e.Encode(text, tokenizer.EncodeOptions{AddSpecial: true})
	if err != nil {
		return nil, fmt.Errorf("encode the text: %w", err)
	}
	bos, has := v.SpecialID("bos")
	if !has || !addsBOS(e, bos) {
		bos = spec.None
	}
	return calibrate.Chunks(ids, bos, n, ctx)
}

// addsBOS says whether an encoder puts a BOS in front of a text.
func addsBOS(e tokenizer.Encoder, bos int32) bool {
	ids, err := e.Encode("a", tokenizer.EncodeOptions{AddSpecial: true})
	return err == nil && len(ids) > 0 && ids[0] == bos
}

// cutParagraphs encodes the first n paragraphs of a text, each with the
// vocabulary's special tokens and cut to at most ctx tokens.
func cutParagraphs(e tokenizer.Encoder, text string, n, ctx int) ([][]int32, error) {
	var out [][]int32
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		if paragraph = strings.TrimSpace(paragraph); paragraph == "" {
			continue
		}
		ids, err := e.Encode(paragraph, tokenizer.EncodeOptions{AddSpecial: true})
		if err != nil {
			return nil, fmt.Errorf("encode the text: %w", err)
		}
		if len(ids) > ctx {
			ids[ctx-1] = ids[len(ids)-1] // the token that ends a text
			ids = ids[:ctx]
		}
		if out = append(out, ids); len(out) == n {
			break
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the text has no paragraph")
	}
	return out, nil
}
