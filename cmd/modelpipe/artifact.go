package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/quantize"
)

// This file makes the artifact that is published: the model, what its header
// says of it, and what belongs to it.

// belongings are the files beside a model.
type belongings struct {
	files  [6]string // by belongingRoles
	attach []string
}

// belongingRoles are the flags that name a file beside the model.
var belongingRoles = [...]struct {
	flag string
	role publish.Role
	help string
}{
	{"license", publish.RoleLicense, "the licence `FILE`"},
	{"readme", publish.RoleReadme, "the model card `FILE`"},
	{"template", publish.RoleTemplate, "the chat template `FILE`, Jinja (a registry gets that of the model where none is given)"},
	{"ollama-template", publish.RoleOllamaTemplate, "the prompt template `FILE` of the -ollama tag, a Go template"},
	{"ollama-params", publish.RoleOllamaParams, "the parameters `FILE` of the -ollama tag, a JSON object (default: the model's stop tokens)"},
	{"ollama-system", publish.RoleOllamaSystem, "the system prompt `FILE` of the -ollama tag"},
}

func (b *belongings) register(f *pflag.FlagSet) {
	for i, r := range belongingRoles {
		f.StringVar(&b.files[i], r.flag, "", r.help)
	}
	f.StringArrayVar(&b.attach, "attach", nil, "`MEDIATYPE=FILE`: a signature, provenance or report about the model (repeatable)")
}

// closers are files to be closed.
type closers []io.Closer

func (c closers) close() {
	for _, f := range c {
		f.Close()
	}
}

// addModel adds a GGUF file, or all parts of a split, to an artifact. It says
// whether that is a model, and not what goes with one.
func (a *app) addModel(to *publish.Artifact, closing *closers, name string) (bool, error) {
	f, err := gguf.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	role := publish.RoleModel
	if arch, _ := f.Header.Metadata.Get("general.architecture"); arch == "clip" {
		role = publish.RoleProjector
	} else {
		to.Model = describeModel(f.Header)
	}
	for _, part := range f.Parts {
		if err := addFile(to, closing, filepath.Join(filepath.Dir(name), part.Name), role); err != nil {
			return false, err
		}
	}
	if role == publish.RoleModel {
		to.Files = append(to.Files, derivedFiles(f.Header)...)
	}
	return role == publish.RoleModel, nil
}

// addFile adds a file of this machine to an artifact.
func addFile(to *publish.Artifact, closing *closers, name string, role publish.Role) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	*closing = append(*closing, f)
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: is not a regular file", name)
	}
	to.Files = append(to.Files, publish.File{Name: filepath.Base(name), Role: role, Size: info.Size(), Content: f})
	return nil
}

// attachLimit bounds what is attached to a model.
const attachLimit = 64 << 20

// add adds what the flags name. It takes the place of what was derived.
func (b *belongings) add(to *publish.Artifact, closing *closers) error {
	for i, r := range belongingRoles {
		if b.files[i] == "" {
			continue
		}
		to.Files = slices.DeleteFunc(to.Files, func(f publish.File) bool { return f.Role == r.role })
		if err := addFile(to, closing, b.files[i], r.role); err != nil {
			return fmt.Errorf("--%s: %w", r.flag, err)
		}
		if r.role == publish.RoleOllamaParams {
			if err := checkParams(b.files[i]); err != nil {
				return fmt.Errorf("--%s %s: %w", r.flag, b.files[i], err)
			}
		}
	}
	for _, arg := range b.attach {
		mediaType, name, ok := strings.Cut(arg, "=")
		if !ok || !strings.Contains(mediaType, "/") || strings.ContainsAny(mediaType, " \t\n") || name == "" {
			return usagef("--attach %s: want MEDIATYPE=FILE", arg)
		}
		data, err := readBounded(name, attachLimit)
		if err != nil {
			return fmt.Errorf("--attach: %w", err)
		}
		to.Attached = append(to.Attached, publish.Attachment{Name: filepath.Base(name), MediaType: mediaType, Data: data})
	}
	return nil
}

func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: is larger than %d bytes", name, limit)
	}
	return data, nil
}

// checkParams holds a file to what Ollama reads.
func checkParams(name string) error {
	data, err := readBounded(name, 1<<20)
	if err != nil {
		return err
	}
	var params map[string]any
	if err := json.Unmarshal(data, &params); err != nil || params == nil {
		return errors.New("want a JSON object")
	}
	return nil
}

// derivedContent is content that was taken from the model itself, which only
// a registry needs beside it.
type derivedContent struct{ *strings.Reader }

func isDerived(f publish.File) bool {
	_, ok := f.Content.(derivedContent)
	return ok
}

// derivedFiles returns the chat template of a model and Ollama's parameters.
func derivedFiles(h *gguf.Header) []publish.File {
	template, _ := h.Metadata.Get("tokenizer.chat_template")
	text, _ := template.(string)
	if text == "" {
		return nil
	}
	file := func(name string, role publish.Role, text string) publish.File {
		return publish.File{Name: name, Role: role, Size: int64(len(text)), Content: derivedContent{strings.NewReader(text)}}
	}
	files := []publish.File{file("chat_template.jinja", publish.RoleTemplate, text)}
	tokens, _ := h.Metadata.Get("tokenizer.ggml.tokens")
	vocabulary, _ := tokens.([]string)
	var stop []string
	for _, key := range []string{"eos", "eot", "eom"} {
		id, _ := h.Metadata.Get("tokenizer.ggml." + key + "_token_id")
		if n, ok := id.(uint32); ok && int64(n) < int64(len(vocabulary)) && !slices.Contains(stop, vocabulary[n]) {
			stop = append(stop, vocabulary[n])
		}
	}
	if len(stop) > 0 {
		params, err := json.Marshal(map[string][]string{"stop": stop})
		if err == nil {
			files = append(files, file("params.json", publish.RoleOllamaParams, string(params)))
		}
	}
	return files
}

// describeModel says of a model what its header does.
func describeModel(h *gguf.Header) publish.Model {
	text := func(key string) string {
		v, _ := h.Metadata.Get(key)
		s, _ := v.(string)
		return s
	}
	m := publish.Model{Name: text("general.name"), Family: text("general.architecture"), License: text("general.license")}
	if repo := text("general.source.huggingface.repository"); repo != "" {
		m.Source = "https://huggingface.co/" + repo
		if commit := text("general.source.huggingface.commit"); commit != "" {
			m.Source += "/tree/" + commit
		}
	}
	for _, t := range h.Tensors {
		n := int64(1)
		for _, d := range t.Shape {
			n *= d
		}
		m.Parameters += n
	}
	if v, _ := h.Metadata.Get(m.Family + ".context_length"); v != nil {
		if n, ok := v.(uint32); ok {
			m.ContextLength = int64(n)
		}
	}
	v, _ := h.Metadata.Get("general.file_type")
	if n, ok := v.(uint32); ok {
		for _, name := range quantize.PresetNames() {
			if p, _ := quantize.LookupPreset(name); p.FileType == n {
				m.Quantization = p.Name
				break
			}
		}
	}
	return m
}
