package trust

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/publish"
)

// ErrUntrusted says that what a store holds is not what the holders of the
// keys have signed, or not the newest of it.
var ErrUntrusted = errors.New("the catalog is not to be trusted")

// ErrExpired says that signed metadata has expired: nobody has signed for too
// long, somebody keeps newer metadata back, or the clock of this machine is
// ahead.
var ErrExpired = errors.New("signed metadata has expired")

// fetchTime bounds the time of one request.
const fetchTime = time.Minute

// Client follows the signed catalogs of a store. It keeps in its folder what
// it has verified, so that nothing older is believed later on. It is for one
// goroutine at a time.
type Client struct {
	fetch catalog.Fetcher
	root  []byte
	dir   string
	now   func() time.Time
}

// ClientOptions are what a Client needs.
type ClientOptions struct {
	Root  []byte           // root metadata that is trusted from the start, of any version
	Dir   string           // folder of the client's own, made where it is not there
	Fetch catalog.Fetcher  // reads the store
	Now   func() time.Time // nil: time.Now
}

// NewClient returns a Client. It fetches nothing.
func NewClient(o ClientOptions) (*Client, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	given, err := rootVersion(o.Root)
	if err != nil {
		return nil, fmt.Errorf("trusted root: %w", err)
	}
	c := &Client{fetch: o.Fetch, root: o.Root, dir: o.Dir, now: o.Now}
	// A newer root that was verified from the one given saves walking there.
	kept, err := readFile(c.path("root.json"), maxRoot)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, err
	}
	if version, err := rootVersion(kept); err == nil && version > given {
		c.root = kept
	}
	return c, nil
}

func (c *Client) path(name string) string { return filepath.Join(c.dir, "metadata", name) }

// rootVersion is the version of root metadata that is signed as it says.
func rootVersion(data []byte) (int64, error) {
	root, err := new(metadata.Metadata[metadata.RootType]).FromBytes(data)
	if err != nil {
		return 0, err
	}
	return root.Signed.Version, root.VerifyDelegate(roleRoot, root)
}

// State is the catalogs of a store as they were signed at one moment.
type State struct {
	Root, Timestamp, Snapshot int64 // versions
	Expires                   time.Time
	client                    *Client
	updater                   *updater.Updater
}

// Refresh fetches what is new and verifies it: at most two requests where
// nothing is. Errors wrap ErrUntrusted, ErrExpired or publish.ErrUnavailable.
func (c *Client) Refresh(ctx context.Context) (*State, error) {
	for _, name := range []string{"metadata", "targets"} {
		if err := os.MkdirAll(filepath.Join(c.dir, name), 0o700); err != nil {
			return nil, err
		}
	}
	u, err := updater.New(&config.UpdaterConfig{
		MaxRootRotations:   maxRotations,
		MaxDelegations:     64,
		RootMaxLength:      maxRoot,
		TimestampMaxLength: maxTimestamp,
		SnapshotMaxLength:  maxSnapshot,
		TargetsMaxLength:   maxTargets,

		Fetcher:               tufFetcher{ctx, c.fetch},
		LocalTrustedRoot:      c.root,
		LocalMetadataDir:      filepath.Join(c.dir, "metadata"),
		LocalTargetsDir:       filepath.Join(c.dir, "targets"),
		RemoteMetadataURL:     storeURL + strings.TrimSuffix(folder, "/"),
		RemoteTargetsURL:      storeURL,
		PrefixTargetsWithHash: true,
	})
	if err != nil {
		return nil, c.explain("root", err)
	}
	u.UnsafeSetRefTime(c.now().UTC())
	if err := u.Refresh(); err != nil {
		return nil, c.explain("refresh", err)
	}
	set := u.GetTrustedMetadataSet()
	if data, err := readFile(c.path("root.json"), maxRoot); err == nil {
		c.root = data
	}
	return &State{
		Root: set.Root.Signed.Version, Timestamp: set.Timestamp.Signed.Version, Snapshot: set.Snapshot.Signed.Version,
		Expires: set.Timestamp.Signed.Expires, client: c, updater: u,
	}, nil
}

// Channel returns the catalog of a channel as it was signed.
func (s *State) Channel(ctx context.Context, name string) (*catalog.Reader, error) {
	data, _, err := s.index(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := catalog.NewReader(data, s.client.fetch)
	if err != nil {
		return nil, fmt.Errorf("channel %s: %w: %w", name, ErrUntrusted, err)
	}
	if r.Index().Channel != name {
		return nil, fmt.Errorf("channel %s: %w: the index is of channel %s", name, ErrUntrusted, r.Index().Channel)
	}
	return r, nil
}

// Anchor returns the entry of the log that was signed with a channel, or nil.
func (s *State) Anchor(ctx context.Context, name string) (*catalog.LogAnchor, error) {
	_, custom, err := s.index(ctx, name)
	if err != nil || custom == nil {
		return nil, err
	}
	var c struct {
		Log *catalog.LogAnchor `json:"log"`
	}
	if err := json.Unmarshal(custom, &c); err != nil {
		return nil, fmt.Errorf("channel %s: %w: %w", name, ErrUntrusted, err)
	}
	return c.Log, nil
}

// index returns the root index of a channel, and what else was signed of it.
func (s *State) index(ctx context.Context, name string) ([]byte, json.RawMessage, error) {
	if err := publish.CheckName(name); err != nil {
		return nil, nil, fmt.Errorf("channel: %w", err)
	}
	t, err := s.updater.GetTargetInfo(catalog.IndexName(name))
	if err != nil {
		return nil, nil, s.client.explain("channel "+name, err)
	}
	if t.Length > catalog.MaxIndex {
		return nil, nil, fmt.Errorf("channel %s: %w: the index has %d bytes, want at most %d", name, ErrUntrusted, t.Length, catalog.MaxIndex)
	}
	var custom json.RawMessage
	if t.Custom != nil {
		custom = *t.Custom
	}
	_, data, err := s.updater.FindCachedTarget(t, "")
	if err == nil && data != nil {
		return data, custom, nil
	}
	sum, ok := t.Hashes["sha256"]
	if !ok {
		return nil, nil, fmt.Errorf("channel %s: %w: the index has no SHA-256", name, ErrUntrusted)
	}
	target := indexTarget(name, catalog.Digest("sha256:"+hex.EncodeToString(sum)))
	data, err = s.client.fetch.Fetch(ctx, target, t.Length)
	if err == nil {
		if err = t.VerifyLengthHashes(data); err == nil {
			err = keep(filepath.Join(s.client.dir, "targets", "channels%2F"+name+".json"), data)
			if err != nil {
				return nil, nil, err
			}
		}
	}
	if err != nil {
		return nil, nil, s.client.explain("channel "+name+": "+target, err)
	}
	return data, custom, nil
}

// keep writes a file by rename.
func keep(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// explain puts an error of go-tuf into the words of this package.
func (c *Client) explain(doing string, err error) error {
	var expired *metadata.ErrExpiredMetadata
	var status *metadata.ErrDownloadHTTP
	switch {
	case errors.As(err, &expired):
		return fmt.Errorf("%s: %w: %w: %s; the clock here says %s", doing, ErrUntrusted, ErrExpired, expired.Msg, c.now().UTC().Format(time.RFC3339))
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w: %w", doing, publish.ErrUnavailable, err)
	case errors.Is(err, publish.ErrUnavailable), errors.Is(err, publish.ErrRefused):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.As(err, &status):
		return fmt.Errorf("%s: %s is not there: %w", doing, strings.TrimPrefix(status.URL, storeURL), fs.ErrNotExist)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrUntrusted, err)
}

// storeURL is what go-tuf takes for the address of the store.
const storeURL = "store:///"

// tufFetcher is a catalog.Fetcher as go-tuf wants it.
type tufFetcher struct {
	ctx   context.Context
	fetch catalog.Fetcher
}

// DownloadFile implements fetcher.Fetcher.
func (f tufFetcher) DownloadFile(address string, limit int64, _ time.Duration) ([]byte, error) {
	name, ok := strings.CutPrefix(address, storeURL)
	if !ok {
		return nil, fmt.Errorf("address %q is not of the store", address)
	}
	ctx, cancel := context.WithTimeout(f.ctx, fetchTime)
	defer cancel()
	data, err := f.fetch.Fetch(ctx, name, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &metadata.ErrDownloadHTTP{StatusCode: http.StatusNotFound, URL: address}
	case errors.Is(err, catalog.ErrTooLarge):
		return nil, &metadata.ErrDownloadLengthMismatch{Msg: err.Error()}
	}
	return data, err
}
