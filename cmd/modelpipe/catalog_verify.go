package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

func init() { registerCatalog(newCatalogVerify) }

// verification is what the flags of catalog verify say.
type verification struct {
	root, state, policy string
	channels            []string
	files               bool
}

// verified is what catalog verify prints.
type verified struct {
	Root      int64             `json:"root"` // versions
	Timestamp int64             `json:"timestamp"`
	Expires   time.Time         `json:"expires"`
	Channels  []verifiedChannel `json:"channels"`
	Log       int64             `json:"log_entries,omitempty"`
}

type verifiedChannel struct {
	Channel    string         `json:"channel"`
	Index      catalog.Digest `json:"index_digest"`
	Models     int64          `json:"models"`
	Objects    int            `json:"objects"`
	Statements int            `json:"statements,omitempty"` // of provenance
	Files      int            `json:"files,omitempty"`
	Bytes      int64          `json:"bytes,omitempty"` // of files
}

func newCatalogVerify(a *app) *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use:   "verify STORE",
		Short: "Verify a store as a client that trusts only a root of keys",
		Long: `Verify follows the signatures of a store from a root that is trusted down to
every entry of its catalogs, and the chain of its log. STORE is a folder,
s3://bucket/prefix or the address of a web server.

--root is the root to trust, root metadata that came from elsewhere. Without it
the first root of the store itself is taken: that shows that the store is
whole, not whose it is. --state keeps what was seen, so that the next run
notices a store that was set back. With --trust statements of provenance must
be signed by the channel's keys; with --files every model file in the store is
read and held to its digest. What does not hold ends with exit code 3.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.catalogVerify(cmd.Context(), args[0], &v)
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.root, "root", "", "the trusted root metadata, a `FILE`")
	f.StringVar(&v.state, "state", "", "the `FOLDER` that keeps what was seen")
	f.StringVar(&v.policy, "trust", "", "hold provenance to the channel's keys of the policy `FILE`")
	f.StringSliceVar(&v.channels, "channel", nil, "verify these `CHANNELS` (default: those that the store lists, or stable)")
	f.BoolVar(&v.files, "files", false, "read every model file in the store")
	return cmd
}

func (a *app) catalogVerify(ctx context.Context, target string, v *verification) (err error) {
	fetch, err := openCatalog(ctx, target)
	if err != nil {
		return err
	}
	var store publish.Store
	if !pipeline.IsURL(target) {
		if store, err = openStore(target); err != nil {
			return err
		}
	}
	root, err := v.trustedRoot(ctx, a, fetch)
	if err != nil {
		return err
	}
	if v.state == "" {
		if v.state, err = os.MkdirTemp("", "modelpipe-verify-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(v.state)) }()
	}
	client, err := trust.NewClient(trust.ClientOptions{Root: root, Dir: v.state, Fetch: fetch})
	if err != nil {
		return withExit(exitGate, err)
	}
	state, err := client.Refresh(ctx)
	if err != nil {
		return err
	}
	channels, err := v.listed(ctx, store)
	if err != nil {
		return err
	}
	out := verified{Root: state.Root, Timestamp: state.Timestamp, Expires: state.Expires}
	for _, name := range channels {
		c, err := v.channel(ctx, state, fetch, store, name)
		if err != nil {
			return withExit(exitCode3(err), fmt.Errorf("verify channel %s: %w", name, err))
		}
		out.Channels = append(out.Channels, *c)
	}
	if store != nil {
		for _, name := range channels {
			anchor, err := state.Anchor(ctx, name)
			if err != nil {
				return err
			}
			if out.Log, err = catalog.NewLog(store).Verify(ctx, time.Now(), anchor); err != nil {
				return withExit(exitCode3(err), fmt.Errorf("verify: %w", err))
			}
		}
	}
	if a.json {
		return a.printJSON(out)
	}
	for _, c := range out.Channels {
		text := fmt.Sprintf("%s: %d models, %s, %d objects", c.Channel, c.Models, c.Index, c.Objects)
		if c.Statements > 0 {
			text += fmt.Sprintf(", %d statements of provenance", c.Statements)
		}
		if v.files {
			text += fmt.Sprintf(", %d files of %d bytes", c.Files, c.Bytes)
		}
		if _, err := fmt.Fprintln(a.stdout, text); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.stdout, "root %d, timestamp %d, valid until %s, %d entries of the log\n", out.Root, out.Timestamp, out.Expires.Format(time.RFC3339), out.Log)
	return err
}

// exitCode3 is the code of what did not hold, or of a store that is not there.
func exitCode3(err error) int {
	if errors.Is(err, publish.ErrUnavailable) {
		return exitUnavailable
	}
	return exitGate
}

// trustedRoot reads the root that is trusted.
func (v *verification) trustedRoot(ctx context.Context, a *app, f catalog.Fetcher) ([]byte, error) {
	const most = 64 << 10
	if v.root == "" {
		a.log.Warn("no --root: the store's own first root is trusted; this shows that the store is whole, not whose it is")
		data, err := f.Fetch(ctx, "metadata/1.root.json", most)
		if err != nil {
			return nil, fmt.Errorf("nothing is signed there: %w", err)
		}
		return data, nil
	}
	dir, base := filepath.Split(v.root)
	if dir == "" {
		dir = "."
	}
	return catalog.FromFS(os.DirFS(dir)).Fetch(ctx, base, most)
}

// listed returns the channels to verify.
func (v *verification) listed(ctx context.Context, s publish.Store) ([]string, error) {
	if len(v.channels) > 0 {
		return v.channels, nil
	}
	if s == nil {
		return []string{catalog.DefaultChannel}, nil
	}
	var out []string
	for e, err := range s.List(ctx, "channels/") {
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(path.Base(e.Name), ".json")
		if catalog.IndexName(name) == e.Name && !strings.Contains(name, ".") {
			out = append(out, name)
		}
	}
	return out, nil
}

// channel verifies a channel down to its files.
func (v *verification) channel(ctx context.Context, state *trust.State, f catalog.Fetcher, store publish.Store, name string) (*verifiedChannel, error) {
	r, err := state.Channel(ctx, name)
	if err != nil {
		return nil, err
	}
	index, err := catalog.Encode(r.Index())
	if err != nil {
		return nil, err
	}
	out := &verifiedChannel{Channel: name, Index: catalog.DigestOf(index), Models: r.Index().Models}
	for _, err := range r.Refs(ctx) {
		if err != nil {
			return nil, err
		}
		out.Objects++
	}
	var keys []*trust.Key
	if v.policy != "" {
		p, err := trust.ReadPolicy(v.policy)
		if err != nil {
			return nil, err
		}
		if keys, err = p.ChannelKeys(name); err != nil {
			return nil, err
		}
	}
	for part, err := range r.Parts(ctx) {
		if err != nil {
			return nil, err
		}
		for i := range part.Models {
			m := &part.Models[i]
			if err := m.Validate(); err != nil {
				return nil, err
			}
			for j := range m.Variants {
				if err := v.variant(ctx, f, store, keys, m.Slug, &m.Variants[j], out); err != nil {
					return nil, err
				}
			}
		}
	}
	return out, nil
}

// variant verifies what lies beside a variant, and its files.
func (v *verification) variant(ctx context.Context, f catalog.Fetcher, store publish.Store, keys []*trust.Key, model string, x *catalog.Variant, out *verifiedChannel) error {
	links := []*catalog.Link{x.Provenance.Attestation, x.Pieces}
	if x.Quality != nil {
		links = append(links, x.Quality.Report)
	}
	for _, l := range links {
		if l == nil || strings.Contains(l.URI, "://") {
			continue
		}
		data, err := f.Fetch(ctx, l.URI, l.Size)
		if err != nil {
			return fmt.Errorf("model %s: %w", model, err)
		}
		if got := catalog.DigestOf(data); got != l.SHA256 {
			return fmt.Errorf("model %s: %s: has digest %s, want %s", model, l.URI, got, l.SHA256)
		}
		if l != x.Provenance.Attestation {
			continue
		}
		out.Statements++
		if keys != nil {
			if _, err := trust.VerifyAttestation(data, x, keys...); err != nil {
				return fmt.Errorf("model %s: %s: %w", model, l.URI, err)
			}
		}
	}
	sink, ok := store.(publish.Sink)
	if !v.files || !ok {
		return nil
	}
	for _, l := range x.Locations {
		if l.Kind != catalog.KindStore {
			continue
		}
		for _, file := range x.Files {
			name := path.Join(l.URI, file.Path)
			if err := verifyFile(ctx, sink, name, file); err != nil {
				return fmt.Errorf("model %s: %s: %w", model, name, err)
			}
			out.Files++
			out.Bytes += file.Size
		}
	}
	return nil
}

// verifyFile reads a file of a store and holds it to its digest.
func verifyFile(ctx context.Context, sink publish.Sink, name string, want catalog.File) (err error) {
	r, size, err := sink.Open(ctx, name, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if size != want.Size {
		return fmt.Errorf("has %d bytes, want %d", size, want.Size)
	}
	got, err := bulkhash.Digest(ctx, io.LimitReader(r, size))
	if err == nil && catalog.Digest("sha256:"+got) != want.SHA256 {
		err = fmt.Errorf("has digest sha256:%s, want %s", got, want.SHA256)
	}
	return err
}
