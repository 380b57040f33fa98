package quantize

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/tomlfile"
)

// recipeFile is the written form of a Recipe: TOML for people, JSON in reports
// and for the digest. docs/recipe.md describes it.
type recipeFile struct {
	Type      string          `toml:"type" json:"type"`
	Pure      bool            `toml:"pure" json:"pure,omitempty"`
	Strict    bool            `toml:"strict-types" json:"strict-types,omitempty"`
	Leave     bool            `toml:"leave-output" json:"leave-output,omitempty"`
	Output    string          `toml:"output-type" json:"output-type,omitempty"`
	Embedding string          `toml:"embedding-type" json:"embedding-type,omitempty"`
	Tensors   []recipeTensors `toml:"tensor" json:"tensor,omitempty"`
}

type recipeTensors struct {
	Match string `toml:"match" json:"match"`
	Type  string `toml:"type" json:"type"`
}

// ReadRecipe reads a recipe file. Unknown keys are errors that name the line
// and the nearest known key.
func ReadRecipe(r io.Reader) (Recipe, error) {
	var f recipeFile
	data, err := io.ReadAll(r)
	if err == nil {
		err = tomlfile.Decode(data, &f)
	}
	if err != nil {
		return Recipe{}, fmt.Errorf("recipe: %w", err)
	}
	out := Recipe{Preset: f.Type, Pure: f.Pure, Strict: f.Strict, LeaveOutput: f.Leave}
	if f.Type == "" {
		return Recipe{}, errors.New(`recipe: key "type" is missing`)
	}
	if out.Output, err = optionalType("output-type", f.Output); err != nil {
		return Recipe{}, err
	}
	if out.Embedding, err = optionalType("embedding-type", f.Embedding); err != nil {
		return Recipe{}, err
	}
	for i, t := range f.Tensors {
		if t.Match == "" {
			return Recipe{}, fmt.Errorf(`recipe: tensor %d: key "match" is missing`, i+1)
		}
		typ, err := gguf.ParseType(t.Type)
		if err != nil {
			return Recipe{}, fmt.Errorf("recipe: tensor %d: %w", i+1, err)
		}
		out.Overrides = append(out.Overrides, Override{Pattern: t.Match, Type: typ})
	}
	return out, nil
}

func optionalType(key, name string) (*gguf.Type, error) {
	if name == "" {
		return nil, nil
	}
	t, err := gguf.ParseType(name)
	if err != nil {
		return nil, fmt.Errorf("recipe: %s: %w", key, err)
	}
	return &t, nil
}

// MarshalJSON writes the recipe with the keys of the file.
func (r Recipe) MarshalJSON() ([]byte, error) {
	f := recipeFile{Type: strings.ToUpper(r.Preset), Pure: r.Pure, Strict: r.Strict, Leave: r.LeaveOutput}
	if r.Output != nil {
		f.Output = r.Output.String()
	}
	if r.Embedding != nil {
		f.Embedding = r.Embedding.String()
	}
	for _, o := range r.Overrides {
		f.Tensors = append(f.Tensors, recipeTensors{o.Pattern, o.Type.String()})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(f); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// Digest returns "sha256:" and the hash of the recipe's JSON: equal recipes,
// whether they came from a file or from flags, have equal digests.
func (r Recipe) Digest() (string, error) {
	text, err := r.MarshalJSON()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
