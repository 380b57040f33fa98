package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
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
	partSize, err := pipeline.ParseSize(p.partSize)
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
