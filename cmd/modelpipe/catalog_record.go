package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

func init() { registerCatalog(newCatalogRecord) }

// recording is what the flags of catalog record say.
type recording struct {
	store, model, variant, preset string
	source, commit                string
	conversion, report            string
	policy, channel               string
}

func newCatalogRecord(a *app) *cobra.Command {
	var r recording
	cmd := &cobra.Command{
		Use:   "record FILE.gguf",
		Short: "Put a GGUF file into a store, with its record beside it",
		Long: `Record publishes a GGUF file, all parts of a split one, into the folder of a
variant in a store, and puts beside it what the catalog is made of: size,
digest, types, parameters, memory, where it comes from, and, where given, the
report of its validation and a signed statement of provenance.

It prints the ID of the variant, which catalog publish takes. What is in the
store already, and the same, is left as it is.`,
		Example: `  modelpipe convert hf://org/name --type Q4_K_M -o name.gguf --json > name.json
  modelpipe catalog record name.gguf --store out/store --model name --variant Q4_K_M --conversion name.json`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.catalogRecord(cmd.Context(), args[0], &r)
		},
	}
	storeFlag(cmd, &r.store)
	f := cmd.Flags()
	f.StringVar(&r.model, "model", "", "the `SLUG` of the model")
	f.StringVar(&r.variant, "variant", "", "the `NAME` of the variant in the curation file")
	f.StringVar(&r.preset, "preset", "", "the `PRESET` or type (default: the name of the variant)")
	f.StringVar(&r.source, "source", "", "what the file was made from: hf://org/name (default: what --conversion says)")
	f.StringVar(&r.commit, "commit", "", "the `COMMIT` of the source")
	f.StringVar(&r.conversion, "conversion", "", "what convert --json printed, a `FILE`")
	f.StringVar(&r.report, "report", "", "the report of the validation, a JSON `FILE`")
	f.StringVar(&r.policy, "trust", "", "sign a statement of provenance with the channel's keys of the policy `FILE`")
	channelFlag(cmd, &r.channel)
	return cmd
}

func (a *app) catalogRecord(ctx context.Context, name string, r *recording) error {
	if r.model == "" || r.variant == "" {
		return usagef("catalog record: --model and --variant are missing")
	}
	if r.preset == "" {
		r.preset = r.variant
	}
	store, err := openStore(r.store)
	if err != nil {
		return err
	}
	from, err := r.provenance()
	if err != nil {
		return err
	}
	v := pipeline.Variant{Model: r.model, Name: r.variant, Preset: r.preset, From: from}
	if r.report != "" {
		if v.Report, err = os.ReadFile(r.report); err != nil {
			return err
		}
	}
	if r.policy != "" {
		policy, err := trust.ReadPolicy(r.policy)
		if err != nil {
			return err
		}
		if v.Keys, err = policy.ChannelKeys(r.channel); err != nil {
			return err
		}
	}
	record, err := v.Put(ctx, operatorOf(store), name, publish.Options{Log: a.log})
	if err != nil {
		return fmt.Errorf("record %s: %w", name, err)
	}
	return a.say(record, "%s\n", record.Variant.ID)
}

// provenance is what the flags and the conversion's JSON say.
func (r *recording) provenance() (catalog.Provenance, error) {
	p := catalog.Provenance{Tool: catalog.Tool{Name: "modelpipe", Version: version().Version}, Created: time.Now()}
	if r.conversion != "" {
		data, err := os.ReadFile(r.conversion)
		if err != nil {
			return p, err
		}
		var c struct {
			Repository    string         `json:"repository"`
			Commit        string         `json:"commit"`
			RecipeDigest  catalog.Digest `json:"recipe_digest"`
			ImatrixDigest string         `json:"imatrix_digest"`
		}
		if err := json.Unmarshal(data, &c); err != nil {
			return p, fmt.Errorf("%s: %w", r.conversion, err)
		}
		if c.Repository != "" {
			p.Source = catalog.Source{Repository: "hf://" + c.Repository, Commit: c.Commit}
		}
		p.Recipe = c.RecipeDigest
		if c.ImatrixDigest != "" {
			p.Imatrix = catalog.Digest("sha256:" + strings.TrimPrefix(c.ImatrixDigest, "sha256:"))
		}
		if info, err := os.Stat(r.conversion); err == nil {
			p.Created = info.ModTime()
		}
	}
	if r.source != "" {
		p.Source = catalog.Source{Repository: r.source, Commit: r.commit}
	}
	if p.Source.Repository == "" {
		return p, usagef("catalog record: where the file comes from is missing: give --source or --conversion")
	}
	return p, nil
}
