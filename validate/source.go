package validate

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/ops/fromgguf"
	"github.com/modelpipe/modelpipe/ops/fromhf"
	"github.com/modelpipe/modelpipe/tokenizer"
)

// OpenFolder opens a Hugging Face folder as a source. info names it.
func OpenFolder(ctx context.Context, fsys fs.FS, info SourceInfo) (*Source, error) {
	m, err := fromhf.Open(ctx, fsys)
	if err != nil {
		return nil, err
	}
	s := &Source{Info: info, Model: m}
	if err := s.tokenizer(fsys); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return s, nil
}

func (s *Source) tokenizer(fsys fs.FS) error {
	files, err := tokenizer.Load(fsys)
	if err != nil {
		return err
	}
	if s.Encoder, err = files.Encoder(); err != nil {
		return err
	}
	s.Normalizers = normalizers(files)
	if s.Special, err = specialTokens(fsys); err != nil {
		return err
	}
	s.Templates, err = files.ChatTemplates()
	return err
}

// maxTokenizerConfig bounds tokenizer_config.json, in bytes.
const maxTokenizerConfig = 64 << 20

// specialTokens reads the texts of the tokens that begin and end a text from
// tokenizer_config.json: "eos_token": "</s>", or an object with its content.
func specialTokens(fsys fs.FS) (map[string]string, error) {
	const name = "tokenizer_config.json"
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTokenizerConfig+1))
	if err == nil && len(data) > maxTokenizerConfig {
		err = fmt.Errorf("larger than %d bytes", maxTokenizerConfig)
	}
	var config map[string]json.RawMessage
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	special := map[string]string{}
	for _, role := range []string{"bos", "eos"} {
		var token struct{ Content string }
		raw := config[role+"_token"]
		if json.Unmarshal(raw, &token.Content) != nil && json.Unmarshal(raw, &token) != nil {
			continue // null, or no such member
		}
		if token.Content != "" {
			special[role] = token.Content
		}
	}
	return special, nil
}

// OpenGGUF takes a GGUF file as a source, which must stay open. A file without
// a vocabulary is a source without a tokenizer.
func OpenGGUF(f *gguf.File, info SourceInfo) (*Source, error) {
	m, err := fromgguf.Open(f)
	if err != nil {
		return nil, err
	}
	s := &Source{Info: info, Model: m}
	if name, err := f.Header.Metadata.String("tokenizer.ggml.model"); err != nil || name == "none" || name == "no_vocab" {
		return s, nil
	}
	v, err := tokenizer.FromMetadata(f.Header.Metadata)
	if err != nil {
		return nil, err
	}
	s.Templates, s.Special = v.ChatTemplates, map[string]string{}
	for _, t := range v.Special {
		if t.Role == "bos" || t.Role == "eos" {
			s.Special[t.Role] = v.Tokens[t.ID].Text
		}
	}
	s.Encoder, err = tokenizer.NewGGUFEncoder(f.Header.Metadata)
	return s, err
}

// Close closes what the source has opened.
func (s *Source) Close() error { return s.Model.Close() }

// OpenCandidate opens the file to be judged, with the other parts of a split,
// and takes their digests.
func OpenCandidate(ctx context.Context, fsys fs.FS, name string) (*Candidate, error) {
	f, err := gguf.OpenFS(fsys, name)
	if err != nil {
		return nil, err
	}
	c := &Candidate{Name: path.Base(name), File: f}
	for _, p := range f.Parts {
		d, err := digest(ctx, fsys, p.Name)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		c.Parts = append(c.Parts, d)
	}
	return c, nil
}

// Close closes the file.
func (c *Candidate) Close() error { return c.File.Close() }

func digest(ctx context.Context, fsys fs.FS, name string) (FileDigest, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return FileDigest{}, err
	}
	defer f.Close()
	h := bulkhash.NewSHA256()
	n, err := io.Copy(h, contextReader{ctx, f})
	if err != nil {
		return FileDigest{}, fmt.Errorf("digest of %s: %w", name, err)
	}
	return FileDigest{Name: path.Base(name), Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
