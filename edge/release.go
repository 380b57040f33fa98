package edge

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/publish"
)

// A node's folder:
//
//	blobs/sha256/HEX           files by digest, verified, read-only
//	blobs/sha256/HEX.partial   a file that is being fetched, and HEX.partial.journal
//	pieces/HEX.json            the pieces of a file
//	releases/N/release.json    what release N of the node holds
//	releases/N/MODEL/NAME/PATH links into blobs
//	current                    link to releases/N, the release to serve
//	trust/                     what was verified of the signatures
//	objects/                   objects of the catalog, by digest
//	state.json, .lock
const (
	releasesName = "releases"
	currentName  = "current"
	releaseFile  = "release.json"
	maxRelease   = 64 << 20
)

var number = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

// hexOf is the digest without its algorithm.
func hexOf(d catalog.Digest) string { return strings.TrimPrefix(string(d), "sha256:") }

var hexForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// fileLink is the link of a file in a release.
func fileLink(e Entry, f catalog.File) (name, target string) {
	name = path.Join(e.Model, e.Name, f.Path)
	return name, strings.Repeat("../", 2+strings.Count(name, "/")) + "blobs/sha256/" + hexOf(f.SHA256)
}

// check holds an entry that was read from the disk to what names may be.
func (e Entry) check() error {
	for _, name := range []string{e.Model, e.Name} {
		if err := publish.CheckName(name); err != nil || strings.Contains(name, "/") {
			return fmt.Errorf("name %.80q", name)
		}
	}
	for _, f := range e.Files {
		if err := publish.CheckName(f.Path); err != nil {
			return err
		}
		if !hexForm.MatchString(hexOf(f.SHA256)) || f.Size < 0 {
			return fmt.Errorf("file %s: digest %.80q", f.Path, f.SHA256)
		}
	}
	return nil
}

// currentNumber is the number of the current release, or 0 where there is
// none that is the node's.
func (n *Node) currentNumber() int64 {
	target, err := n.home.root.Readlink(currentName)
	if err != nil {
		return 0
	}
	text, ok := strings.CutPrefix(target, releasesName+"/")
	if !ok || !number.MatchString(text) {
		return 0
	}
	i, _ := strconv.ParseInt(text, 10, 64)
	return i
}

// readRelease reads what a release holds; the error wraps fs.ErrNotExist where
// there is none of the number.
func (n *Node) readRelease(i int64) (*Release, error) {
	d, err := n.releaseFolder(i)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	data, err := d.read(releaseFile, maxRelease)
	if err != nil {
		return nil, err
	}
	var r Release
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		return nil, fmt.Errorf("release %d: %w", i, err)
	}
	if r.Number != i {
		return nil, fmt.Errorf("release %d: says that it is %d", i, r.Number)
	}
	for _, e := range r.Models {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("release %d: model %.80q: %w", i, e.Model, err)
		}
	}
	return &r, nil
}

// releaseFolder opens the folder of a release that is there.
func (n *Node) releaseFolder(i int64) (*folder, error) {
	if i < 1 {
		return nil, fs.ErrNotExist
	}
	name := strconv.FormatInt(i, 10)
	info, err := n.releases.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s: is not a folder", n.releases.name(name))
	}
	return n.releases.dir(name)
}

// whole says what is wrong with a release on the disk: a link that leads
// elsewhere, a file that is missing or has changed.
func (n *Node) whole(r *Release) error {
	d, err := n.releaseFolder(r.Number)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, e := range r.Models {
		for _, f := range e.Files {
			name, want := fileLink(e, f)
			if err := plainFolders(d.root, path.Dir(name)); err != nil {
				return err
			}
			got, err := d.root.Readlink(name)
			if err != nil || got != want {
				return fmt.Errorf("%s: is not the link to its file", d.name(name))
			}
			if err := n.verified(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// plainFolders says whether every element of a path is a folder, not a link.
func plainFolders(root *os.Root, name string) error {
	for at := name; at != "."; at = path.Dir(at) {
		info, err := root.Lstat(at)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s: is not a folder", path.Join(root.Name(), at))
		}
	}
	return nil
}

// has says whether a file is there and verified, without reading it.
func (n *Node) has(f catalog.File) bool {
	info, err := n.blobs.root.Lstat(hexOf(f.SHA256))
	return err == nil && info.Mode().IsRegular() && info.Size() == f.Size && n.state.Files[hexOf(f.SHA256)] == stampOf(info)
}

// verified makes sure that a file is there with its content. One that looks
// as it did when it was verified is not read again. One whose content is
// another is taken away.
func (n *Node) verified(f catalog.File) error {
	if n.has(f) {
		return nil
	}
	hex := hexOf(f.SHA256)
	delete(n.state.Files, hex)
	file, info, err := n.blobs.open(hex, os.O_RDONLY)
	if err == nil {
		defer file.Close()
		var got string
		if info.Size() != f.Size {
			err = fmt.Errorf("has %d bytes, want %d", info.Size(), f.Size)
		} else if got, err = sum(file); err == nil && got != hex {
			err = fmt.Errorf("has digest %s", got)
		}
		if err == nil {
			n.state.Files[hex] = stampOf(info)
			return nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("a file is not what it was and is fetched again", "file", n.blobs.name(hex), "reason", err)
		if rerr := n.blobs.remove(hex); rerr != nil {
			return rerr
		}
	}
	return fmt.Errorf("%s: %w", n.blobs.name(hex), err)
}

// sum returns the SHA-256 of what is left of a reader.
func sum(r io.Reader) (string, error) {
	h := bulkhash.NewSHA256()
	_, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return hex.EncodeToString(h.Sum(nil)), err
}

// build makes the release with the next number, whole, on the disk.
func (n *Node) build(channel string, entries []Entry) (*Release, error) {
	next, err := n.lastNumber()
	if err != nil {
		return nil, err
	}
	r := &Release{Number: next + 1, Channel: channel, Created: n.now().UTC(), Models: entries}
	if r.Models == nil {
		r.Models = []Entry{}
	}
	temporary := fmt.Sprintf(".%d.new", r.Number)
	if err := n.releases.remove(temporary); err != nil {
		return nil, err
	}
	d, err := n.releases.dir(temporary)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	taken := map[string]bool{}
	for _, e := range entries {
		for _, f := range e.Files {
			name, target := fileLink(e, f)
			if taken[name] {
				return nil, fmt.Errorf("release %d: two files are %s", r.Number, name)
			}
			taken[name] = true
			if err := n.hook.before("link", name); err != nil {
				return nil, err
			}
			if err := d.root.MkdirAll(path.Dir(name), 0o755); err != nil {
				return nil, err
			}
			if err := d.root.Symlink(target, name); err != nil {
				return nil, err
			}
		}
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := d.write(releaseFile, append(data, '\n')); err != nil {
		return nil, err
	}
	if err := syncFolders(d.root); err != nil {
		return nil, err
	}
	if err := n.releases.rename(temporary, strconv.FormatInt(r.Number, 10)); err != nil {
		return nil, err
	}
	return r, n.releases.sync()
}

// syncFolders takes the names in all folders to the disk.
func syncFolders(root *os.Root) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// lastNumber is the largest number of a release that is or was there.
func (n *Node) lastNumber() (int64, error) {
	last := max(n.state.Confirmed, n.currentNumber())
	names, err := n.releases.names()
	if err != nil {
		return 0, err
	}
	for _, e := range names {
		if number.MatchString(e.Name()) {
			i, _ := strconv.ParseInt(e.Name(), 10, 64)
			last = max(last, i)
		}
	}
	return last, nil
}

// flip makes a release the current one.
func (n *Node) flip(i int64) error {
	return n.home.link(path.Join(releasesName, strconv.FormatInt(i, 10)), currentName)
}
