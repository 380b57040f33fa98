package pipeline

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/trust"
	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/publish"
)

// Variant is what is known of a GGUF file that is to lie in a store.
type Variant struct {
	Model  string // slug
	Name   string // in the curation file
	Preset string
	From   catalog.Provenance
	Report []byte       // of its validation, or nil
	Keys   []*trust.Key // that sign a statement of its provenance; none: there is no statement
}

// Put publishes a GGUF file, all parts of a split one, into the folder of the
// variant, with the digests of its pieces, its record, the report and the
// statement. The record comes last. What is there already and the same is left
// as it is, so a run that was killed is done again.
func (v *Variant) Put(ctx context.Context, o *catalog.Operator, name string, opts publish.Options) (*catalog.Record, error) {
	sink, ok := o.Store.(publish.Sink)
	if !ok {
		return nil, fmt.Errorf("store %v: takes no files", o.Store)
	}
	g, err := gguf.Open(name)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	var files []catalog.File
	pieces := &catalog.Pieces{}
	artifact := &publish.Artifact{}
	for _, p := range g.Parts {
		base := filepath.Base(p.Name)
		f, err := os.Open(filepath.Join(filepath.Dir(name), base))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		cut, err := catalog.CutFile(ctx, f, p.Size)
		if err != nil {
			return nil, err
		}
		pieces.Files = append(pieces.Files, cut)
		files = append(files, catalog.File{Path: base, Size: p.Size, SHA256: cut.SHA256, Role: catalog.RoleModel})
		digest := strings.TrimPrefix(string(cut.SHA256), "sha256:")
		artifact.Files = append(artifact.Files, publish.File{Name: base, Role: publish.RoleModel, Size: p.Size, Content: f, SHA256: digest})
	}
	dir := catalog.VariantDir(v.Model, catalog.VariantID(v.Name, files[0].SHA256))
	record, err := catalog.NewRecord(v.Model, v.Name, v.Preset, g.Header, files, []catalog.Location{{Kind: catalog.KindStore, URI: dir}}, v.From)
	if err != nil {
		return nil, err
	}
	for i := range artifact.Files {
		artifact.Files[i].Name = path.Join(dir, artifact.Files[i].Name)
	}
	var attestation []byte
	if len(v.Keys) > 0 {
		s, err := trust.NewStatement(v.Model, &record.Variant)
		if err != nil {
			return nil, err
		}
		if attestation, err = trust.Attest(ctx, s, v.Keys...); err != nil {
			return nil, err
		}
	}
	opts.Resume = true
	if _, err := sink.Publish(ctx, artifact, opts); err != nil {
		return nil, err
	}
	if err := o.PutPieces(ctx, record, pieces); err != nil {
		return nil, err
	}
	return record, o.PutRecord(ctx, record, v.Report, attestation)
}
