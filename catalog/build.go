package catalog

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/publish"
)

// BuildOptions is what a build of the catalog needs.
type BuildOptions struct {
	Curation *Curation
	Store    publish.Store // has the records, reports and ledgers
	Output   publish.Store // gets the catalog; nil: Store
	Channels []string      // to build; none: every channel of the curation
	Plain    bool          // write what is compressed also as it is
	Rewrite  bool          // write every object anew, whatever the store has
	Workers  int           // models that are read at once; 0: by the processors
}

// BuildResult is what a build wrote.
type BuildResult struct {
	Channels []ChannelResult `json:"channels"`
	Skipped  []Skipped       `json:"skipped,omitempty"` // by slug
}

// ChannelResult is what a build wrote of a channel.
type ChannelResult struct {
	Channel string `json:"channel"`
	Models  int64  `json:"models"`
	Parts   int64  `json:"parts"`
	Objects int    `json:"objects_written"` // the root index among them
	Bytes   int64  `json:"bytes_written"`
	Index   Digest `json:"index_digest"`
	Changed bool   `json:"changed"`
}

// Skipped is a model, or a variant of one, that the catalog does not have.
type Skipped struct {
	Model   string `json:"model"`
	Variant string `json:"variant,omitempty"` // name
	Channel string `json:"channel,omitempty"`
	Reason  string `json:"reason"`
	Failed  bool   `json:"failed,omitempty"` // something is wrong with it
	Kept    bool   `json:"kept,omitempty"`   // the entry of before was kept
}

// ErrRace says that another builder wrote the same channel in the meantime.
var ErrRace = errors.New("another builder has written this channel in the meantime: nothing was changed; build again")

// Build makes the catalog of what was published: for each channel the tree,
// and last its root index, by compare-and-swap. What has not changed is not
// written again; nothing is deleted. Equal inputs make equal bytes.
func Build(ctx context.Context, o BuildOptions) (*BuildResult, error) {
	if o.Output == nil {
		o.Output = o.Store
	}
	if o.Workers < 1 {
		o.Workers = 2 * runtime.GOMAXPROCS(0)
	}
	channels := o.Channels
	if len(channels) == 0 {
		channels = o.Curation.AllChannels()
	}
	roots := map[string]publish.Version{} // before anything is read
	for _, name := range channels {
		_, version, err := o.Output.Get(ctx, IndexName(name), MaxIndex)
		if err != nil && !errNotThere(err) {
			return nil, fmt.Errorf("build channel %s: %w", name, err)
		}
		roots[name] = version
	}
	b := &builder{o: o, pairings: map[string][]Pairing{}}
	for _, p := range o.Curation.Pairings {
		b.pairings[p.Light] = append(b.pairings[p.Light], p)
		b.pairings[p.Heavy] = append(b.pairings[p.Heavy], p)
	}
	var err error
	if b.shelf, err = readShelf(ctx, o.Store); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	result := &BuildResult{}
	for _, name := range channels {
		w := &treeWriter{store: o.Output, channel: name, plain: o.Plain, there: map[string]bool{}}
		w.recall(ctx, o.Rewrite)
		c, err := b.channel(ctx, w, roots[name])
		if err != nil {
			return nil, fmt.Errorf("build channel %s: %w", name, err)
		}
		result.Channels = append(result.Channels, c)
	}
	slices.SortFunc(b.skipped, func(x, y Skipped) int {
		return strings.Compare(x.Model+"\x00"+x.Variant+"\x00"+x.Channel, y.Model+"\x00"+y.Variant+"\x00"+y.Channel)
	})
	result.Skipped = b.skipped
	return result, nil
}

// AllChannels returns the channels that models of the curation are in, in
// order.
func (c *Curation) AllChannels() []string {
	out := slices.Clone(c.Channels)
	for i := range c.Models {
		for _, name := range c.Models[i].Channels {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

// shelf is what a store has of models: the names of their documents.
type shelf map[string]*shelved // by slug

type shelved struct {
	ledger   bool
	variants map[string]*documents // by ID
}

// documents are those in the folder of a variant.
type documents struct{ record, report, attestation bool }

func readShelf(ctx context.Context, s publish.Store) (shelf, error) {
	out := shelf{}
	for e, err := range s.List(ctx, "models/") {
		if err != nil {
			return nil, err
		}
		slug, rest, ok := strings.Cut(strings.TrimPrefix(e.Name, "models/"), "/")
		if !ok {
			continue
		}
		m := out[slug]
		if m == nil {
			m = &shelved{variants: map[string]*documents{}}
			out[slug] = m
		}
		id, name, ok := strings.Cut(rest, "/")
		if !ok {
			m.ledger = m.ledger || e.Name == LedgerName(slug)
			continue
		}
		switch name {
		case RecordName, ReportName, AttestationName:
		default:
			continue
		}
		d := m.variants[id]
		if d == nil {
			d = &documents{}
			m.variants[id] = d
		}
		switch name {
		case RecordName:
			d.record = true
		case ReportName:
			d.report = true
		case AttestationName:
			d.attestation = true
		}
	}
	return out, nil
}

type builder struct {
	o        BuildOptions
	shelf    shelf
	pairings map[string][]Pairing // by slug

	mu      sync.Mutex
	skipped []Skipped
}

func (b *builder) skip(s Skipped) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.skipped = append(b.skipped, s)
}

// channel writes the tree of a channel and, where it is another than before,
// its root index.
func (b *builder) channel(ctx context.Context, w *treeWriter, prior publish.Version) (ChannelResult, error) {
	var models []*Curated
	aliases := map[string]string{}
	for i := range b.o.Curation.Models {
		m := &b.o.Curation.Models[i]
		if !slices.Contains(m.Channels, w.channel) {
			continue
		}
		if b.shelf[m.Slug] == nil {
			b.skip(Skipped{Model: m.Slug, Channel: w.channel, Reason: "nothing was published"})
			continue
		}
		models = append(models, m)
		for _, alias := range m.Aliases {
			aliases[alias] = m.Slug
		}
	}
	slices.SortFunc(models, func(x, y *Curated) int { return strings.Compare(x.Slug, y.Slug) })
	bits := treeBits(len(models))
	parts := make([][]*Curated, 1<<bits)
	for _, m := range models {
		i := partOf(m.Slug, bits)
		parts[i] = append(parts[i], m)
	}
	root, err := w.write(ctx, bits, b.o.Workers, aliases, func(ctx context.Context, i int) ([]Model, error) {
		var out []Model
		for _, c := range parts[i] {
			m, err := b.model(ctx, c, w.channel)
			if err != nil && b.mayKeep(ctx, err) {
				m, err = b.keep(ctx, w, c, err)
			}
			if err != nil {
				return nil, fmt.Errorf("model %s: %w", c.Slug, err)
			}
			if m != nil {
				out = append(out, *m)
			}
		}
		return out, nil
	})
	if err != nil {
		return ChannelResult{}, err
	}
	data, err := Encode(root)
	if err != nil {
		return ChannelResult{}, err
	}
	r := ChannelResult{Channel: w.channel, Models: root.Models, Parts: 1 << bits, Objects: w.objects, Bytes: w.bytes, Index: DigestOf(data)}
	old, version, err := w.store.Get(ctx, IndexName(w.channel), MaxIndex)
	if err != nil && !errNotThere(err) {
		return ChannelResult{}, err
	}
	if err == nil && string(old) == string(data) {
		return r, nil // the same, whoever wrote it
	}
	if version != prior {
		return ChannelResult{}, ErrRace
	}
	if _, err := w.store.Put(ctx, IndexName(w.channel), data, prior); err != nil {
		if errors.Is(err, publish.ErrChanged) {
			return ChannelResult{}, fmt.Errorf("%w (%w)", ErrRace, err)
		}
		return ChannelResult{}, err
	}
	r.Changed, r.Objects, r.Bytes = true, r.Objects+1, r.Bytes+int64(len(data))
	return r, nil
}

// mayKeep says whether an error is of the model alone. Where the store fails,
// so does the build.
func (b *builder) mayKeep(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, publish.ErrUnavailable) && !errors.Is(err, publish.ErrRefused)
}

// keep deals with a model that cannot be made: it does not stop the others,
// and where the catalog has it already and none of its active releases was
// taken back since, it stays as it is there.
func (b *builder) keep(ctx context.Context, w *treeWriter, c *Curated, why error) (*Model, error) {
	s := Skipped{Model: c.Slug, Channel: w.channel, Reason: why.Error(), Failed: true}
	defer func() { b.skip(s) }()
	if w.old == nil {
		return nil, nil
	}
	m, err := w.old.Lookup(ctx, c.Slug)
	if errors.Is(err, ErrNoModel) || err == nil && m.Slug != c.Slug {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if b.shelf[c.Slug].ledger {
		l, err := ReadLedger(ctx, b.o.Store, c.Slug)
		if err != nil {
			return nil, nil // who knows what was withdrawn
		}
		for _, r := range m.Active() {
			if now, err := l.find(w.channel, r.Version); err != nil || now.State != StateActive {
				return nil, nil
			}
		}
	}
	s.Kept = true
	return m, nil
}

// maxReleases bounds the history that a catalog shows of a model.
const maxReleases = 100

// model makes the entry of a model in a channel, or nil where nothing of it
// can be offered there.
func (b *builder) model(ctx context.Context, c *Curated, channel string) (*Model, error) {
	have := b.shelf[c.Slug]
	records := map[string]*Record{}
	record := func(id string) (*Record, error) {
		if r, ok := records[id]; ok {
			return r, nil
		}
		r, err := b.record(ctx, c.Slug, id, have.variants[id])
		if err != nil {
			return nil, err
		}
		records[id] = r
		return r, nil
	}
	var releases []Release
	if have.ledger {
		l, err := ReadLedger(ctx, b.o.Store, c.Slug)
		if err != nil {
			return nil, err
		}
		releases = l.In(channel)
	} else {
		r, err := b.implied(c, channel, have, record)
		if err != nil {
			return nil, err
		}
		if r != nil {
			releases = []Release{*r}
		}
	}
	if len(releases) == 0 {
		b.skip(Skipped{Model: c.Slug, Channel: channel, Reason: "no release in this channel"})
		return nil, nil
	}
	if len(releases) > maxReleases {
		releases = releases[:maxReleases]
	}
	m := &Model{
		Slug: c.Slug, Aliases: c.Aliases, Vendor: c.Vendor, DisplayName: c.DisplayName, Description: c.Description, Homepage: c.Homepage,
		Task: c.Task, Modalities: *c.Modalities, Languages: c.Languages, Tags: c.Tags,
		ContextWindow: c.ContextWindow, MaxOutputTokens: c.MaxOutputTokens, Parameters: Parameters{Active: c.Active},
		Capabilities: c.Capabilities, License: c.License, Deprecated: c.Deprecated,
		Releases: releases, Serving: *c.Serving, Pairings: b.pairings[c.Slug],
	}
	if !c.Released.IsZero() {
		m.Released = utc(c.Released)
	}
	if m.Deprecated != nil {
		d := *m.Deprecated
		d.At = utc(d.At)
		m.Deprecated = &d
	}
	var err error
	if m.Extensions, err = c.Extensions.encode(); err != nil {
		return nil, err
	}
	// Variants are those that a node may be asked to fetch: of what is active
	// or about to be, and of what may be gone back to.
	retired := 0
	var facts *Record
	for i := range m.Releases {
		r := &m.Releases[i]
		m.Created = earlier(m.Created, r.Created)
		m.Updated = later(m.Updated, later(r.Created, r.Promoted))
		switch r.State {
		case StateWithdrawn:
			m.Updated = later(m.Updated, r.Withdrawn.At)
			continue
		case StateRetired:
			if retired++; retired > keptRetired {
				continue
			}
		}
		for _, id := range r.Variants {
			if _, ok := m.Variant(id); ok {
				continue
			}
			rec, err := record(id)
			if err != nil {
				return nil, fmt.Errorf("release %d: %w", r.Version, err)
			}
			v := rec.Variant
			v.Locations = b.locations(c.Slug, v)
			v.Provenance.BaseModels = c.BaseModels
			m.Variants = append(m.Variants, v)
		}
	}
	if len(m.Variants) == 0 {
		m.Variants = []Variant{}
	}
	if current := m.Current(); current != nil {
		facts = records[current.Variants[0]]
	}
	for _, r := range m.Releases {
		if id := r.Variants[0]; facts == nil && have.variants[id] != nil && have.variants[id].record {
			if facts, err = record(id); err != nil {
				return nil, fmt.Errorf("release %d: %w", r.Version, err)
			}
		}
	}
	slices.SortFunc(m.Variants, func(x, y Variant) int {
		if x.Size != y.Size {
			return int(max(-1, min(1, x.Size-y.Size)))
		}
		return strings.Compare(x.ID, y.ID)
	})
	if facts == nil {
		b.skip(Skipped{Model: c.Slug, Channel: channel, Reason: "every release was withdrawn, and no record is left"})
		return nil, nil
	}
	if err := m.facts(c, facts); err != nil {
		return nil, err
	}
	return m, m.Validate()
}

// keptRetired is how many of the retired releases keep their files.
const keptRetired = 2

// facts takes over what the files say where people say nothing.
func (m *Model) facts(c *Curated, r *Record) error {
	m.Architecture, m.Parameters.Total = r.Architecture, r.Parameters
	if m.ContextWindow == 0 {
		m.ContextWindow = r.ContextWindow
	}
	if m.ContextWindow == 0 {
		return errors.New("context_window is missing, and the files do not say it")
	}
	if m.Serving.ContextTokens == 0 || m.Serving.ContextTokens > m.ContextWindow && c.ContextWindow == 0 {
		m.Serving.ContextTokens = m.ContextWindow
	}
	if m.Task == TextEmbeddings {
		e := Embedding{}
		if c.Embedding != nil {
			e = *c.Embedding
		}
		if r.Embedding != nil {
			if e.Dimensions == 0 {
				e.Dimensions = r.Embedding.Dimensions
			}
			if e.Pooling == "" {
				e.Pooling = r.Embedding.Pooling
			}
		}
		if e.Dimensions == 0 || e.Pooling == "" {
			return errors.New("embedding.dimensions or embedding.pooling is missing, and the files do not say it")
		}
		m.Embedding = &e
	}
	p := Prompt{}
	if c.Prompt != nil {
		p = *c.Prompt
	}
	own := p.Template != ""
	if !own {
		p.Template = r.Template
	}
	if p.Template != "" {
		digest := DigestOf([]byte(p.Template))
		if p.TemplateDigest != "" && p.TemplateDigest != digest {
			return fmt.Errorf("the chat template has digest %s, want %s as the curation file says", digest, p.TemplateDigest)
		}
		p.TemplateDigest = digest
	} else if p.TemplateDigest != "" {
		return errors.New("prompt.template_digest is given, but the files have no chat template")
	}
	for _, text := range c.TemplateHas {
		if !strings.Contains(p.Template, text) {
			return fmt.Errorf("the chat template does not have %s, as template_has wants", quoted(text))
		}
	}
	if p.BOS == "" {
		p.BOS = r.BOS
	}
	if p.EOS == "" {
		p.EOS = r.EOS
	}
	if m.Task == TextGeneration || p.Template != "" {
		m.Prompt = &p
	}
	return nil
}

// implied is the release of a model that has no ledger: of each variant that
// people ask for the newest record whose gates held.
func (b *builder) implied(c *Curated, channel string, have *shelved, record func(string) (*Record, error)) (*Release, error) {
	r := &Release{Version: 1, Channel: channel, Slot: Blue, State: StateActive, Weight: 100}
	for _, wanted := range c.Variants {
		var best *Record
		failed := 0
		for id, d := range have.variants {
			if !d.record || !strings.HasPrefix(id, strings.ToLower(wanted.Name)+"-") {
				continue
			}
			rec, err := record(id)
			if err != nil {
				return nil, err
			}
			if rec.Variant.Name != wanted.Name {
				continue
			}
			if !rec.Variant.Quality.Passed() {
				failed++
				continue
			}
			newer := best == nil || rec.Variant.Provenance.Created.After(best.Variant.Provenance.Created)
			if best != nil && rec.Variant.Provenance.Created.Equal(best.Variant.Provenance.Created) {
				newer = rec.Variant.ID > best.Variant.ID
			}
			if newer {
				best = rec
			}
		}
		if best == nil {
			reason := "was not published"
			if failed > 0 {
				reason = "a gate did not hold"
			}
			b.skip(Skipped{Model: c.Slug, Variant: wanted.Name, Channel: channel, Reason: reason})
			continue
		}
		r.Variants = append(r.Variants, best.Variant.ID)
		r.Created = later(r.Created, best.Variant.Provenance.Created)
	}
	if len(r.Variants) == 0 {
		return nil, nil
	}
	r.Created = utc(r.Created)
	r.Promoted = r.Created
	return r, nil
}

// record reads the record of a variant with what lies beside it.
func (b *builder) record(ctx context.Context, slug, id string, d *documents) (*Record, error) {
	dir := VariantDir(slug, id)
	if d == nil || !d.record {
		return nil, fmt.Errorf("variant %s: %s is not there", id, path.Join(dir, RecordName))
	}
	data, _, err := b.o.Store.Get(ctx, path.Join(dir, RecordName), maxRecord)
	if err != nil {
		return nil, fmt.Errorf("variant %s: %w", id, err)
	}
	r, err := DecodeRecord(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Join(dir, RecordName), err)
	}
	if r.Model != slug || r.Variant.ID != id {
		return nil, fmt.Errorf("%s: is of variant %s of model %s", path.Join(dir, RecordName), r.Variant.ID, r.Model)
	}
	if d.report && r.Variant.Quality == nil {
		name := path.Join(dir, ReportName)
		data, _, err := b.o.Store.Get(ctx, name, maxReport)
		if err != nil {
			return nil, err
		}
		if r.Variant.Quality, err = readQuality(name, data, r.Variant.Files[0].SHA256); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if d.attestation && r.Variant.Provenance.Attestation == nil {
		name := path.Join(dir, AttestationName)
		data, _, err := b.o.Store.Get(ctx, name, maxAttestation)
		if err != nil {
			return nil, err
		}
		r.Variant.Provenance.Attestation = attestationLink(name, data)
	}
	return r, nil
}

// locations adds those of the mirrors to a variant that the store has.
func (b *builder) locations(slug string, v Variant) []Location {
	dir := VariantDir(slug, v.ID)
	if !slices.ContainsFunc(v.Locations, func(l Location) bool { return l.Kind == KindStore && l.URI == dir }) {
		return v.Locations
	}
	var first, last []Location
	for _, m := range b.o.Curation.Mirrors {
		l := Location{Kind: m.Kind, URI: strings.TrimSuffix(m.URI, "/") + "/" + dir, Region: m.Region, Endpoint: m.Endpoint}
		if m.First {
			first = append(first, l)
		} else {
			last = append(last, l)
		}
	}
	return slices.Concat(first, v.Locations, last)
}

// ReadLedger reads the releases of a model.
func ReadLedger(ctx context.Context, s publish.Store, slug string) (*Ledger, error) {
	l, _, err := readLedger(ctx, s, slug)
	return l, err
}

func readLedger(ctx context.Context, s publish.Store, slug string) (*Ledger, publish.Version, error) {
	name := LedgerName(slug)
	data, version, err := s.Get(ctx, name, maxLedger)
	if err != nil {
		return nil, version, err
	}
	l, err := DecodeLedger(data)
	if err != nil {
		return nil, version, fmt.Errorf("%s: %w", name, err)
	}
	if l.Model != slug {
		return nil, version, fmt.Errorf("%s: is of model %s", name, l.Model)
	}
	return l, version, nil
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
