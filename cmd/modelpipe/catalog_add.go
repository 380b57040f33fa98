package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/pipeline"
)

func init() { registerCatalog(newCatalogAdd) }

func newCatalogAdd(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "add hf://ORG/NAME[@REVISION]",
		Short: "Draft the entry of a model from its card",
		Long: `Add reads the model card and the small files of a repository and drafts the
model's entry of a curation file: license, languages, task, context, sampling.
What a person must look at stands above it as comments. The entry is printed,
or with -f appended to the curation file, which must still be valid with it.`,
		Example: `  modelpipe catalog add hf://Qwen/Qwen3-0.6B
  modelpipe catalog add hf://Qwen/Qwen3-0.6B -f catalog.toml`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.catalogAdd(cmd.Context(), args[0], file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "append the entry to the curation file at `PATH`")
	return cmd
}

func (a *app) catalogAdd(ctx context.Context, arg, file string) (err error) {
	s, err := pipeline.OpenSource(ctx, arg, a.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.Repo == "" {
		return usagef("catalog add %s: want a repository, hf://org/name", arg)
	}
	card := catalog.Card{Repository: s.Repo}
	for i, to := range []*[]byte{&card.Readme, &card.Config, &card.Generation, &card.Tokenizer, &card.Template, &card.Pooling} {
		if *to, err = readSmall(s.FS, catalog.CardFiles[i]); err != nil {
			return fmt.Errorf("add %s: %w", arg, err)
		}
	}
	m, notes, err := catalog.Draft(card)
	if err != nil {
		return fmt.Errorf("add %s: %w", arg, err)
	}
	text, err := m.TOML(notes)
	if err != nil {
		return err
	}
	if file == "" {
		if a.json {
			return a.printJSON(struct {
				Entry string   `json:"entry"`
				Notes []string `json:"notes"`
			}{string(text), notes})
		}
		_, err = a.stdout.Write(text)
		return err
	}
	if err := appendEntry(file, text); err != nil {
		return fmt.Errorf("add %s: %w", arg, err)
	}
	for _, n := range notes {
		a.log.Warn(n, "model", m.Slug)
	}
	return a.say(map[string]any{"file": file, "slug": m.Slug, "notes": notes}, "%s: model %s was added\n", file, m.Slug)
}

// readSmall reads a file of a repository, or nothing where there is none.
func readSmall(fsys fs.FS, name string) (_ []byte, err error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := io.ReadAll(io.LimitReader(f, smallFile+1))
	if err == nil && len(data) > smallFile {
		err = fmt.Errorf("%s: has more than %d bytes", name, smallFile)
	}
	return data, err
}

// appendEntry adds an entry to a curation file. Where the file would not be
// valid with it, it stays as it was.
func appendEntry(name string, entry []byte) error {
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next := name + ".new.toml"
	if err := os.WriteFile(next, append(old, entry...), 0o666); err != nil {
		return err
	}
	_, err = readCuration(next)
	if err == nil {
		err = os.Rename(next, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("nothing was added: %w", err), os.Remove(next))
	}
	return nil
}
