package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/modelpipe/modelpipe/convert"
	"github.com/modelpipe/modelpipe/pipeline"
	"github.com/modelpipe/modelpipe/publish"
)

// convertTo renders the outputs straight into a remote target.
func (a *app) convertTo(ctx context.Context, s *pipeline.Source, c *conversion, m *making, p *convert.Plan, outputs []convert.Output, target string, device *accelerated) (*publish.Receipt, error) {
	sink, err := publish.Open(target)
	if err != nil {
		return nil, withExit(exitUsage, err)
	}
	opts := convert.FileOptions{
		RenderOptions: convert.RenderOptions{Threads: m.threads, AllowNonfinite: m.allow, Imatrix: c.importance, Encoder: encoderOf(device)},
		Inputs:        c.digests + device.inputs(),
	}
	artifact := &publish.Artifact{Model: describeModel(&p.Header)}
	identities := make([]string, len(outputs))
	for i, o := range outputs {
		view, err := convert.NewView(o.Plan, s.FS, opts.RenderOptions)
		if err != nil {
			return nil, err
		}
		defer view.Close()
		if identities[i], err = convert.Identity(o.Plan, s.FS, opts); err != nil {
			return nil, err
		}
		artifact.Files = append(artifact.Files, publish.File{
			Name: o.Path, Role: publish.RoleModel, Size: o.Plan.Size, Content: view, Identity: identities[i],
		})
	}
	if strings.HasPrefix(target, "oci://") {
		artifact.Files = append(artifact.Files, derivedFiles(&p.Header)...)
		if license, ok := sourceLicense(s.FS); ok {
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
				now, err := convert.Identity(o.Plan, s.FS, opts)
				if err != nil {
					return err
				}
				if now != identities[i] {
					return errors.New("a file of the source has changed since it was first read: convert again")
				}
			}
			if s.Snapshot == nil {
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
