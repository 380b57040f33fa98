package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/quantize"
)

func init() { register(newPublish) }

// publishing is what the flags of publish say.
type publishing struct {
	output   string
	partSize string
	belongs  belongings
	resume   bool
	moveTag  bool
	trust    bool
	dryRun   bool
	threads  int
}

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

func newPublish(a *app) *cobra.Command {
	var p publishing
	cmd := &cobra.Command{
		Use:   "publish FILE... -o TARGET",
		Short: "Publish GGUF files to a folder, an S3 bucket or an OCI registry",
		Long: `Publish uploads GGUF files, with what belongs to them, and reads them back. A
file gets its name when all of it has arrived, and never replaces other content
under that name. One part of a split model stands for all of them. An upload
that was interrupted goes on with --resume; one that nobody goes on with is
cleared by publish gc.

TARGET is the path of a folder, s3://bucket/prefix, or oci://host/repository:tag.
Credentials are those of the AWS tools (AWS_ACCESS_KEY_ID ..., AWS_PROFILE,
~/.aws; AWS_ENDPOINT_URL for other stores) and of docker login. A registry gets
one model: under the tag for Docker Model Runner, llama.cpp and ORAS, and under
TAG-ollama for Ollama.`,
		Example: `  modelpipe publish model-q8_0.gguf -o s3://models/qwen3
  modelpipe publish model-q8_0.gguf -o oci://registry.example/team/qwen3:q8_0 --license LICENSE
  modelpipe publish gc s3://models --older-than 48h`,
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, files []string) error {
			return a.publish(cmd.Context(), files, &p)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&p.output, "output", "o", "", "the `TARGET`")
	f.StringVar(&p.partSize, "part-size", "", "`SIZE` of what is uploaded at once (default 16M, or what keeps a file below 10,000 parts)")
	f.BoolVar(&p.resume, "resume", false, "go on with an interrupted upload")
	f.BoolVar(&p.moveTag, "move-tag", false, "let a tag of a registry that is there move to this model")
	f.BoolVar(&p.trust, "trust-checksum", false, trustHelp)
	f.BoolVar(&p.dryRun, "dry-run", false, "say what would be published")
	f.IntVar(&p.threads, "threads", 0, "number of workers (default: the processors that this process may use)")
	p.belongs.register(f)
	cmd.AddCommand(newPublishGC(a))
	return cmd
}

// publish runs the command.
func (a *app) publish(ctx context.Context, names []string, p *publishing) error {
	if p.output == "" {
		return usagef("want a target: -o PATH, -o s3://bucket/prefix or -o oci://host/repository:tag")
	}
	if p.threads < 0 {
		return usagef("--threads %d: want a number of workers", p.threads)
	}
	partSize, err := parseSize(p.partSize)
	if err != nil {
		return usagef("--part-size %s: %w", p.partSize, err)
	}
	var artifact publish.Artifact
	var closing closers
	defer closing.close()
	models := 0
	for _, name := range names {
		more, err := a.addModel(&artifact, &closing, name)
		if err != nil {
			return err
		}
		if more {
			models++
		}
	}
	toRegistry := strings.HasPrefix(p.output, "oci://")
	if toRegistry && models != 1 {
		return usagef("%s: a tag holds one model: %d are given", p.output, models)
	}
	if err := p.belongs.add(&artifact, &closing); err != nil {
		return err
	}
	if !toRegistry {
		artifact.Files = slices.DeleteFunc(artifact.Files, isDerived)
	}
	if p.dryRun {
		return a.printWould(p.output, &artifact)
	}
	sink, err := publish.Open(p.output)
	if err != nil {
		return withExit(exitUsage, err)
	}
	if toRegistry {
		a.warnOllama(&artifact)
	}
	progress := new(publish.Progress)
	stop := a.showProgress(meter{"publishing", totalSize(&artifact), progress.Done.Load, func() string { return "" }}, defaultInterval)
	receipt, err := sink.Publish(ctx, &artifact, publish.Options{
		Resume: p.resume, Threads: p.threads, PartSize: partSize, MoveTag: p.moveTag, TrustChecksum: p.trust, Progress: progress, Log: a.log,
	})
	stop()
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(receipt)
	}
	a.printReceipt(receipt)
	return nil
}

const trustHelp = "take the word of a store that has computed our checksum in place of reading the upload back"

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

// warnOllama says what the sibling tag will lack.
func (a *app) warnOllama(artifact *publish.Artifact) {
	models := 0
	template := map[publish.Role]bool{}
	for _, f := range artifact.Files {
		template[f.Role] = true
		if f.Role == publish.RoleModel {
			models++
		}
	}
	switch {
	case models > 1:
		a.log.Warn("the model is split, which Ollama does not take: there will be no -ollama tag")
	case template[publish.RoleTemplate] && !template[publish.RoleOllamaTemplate]:
		a.log.Warn("no --ollama-template: Ollama reads templates of its own kind, and will send prompts as they are")
	}
}

func totalSize(artifact *publish.Artifact) int64 {
	n := int64(0)
	for _, f := range artifact.Files {
		n += f.Size
	}
	return n
}

// printReceipt prints what was published as sha256sum does.
func (a *app) printReceipt(r *publish.Receipt) {
	for _, f := range r.Files {
		fmt.Fprintf(a.stdout, "%s  %s\n", f.SHA256, f.Location)
	}
	for _, m := range r.Manifests {
		if m.Tag != "" {
			fmt.Fprintf(a.stdout, "%s  %s\n", strings.TrimPrefix(m.Digest, "sha256:"), m.Tag)
		}
	}
}

// printWould prints what a dry run would have published.
func (a *app) printWould(target string, artifact *publish.Artifact) error {
	type file struct {
		Name string       `json:"name"`
		Role publish.Role `json:"role"`
		Size int64        `json:"size"`
	}
	would := struct {
		Target string `json:"target"`
		Files  []file `json:"files"`
	}{Target: target}
	for _, f := range artifact.Files {
		if err := publish.CheckName(f.Name); err != nil {
			return err
		}
		would.Files = append(would.Files, file{f.Name, f.Role, f.Size})
	}
	for _, t := range artifact.Attached {
		would.Files = append(would.Files, file{t.Name, "attachment", int64(len(t.Data))})
	}
	if a.json {
		return a.printJSON(would)
	}
	for _, f := range would.Files {
		fmt.Fprintf(a.stdout, "would publish %s (%s, %d bytes) to %s\n", f.Name, f.Role, f.Size, target)
	}
	return nil
}

// convertTo renders the outputs straight into a remote target.
func (a *app) convertTo(ctx context.Context, s *source, c *conversion, m *making, p *convert.Plan, outputs []convert.Output, target string) (*publish.Receipt, error) {
	sink, err := publish.Open(target)
	if err != nil {
		return nil, withExit(exitUsage, err)
	}
	opts := convert.FileOptions{
		RenderOptions: convert.RenderOptions{Threads: m.threads, AllowNonfinite: m.allow, Imatrix: c.importance},
		Inputs:        c.digests,
	}
	artifact := &publish.Artifact{Model: describeModel(&p.Header)}
	identities := make([]string, len(outputs))
	for i, o := range outputs {
		view, err := convert.NewView(o.Plan, s.fsys, opts.RenderOptions)
		if err != nil {
			return nil, err
		}
		defer view.Close()
		if identities[i], err = convert.Identity(o.Plan, s.fsys, opts); err != nil {
			return nil, err
		}
		artifact.Files = append(artifact.Files, publish.File{
			Name: o.Path, Role: publish.RoleModel, Size: o.Plan.Size, Content: view, Identity: identities[i],
		})
	}
	if strings.HasPrefix(target, "oci://") {
		artifact.Files = append(artifact.Files, derivedFiles(&p.Header)...)
		if license, ok := sourceLicense(s.fsys); ok {
			artifact.Files = append(artifact.Files, license)
		}
		a.warnOllama(artifact)
	}
	if m.allow {
		a.log.Warn("weights that are NaN or infinite are let pass: they are counted only where the output is a file")
	}
	progress := new(publish.Progress)
	stop := a.showProgress(meter{"converting", totalSize(artifact), progress.Done.Load, func() string { return "" }}, m.interval)
	defer stop()
	return sink.Publish(ctx, artifact, publish.Options{
		Resume: m.resume, Threads: m.threads, MoveTag: m.moveTag, TrustChecksum: m.trust, Progress: progress, Log: a.log, Keep: keepOutput,
		BeforeNaming: func(ctx context.Context) error {
			for i, o := range outputs {
				now, err := convert.Identity(o.Plan, s.fsys, opts)
				if err != nil {
					return err
				}
				if now != identities[i] {
					return errors.New("a file of the source has changed since it was first read: convert again")
				}
			}
			if s.snapshot == nil {
				return nil
			}
			return a.verify(ctx, s, m.resume)
		},
	})
}

// sourceLicense returns the licence text of a source that has one.
func sourceLicense(fsys fs.FS) (publish.File, bool) {
	const limit = 1 << 20
	for _, name := range []string{"LICENSE", "LICENSE.txt", "LICENSE.md"} {
		f, err := fsys.Open(name)
		if err != nil {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(f, limit+1))
		f.Close()
		if err == nil && len(data) > 0 && len(data) <= limit {
			return publish.File{Name: name, Role: publish.RoleLicense, Size: int64(len(data)), Content: strings.NewReader(string(data))}, true
		}
	}
	return publish.File{}, false
}
