package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// An output grows as PATH.partial beside its journal PATH.partial.journal,
// which is also the lock that keeps a second process away. It gets its name
// when every byte of it is on the disk.
const (
	partialSuffix = ".partial"
	journalSuffix = ".partial.journal"
)

// PartialName is what the file at path is called until it is complete.
func PartialName(path string) string { return path + partialSuffix }

// syncEvery is how often the data is taken to the disk, so that a power
// failure costs no more than that. A shorter run waits for the disk once.
const syncEvery = 10 * time.Second

// writeEvery is how often the disk is told to begin.
const writeEvery = 200 * time.Millisecond

// Output is a file to be made.
type Output struct {
	Path string
	Plan *Plan
}

// FileOptions is how to make files.
type FileOptions struct {
	RenderOptions

	// Resume goes on with what an interrupted run left. Without it such a
	// rest is thrown away.
	Resume bool

	// Inputs names further things that the bytes depend on, such as the
	// digest of an importance matrix, so that a run does not go on with
	// others.
	Inputs string

	// Discarded, where it is not nil, is told of such a rest.
	Discarded func(path string)

	// Verify, where it is not nil, is called when all is rendered and before
	// an output gets its name.
	Verify func(context.Context) error

	// Keep says whether what is written is worth keeping after an error: one
	// that a later run may not meet. An interrupt always is.
	Keep func(error) bool
}

// An InterruptedError says that the output was left so that a run with
// Resume goes on with it.
type InterruptedError struct {
	Path    string
	Written int64
	Size    int64
	Cause   error
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("%v: %s of %s of %s are written: give --resume to go on", e.Cause, formatBytes(e.Written), formatBytes(e.Size), e.Path)
}

func (e *InterruptedError) Unwrap() error { return e.Cause }

// WriteFiles renders the outputs one after the other and gives them their
// names when all are complete. After an error nothing is left of them, unless
// the error is an *InterruptedError. The results are in the order of outputs.
func WriteFiles(ctx context.Context, outputs []Output, src fs.FS, opts FileOptions) (results []*Result, err error) {
	if opts.Threads <= 0 {
		opts.Threads = runtime.GOMAXPROCS(0)
	}
	var files []*partial
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	need := int64(0)
	for _, o := range outputs {
		f, err := openPartial(o, src, opts)
		if err != nil {
			for _, f := range files {
				f.forget()
			}
			return nil, err
		}
		files = append(files, f)
		need += o.Plan.Size - f.allocated()
	}
	fail := func(err error) ([]*Result, error) {
		keep := ctx.Err() != nil || opts.Keep != nil && opts.Keep(err)
		interrupted := &InterruptedError{Path: outputs[0].Path, Cause: err}
		for i, f := range files {
			interrupted.Size += outputs[i].Plan.Size
			interrupted.Written += f.written
			if !keep {
				f.remove()
			} else if f.data != nil {
				f.log.sync() // a failure costs no more than rendering it again
			}
		}
		if keep {
			return nil, interrupted
		}
		return nil, err
	}
	if len(outputs) > 0 {
		if err := checkSpace(filepath.Dir(outputs[0].Path), need); err != nil {
			for _, f := range files {
				f.forget()
			}
			return nil, err
		}
	}
	for i, f := range files {
		res, err := f.render(ctx, outputs[i], src, opts)
		if err != nil {
			return fail(err)
		}
		results = append(results, res)
	}
	if opts.Verify != nil {
		if err := opts.Verify(ctx); err != nil {
			return fail(err)
		}
	}
	for i, f := range files {
		now, err := sourceFiles(outputs[i].Plan, src)
		if err != nil {
			return fail(err)
		}
		if err := sameSource(now, f.log.id.Source); err != nil {
			return fail(fmt.Errorf("%w it was first read: convert again", err))
		}
	}
	// From here on every byte is on the disk, and only names change.
	for _, f := range files {
		if err := f.commit(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// partial is an output that has not got its name yet.
type partial struct {
	path    string
	log     *journal
	data    *os.File // nil where an earlier run had given it its name
	resumed bool     // an earlier run has written a part of it
	written int64
}

// openPartial locks an output and opens what there is of it.
func openPartial(o Output, src fs.FS, opts FileOptions) (_ *partial, err error) {
	id, err := identify(o.Plan, src, opts)
	if err != nil {
		return nil, err
	}
	if err := mayReplace(o.Path, id.Source, src); err != nil {
		return nil, err
	}
	id.Turned = turnedChunk(opts.Threads)
	file, err := lock(o.Path + journalSuffix)
	if err != nil {
		return nil, err
	}
	p := &partial{path: o.Path, log: &journal{file: file}}
	info, err := file.Stat()
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open journal: %w", err)
	}
	defer func() {
		if err != nil {
			if info.Size() == 0 {
				os.Remove(o.Path + journalSuffix) // it is new
			}
			p.close()
		}
	}()
	resume := opts.Resume && info.Size() > 0
	p.resumed = resume
	if resume {
		if err := p.log.load(id); err != nil {
			return nil, fmt.Errorf("cannot go on with %s: %w: convert again without --resume", o.Path+partialSuffix, err)
		}
	}
	flags := os.O_RDWR | os.O_CREATE
	if resume {
		flags = os.O_RDWR
	}
	p.data, err = os.OpenFile(o.Path+partialSuffix, flags, 0o666)
	if resume && errors.Is(err, fs.ErrNotExist) {
		if done, serr := os.Stat(o.Path); serr == nil && p.log.end != nil && done.Size() == o.Plan.Size {
			p.data = nil
			return p, nil
		}
		return nil, fmt.Errorf("cannot go on with %s: it is gone: convert again without --resume", o.Path+partialSuffix)
	}
	if err != nil {
		return nil, fmt.Errorf("open output: %w", err)
	}
	p.log.data = p.data
	if !resume {
		if info.Size() > 0 && opts.Discarded != nil {
			opts.Discarded(o.Path + partialSuffix)
		}
		if err := p.data.Truncate(0); err != nil {
			return nil, fmt.Errorf("open output: %w", err)
		}
		if err := p.log.start(id); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// mayReplace says whether a new file may take the name path: there must be
// none yet, or one that can be done without.
func mayReplace(path string, source []sourceFile, src fs.FS) error {
	old, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("output: %w", err)
	case !old.Mode().IsRegular():
		return fmt.Errorf("output %s: is not a regular file: want the path of a file", path)
	case old.Mode()&0o222 == 0:
		return fmt.Errorf("output %s: is there and is read-only: remove it or choose another path", path)
	}
	for _, f := range source {
		if info, err := fs.Stat(src, f.Name); err == nil && os.SameFile(old, info) {
			return fmt.Errorf("output %s: is %s of the source: choose another path", path, f.Name)
		}
	}
	return nil
}

// allocated returns how much of the file the disk already holds.
func (p *partial) allocated() int64 {
	if p.data == nil {
		return 0
	}
	return allocatedBytes(p.data)
}

// render completes the unfinished file.
func (p *partial) render(ctx context.Context, o Output, src fs.FS, opts FileOptions) (*Result, error) {
	if p.data == nil {
		res := &Result{Size: o.Plan.Size}
		copy(res.SHA256[:], p.log.end)
		p.written = o.Plan.Size
		if opts.Progress != nil {
			opts.Progress.Done.Add(p.written)
		}
		return res, nil
	}
	if err := p.data.Truncate(o.Plan.Size); err != nil {
		return nil, fmt.Errorf("write output: %w", err)
	}
	opts.log = p.log
	if opts.Progress == nil {
		opts.Progress = new(Progress)
	}
	before := opts.Progress.Done.Load()
	ticking, stop := context.WithCancel(ctx)
	synced := make(chan error, 1)
	go func() {
		tick := time.NewTicker(writeEvery)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-ticking.Done():
				synced <- nil
				return
			case <-tick.C:
				if time.Since(last) < syncEvery {
					startWriting(p.data)
					continue
				}
				last = time.Now()
				if err := p.log.sync(); err != nil {
					synced <- err
					return
				}
			}
		}
	}()
	res, err := Render(ctx, o.Plan, src, p.data, opts.RenderOptions)
	stop()
	syncErr := <-synced
	p.written = opts.Progress.Done.Load() - before
	if err == nil {
		err = syncErr
	}
	if err == nil {
		start := time.Now()
		err = p.log.finish(res.SHA256[:])
		res.Stats.Sync = time.Since(start)
		res.Stats.Wall += res.Stats.Sync
	}
	if err != nil {
		return nil, err
	}
	return res, nil
}

// commit gives the file its name and takes the journal away.
func (p *partial) commit() error {
	if p.data != nil {
		if err := os.Rename(p.path+partialSuffix, p.path); err != nil {
			return fmt.Errorf("name output: %w", err)
		}
	}
	if err := syncDir(filepath.Dir(p.path)); err != nil {
		return fmt.Errorf("name output: %w", err)
	}
	if err := os.Remove(p.path + journalSuffix); err != nil {
		return fmt.Errorf("name output: %w", err)
	}
	return nil
}

// forget leaves nothing of the output that this run has begun, and what an
// earlier one has written as it is.
func (p *partial) forget() {
	if !p.resumed {
		p.remove()
	}
}

// remove leaves nothing of the output.
func (p *partial) remove() {
	if p.data != nil {
		os.Remove(p.path + partialSuffix)
	}
	os.Remove(p.path + journalSuffix)
}

// lock opens the file at path, creating it, and takes the lock on it. A
// process that is killed gives it back.
func lock(path string) (*os.File, error) {
	f, err := filelock.TakePath(path)
	switch {
	case errors.Is(err, filelock.ErrHeld):
		return nil, fmt.Errorf("another process is writing this output: %s is locked", path)
	case err != nil:
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return f, nil
}

// close closes the files, which gives the lock back.
func (p *partial) close() {
	if p.data != nil {
		p.data.Close()
	}
	filelock.Release(p.log.file)
}

// formatBytes writes a size as people read it.
func formatBytes(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), "kMGTPE"
	i := -1
	for v >= 999.5 {
		v /= 1000
		i++
	}
	if v < 9.995 {
		return fmt.Sprintf("%.2f %cB", v, units[i])
	}
	return fmt.Sprintf("%.3g %cB", v, units[i])
}

// checkSpace fails where the file system of dir has no room for need bytes.
func checkSpace(dir string, need int64) error {
	free, err := freeBytes(dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free < need {
		return fmt.Errorf("no space for the output in %s: it needs %s (%d bytes) and %s (%d bytes) are free", dir, formatBytes(need), need, formatBytes(free), free)
	}
	return nil
}
