package hub

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"

	"github.com/modelpipe/modelpipe/internal/bulkhash"
)

// digest compares a file's bytes, written in order, with the digest that the repository names: the sha256 of an LFS
// file, or the git blob id (sha1 of "blob SIZE\0" and the content) of one kept in git itself.
type digest struct {
	hash.Hash
	kind string
	name string
	want string
}

// newDigest returns nil if the listing names no digest for f.
func newDigest(f Entry) *digest {
	switch {
	case f.SHA256 != "":
		return &digest{bulkhash.NewSHA256(), "sha256", f.Path, f.SHA256}
	case isHex(f.BlobID, 40):
		d := &digest{bulkhash.New(sha1.New()), "git blob", f.Path, f.BlobID}
		d.Write([]byte("blob " + strconv.FormatInt(f.Size, 10) + "\x00"))
		return d
	}
	return nil
}

// check compares once everything was written.
func (d *digest) check() error {
	if got := hex.EncodeToString(d.Sum(nil)); got != d.want {
		return fmt.Errorf("%s: %w: %s is %s, the repository says %s: delete what was made from it and try again", d.name, ErrMismatch, d.kind, got, d.want)
	}
	return nil
}
