package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog/export"
)

func init() { registerCatalog(newCatalogExport) }

func newCatalogExport(a *app) *cobra.Command {
	var names []string
	var to, channel string
	var list bool
	var o export.Options
	cmd := &cobra.Command{
		Use:   "export CATALOG --format NAME -o DIR",
		Short: "Write a catalog in the forms that gateways and servers read",
		Long: `Export writes a catalog as the files that gateways and servers read: --list
names the formats and their readers. A model that a format cannot describe is
left out; that, and whatever else a format has no place for, is said on stderr,
with --json on stdout.

CATALOG is a catalog in one JSON file, or a store with the tree of --channel: a
folder, s3://bucket/prefix, or the address of a web server. Prices keep their
digits. Keys are never written, only the names of the variables or secrets that
hold them.`,
		Example: `  modelpipe catalog export --list
  modelpipe catalog export ./store --format litellm -o litellm
  modelpipe catalog export catalog.json --format openai -o - > models.json
  modelpipe catalog export s3://edge-models --format all -o exports --json`,
		Args: args(func(cmd *cobra.Command, given []string) error {
			if list {
				return cobra.NoArgs(cmd, given)
			}
			return cobra.ExactArgs(1)(cmd, given)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if list {
				return a.listFormats()
			}
			switch {
			case len(names) == 0:
				return usagef("--format is missing: --list names the formats")
			case to == "":
				return usagef("-o is missing: want a folder, or - for stdout")
			case to == "-" && (len(names) > 1 || names[0] == "all"):
				return usagef("-o -: several files do not fit on stdout: give a folder")
			case to == "-" && a.json:
				return usagef("-o - and --json both want stdout")
			}
			formats, err := export.Lookup(names...)
			if err != nil {
				return withExit(exitUsage, err)
			}
			return a.export(cmd.Context(), args[0], channel, to, o, formats)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&names, "format", nil, "`NAME` of the format, all for every one (repeatable)")
	f.StringVarP(&to, "output", "o", "", "`DIR` to write to; - for stdout, where it is one file")
	f.BoolVar(&list, "list", false, "list the formats")
	channelFlag(cmd, &channel)
	f.StringVar(&o.Root, "root", export.DefaultRoot, "`DIR` of the nodes with a copy of the store, for servers that read files")
	f.StringVar(&o.Gateway, "gateway", export.DefaultGateway, "`NAME` of the Kubernetes Gateway")
	f.StringVar(&o.Namespace, "namespace", "default", "`NAME` of the Kubernetes namespace")
	return cmd
}

func (a *app) listFormats() error {
	type row struct {
		Name  string `json:"name"`
		Reads string `json:"read_by"`
	}
	rows := []row{}
	for _, f := range export.Formats() {
		rows = append(rows, row{f.Name(), f.Reads()})
	}
	if a.json {
		return a.printJSON(rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\n", r.Name, r.Reads)
	}
	return w.Flush()
}

// exportJSON is what export prints with --json.
type exportJSON struct {
	Channel string          `json:"channel"`
	Files   []exportedFile  `json:"files"`
	Models  map[string]int  `json:"models"` // by format
	Skipped []export.Remark `json:"skipped"`
	Notes   []export.Remark `json:"notes"`
}

type exportedFile struct {
	Path string `json:"path"`
	Size int    `json:"size"`
}

func (a *app) export(ctx context.Context, name, channel, to string, o export.Options, formats []export.Format) error {
	all, channel, err := openModels(ctx, name, channel)
	if err != nil {
		return err
	}
	out := exportJSON{Channel: channel, Files: []exportedFile{}, Models: map[string]int{}, Skipped: []export.Remark{}, Notes: []export.Remark{}}
	for _, f := range formats { // one at a time, to keep little in memory
		r, err := export.Export(all, o, f)
		if err != nil {
			return err
		}
		files, err := a.writeExport(to, r.Files)
		if err != nil {
			return err
		}
		out.Files = append(out.Files, files...)
		out.Models[f.Name()] = r.Models[f.Name()]
		out.Skipped, out.Notes = append(out.Skipped, r.Skipped...), append(out.Notes, r.Notes...)
	}
	a.logRemarks(slog.LevelWarn, "left out", out.Skipped)
	a.logRemarks(slog.LevelInfo, "has no place", out.Notes)
	if a.json {
		return a.printJSON(out)
	}
	for _, f := range out.Files {
		fmt.Fprintln(a.stdout, f.Path)
	}
	return nil
}

// writeExport writes files below a folder, or the one that there is to stdout.
func (a *app) writeExport(to string, files []export.File) ([]exportedFile, error) {
	if to == "-" {
		if len(files) > 1 {
			return nil, usagef("-o -: several files do not fit on stdout: give a folder")
		}
		_, err := a.stdout.Write(files[0].Data)
		return nil, err
	}
	if err := export.Write(to, files); err != nil {
		return nil, err
	}
	var out []exportedFile
	for _, f := range files {
		out = append(out, exportedFile{filepath.Join(to, filepath.FromSlash(f.Name)), len(f.Data)})
	}
	return out, nil
}

// mostRemarks is how many remarks on a format are logged one by one.
const mostRemarks = 20

// logRemarks logs remarks, of each format the first ones.
func (a *app) logRemarks(level slog.Level, what string, remarks []export.Remark) {
	seen := map[string]int{}
	for _, r := range remarks {
		if seen[r.Format]++; seen[r.Format] <= mostRemarks {
			a.log.Log(context.Background(), level, what, "format", r.Format, "model", r.Model, "reason", r.Reason)
		}
	}
	for _, f := range slices.Sorted(maps.Keys(seen)) {
		if seen[f] > mostRemarks {
			a.log.Log(context.Background(), level, what+", and more", "format", f, "more", seen[f]-mostRemarks, "all", "with --json")
		}
	}
}
