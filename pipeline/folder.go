package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/internal/wholefile"
)

// This file says what a folder with a model holds: its digest takes the place
// of a commit.

// Bounds of a folder.
const (
	maxFolderFiles = 100_000
	maxDigestCache = 64 << 20
)

// settled is how old a change of a file must be for its time to tell it from
// the next one.
const settled = 2 * time.Second

// fileDigest is what is remembered of a file whose content was read.
type fileDigest struct {
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256"`
}

// folderDigest returns the digest of the files of a folder and their bytes,
// and of its README. It is the dirHash of in-toto: SHA-256 over a line for each
// file, in the order of their names, as sha256sum prints it
// (golang.org/x/mod/sumdb/dirhash, Hash1). What is in cache, a file that may be
// missing, is not read again where size and time are the same.
func folderDigest(ctx context.Context, dir, cache string) (digest string, size int64, err error) {
	known := map[string]fileDigest{}
	if data, err := os.ReadFile(cache); err == nil && len(data) <= maxDigestCache {
		if json.Unmarshal(data, &known) != nil {
			known = map[string]fileDigest{}
		}
	}
	now := map[string]fileDigest{}
	h := sha256.New()
	began := time.Now()
	root := os.DirFS(dir)
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := fs.Stat(root, name) // through links, as those of the Hub's cache
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		if len(now) == maxFolderFiles {
			return fmt.Errorf("has more than %d files", maxFolderFiles)
		}
		f := fileDigest{Size: info.Size(), Modified: info.ModTime().UTC()}
		if old, ok := known[name]; ok && old.Size == f.Size && old.Modified.Equal(f.Modified) {
			f.SHA256 = old.SHA256
		} else if f.SHA256, err = digestFile(ctx, filepath.Join(dir, filepath.FromSlash(name))); err != nil {
			return err
		}
		now[name] = f
		size += f.Size
		fmt.Fprintf(h, "%s  %s\n", f.SHA256, name)
		return nil
	})
	if err != nil {
		return "", 0, fmt.Errorf("folder %s: %w", dir, err)
	}
	if len(now) == 0 {
		return "", 0, fmt.Errorf("folder %s: has no files", dir)
	}
	for name, f := range now {
		if began.Sub(f.Modified) < settled {
			delete(now, name) // it may change again within the same time
		}
	}
	if cache != "" {
		if err := writeJSON(cache, now); err != nil {
			return "", 0, err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// digestFile returns the SHA-256 of a file, in hexadecimal.
func digestFile(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return bulkhash.Digest(ctx, f)
}

// writeJSON writes a document whole, in a folder that is made where it is not
// there.
func writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(name, append(data, '\n'))
}

// writeFile writes a file whole, in a folder that is made where it is not there.
func writeFile(name string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	return wholefile.Write(name, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
