package edge

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/modelpipe/modelpipe/internal/filelock"
)

// A folder is a directory of the node that stays open. Names in it are single
// elements. Whoever else may write there can plant links and pipes: nothing is
// read, written or opened through one. A name that is in the way is taken
// away, which never touches what it points to.
type folder struct {
	root *os.Root
	path string // for messages
	hook hook
}

// A hook is called before each change of the disk, with what is done and to
// which name. Its error stops the change. Tests let disks fail with it.
type hook func(op, name string) error

func (h hook) before(op, name string) error {
	if h == nil {
		return nil
	}
	return h(op, name)
}

// openFolder opens the node's folder, and makes it where it is not there.
func openFolder(path string, h hook) (*folder, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &folder{root, path, h}, nil
}

func (d *folder) Close() error { return d.root.Close() }

func (d *folder) name(name string) string { return filepath.Join(d.path, name) }

// dir opens a folder in d, and makes it where it is not there. A link, or
// anything else of that name, is taken away first.
func (d *folder) dir(name string) (*folder, error) {
	info, err := d.root.Lstat(name)
	if err == nil && !info.IsDir() {
		if err := d.remove(name); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := d.hook.before("mkdir", name); err != nil {
			return nil, err
		}
		if err := d.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		info, err = d.root.Lstat(name)
	}
	if err != nil {
		return nil, err
	}
	sub, err := d.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	opened, err := sub.Stat(".")
	if err == nil && (!info.IsDir() || !os.SameFile(info, opened)) {
		err = fmt.Errorf("%s: is not a folder of the node", d.name(name))
	}
	if err != nil {
		return nil, errors.Join(err, sub.Close())
	}
	return &folder{sub, d.name(name), d.hook}, nil
}

// open opens a regular file, not through a link.
func (d *folder) open(name string, flag int) (*os.File, os.FileInfo, error) {
	named, err := d.root.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !named.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s: is not a regular file", d.name(name))
	}
	f, err := d.root.OpenFile(name, flag, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !os.SameFile(named, info) {
		err = fmt.Errorf("%s: was replaced while it was opened", d.name(name))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// read returns a regular file of at most limit bytes.
func (d *folder) read(name string, limit int64) ([]byte, error) {
	f, _, err := d.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: has more than %d bytes", d.name(name), limit)
	}
	return data, err
}

// create makes a new file; what has the name is taken away first.
func (d *folder) create(name string) (*os.File, error) {
	if err := d.remove(name); err != nil {
		return nil, err
	}
	if err := d.hook.before("create", name); err != nil {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
}

// goOn opens a file that was left unfinished, for writing, or makes it. What
// is not a regular file, or has another name somewhere else (a hard link), is
// not gone on with.
func (d *folder) goOn(name string) (f *os.File, left bool, err error) {
	f, info, err := d.open(name, os.O_RDWR)
	if err == nil && links(info) > 1 {
		err = errors.Join(fmt.Errorf("%s: has more than one name", d.name(name)), f.Close())
	}
	if err == nil {
		return f, true, nil
	}
	f, err = d.create(name)
	return f, false, err
}

// lock takes the lock of the node's folder, which the end of the process
// gives back.
func (d *folder) lock() (*os.File, error) {
	f, _, err := d.goOn(lockName)
	if err != nil {
		return nil, err
	}
	err = filelock.Try(f)
	if errors.Is(err, filelock.ErrHeld) {
		err = fmt.Errorf("%s: %w", d.path, ErrBusy)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// write gives a file its content in one step, on the disk.
func (d *folder) write(name string, data []byte) error {
	if err := d.put(name, data, true); err != nil {
		return err
	}
	return d.sync()
}

// put gives a file its content in one step. Without durable it may be gone, or
// empty, after the power has failed.
func (d *folder) put(name string, data []byte, durable bool) error {
	temporary := "." + name + ".new"
	f, err := d.create(temporary)
	if err != nil {
		return err
	}
	err = d.hook.before("write", name)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		d.root.Remove(temporary)
		return fmt.Errorf("write %s: %w", d.name(name), err)
	}
	return d.rename(temporary, name)
}

// rename gives a name to what has another one. A folder that has it is taken
// away first.
func (d *folder) rename(from, to string) error {
	if info, err := d.root.Lstat(to); err == nil && info.IsDir() {
		if err := d.remove(to); err != nil {
			return err
		}
	}
	if err := d.hook.before("rename", to); err != nil {
		return err
	}
	return d.root.Rename(from, to)
}

// link makes a symbolic link; what has the name is replaced in one step. A
// folder is not: somebody keeps something there.
func (d *folder) link(target, name string) error {
	if info, err := d.root.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("%s: is a folder, not the node's link: move it away", d.name(name))
	}
	temporary := "." + name + ".new"
	if err := d.remove(temporary); err != nil {
		return err
	}
	if err := d.hook.before("link", name); err != nil {
		return err
	}
	if err := d.root.Symlink(target, temporary); err != nil {
		return err
	}
	if err := d.rename(temporary, name); err != nil {
		return err
	}
	return d.sync()
}

// remove takes a name away, with all below it where it is a folder. Links are
// not followed. It is no error where there is none.
func (d *folder) remove(name string) error {
	info, err := d.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.hook.before("remove", name); err != nil {
		return err
	}
	if info.IsDir() {
		return d.root.RemoveAll(name)
	}
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// names returns what is in the folder.
func (d *folder) names() ([]fs.DirEntry, error) {
	f, err := d.root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// sync takes the names to the disk.
func (d *folder) sync() error {
	if err := d.hook.before("sync", "."); err != nil {
		return err
	}
	f, err := d.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
