package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
)

// state is what a node remembers beside its releases. It may be lost: files
// are then read again, and the current release is asked for its health again.
type state struct {
	Confirmed int64                `json:"confirmed,omitempty"` // release that was healthy
	Previous  int64                `json:"previous,omitempty"`  // the one before it
	Rejected  map[string]rejection `json:"rejected,omitempty"`  // by the digest of what was offered
	Banned    map[string]string    `json:"banned,omitempty"`    // releases that were withdrawn, and why
	Files     map[string]stamp     `json:"files,omitempty"`     // verified, by SHA-256
	Settled   settlement           `json:"settled,omitzero"`    // with what the last round ended well
	Newest    time.Time            `json:"newest,omitzero"`     // newest time that was signed: no clock is right before it
}

// settlement is what a round that ended well has worked on, and the release
// that was current in its end. As long as both are the same there is nothing to
// do, and the catalog need not be read.
type settlement struct {
	Key     string `json:"key"`
	Release int64  `json:"release"`
}

// rejection is an offer that did not pass the health check.
type rejection struct {
	At     time.Time `json:"at"`
	Times  int       `json:"times"`
	Reason string    `json:"reason"`
}

// Until is when the offer is tried again.
func (r rejection) until(first time.Duration) time.Time {
	return r.At.Add(first << min(r.Times-1, 6))
}

// stamp is what a file looked like when its content was verified. Whatever
// writes to it changes it.
type stamp struct {
	Size     int64  `json:"size"`
	Modified int64  `json:"modified"` // ns
	Inode    uint64 `json:"inode"`
}

func stampOf(info fs.FileInfo) stamp {
	return stamp{info.Size(), info.ModTime().UnixNano(), inode(info)}
}

const (
	stateName = "state.json"
	lockName  = ".lock"
	maxState  = 16 << 20
)

// readState reads the state. One that cannot be read is as good as none.
func (n *Node) readState() {
	n.state = state{}
	data, err := n.home.read(stateName, maxState)
	if err == nil {
		err = json.Unmarshal(data, &n.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.log.Warn("the state of the node cannot be read: files are verified again", "error", err)
		n.state = state{}
	}
	if n.state.Rejected == nil {
		n.state.Rejected = map[string]rejection{}
	}
	if n.state.Files == nil {
		n.state.Files = map[string]stamp{}
	}
}

// writeState writes the state where it has changed.
func (n *Node) writeState() error {
	data, err := json.Marshal(&n.state)
	if err != nil || bytes.Equal(data, n.written) {
		return err
	}
	if err := n.home.write(stateName, data); err != nil {
		return fmt.Errorf("state of the node: %w", err)
	}
	n.written = data
	return nil
}

// Entry is a variant of a model on a node.
type Entry struct {
	Model   string         `json:"model"`   // slug
	Release int64          `json:"release"` // of the model, in the channel
	Variant string         `json:"variant"` // ID
	Name    string         `json:"name"`    // of the variant: its folder
	Files   []catalog.File `json:"files"`
}

// Release is a set of entries that a node serves, or has served: the content
// of releases/N/release.json. Its files are at MODEL/NAME/PATH below it.
type Release struct {
	Number  int64     `json:"release"`
	Channel string    `json:"channel"`
	Created time.Time `json:"created"`
	Models  []Entry   `json:"models"` // ordered by slug, then by name
}

// digest identifies a set of entries.
func digest(entries []Entry) (string, error) {
	data, err := json.Marshal(entries)
	return string(catalog.DigestOf(data)), err
}
