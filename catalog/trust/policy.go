package trust

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/internal/nearest"
	"github.com/modelpipe/modelpipe/internal/tomlfile"
	"github.com/modelpipe/modelpipe/publish"
)

// Policy says which keys may sign what, how many of them must, and for how
// long that holds. It is written in TOML (docs/catalog.md).
type Policy struct {
	Root      RolePolicy            `toml:"root"`
	Targets   RolePolicy            `toml:"targets"`
	Snapshot  RolePolicy            `toml:"snapshot"`
	Timestamp RolePolicy            `toml:"timestamp"`
	Channels  map[string]RolePolicy `toml:"channel"`
	Keys      map[string]KeyPolicy  `toml:"key"`

	keys map[string]*Key // by name
}

// RolePolicy is the policy of one role.
type RolePolicy struct {
	Keys      []string `toml:"keys"`
	Threshold int      `toml:"threshold,omitempty"` // left out: 1
	Days      float64  `toml:"days,omitempty"`      // left out: defaultDays
}

// KeyPolicy is where a key is.
type KeyPolicy struct {
	Public string `toml:"public"`         // path of the public key, PEM
	Sign   string `toml:"sign,omitempty"` // file:PATH, env:NAME or command:PROGRAM ARGUMENT...
}

// The names of TUF's roles.
const (
	roleRoot      = "root"
	roleTargets   = "targets"
	roleSnapshot  = "snapshot"
	roleTimestamp = "timestamp"
)

// channelRole is the name of the role that a channel's targets are delegated
// to.
func channelRole(channel string) string { return "channel-" + channel }

// defaultDays is how long metadata of a role is valid where the policy does
// not say.
var defaultDays = map[string]float64{roleRoot: 365, roleTargets: 90, roleSnapshot: 14, roleTimestamp: 2}

const defaultChannelDays = 30

// maxPolicy bounds a policy file.
const maxPolicy = 1 << 20

// ReadPolicy reads a policy file and the public keys that it names.
func ReadPolicy(name string) (*Policy, error) {
	data, err := readFile(name, maxPolicy)
	if err != nil {
		return nil, err
	}
	p := &Policy{}
	if err := tomlfile.Decode(data, p); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.open(filepath.Dir(name)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: has more than %d bytes", name, limit)
	}
	return data, err
}

// open reads the public keys, and checks that the roles can be signed.
func (p *Policy) open(dir string) error {
	p.keys = map[string]*Key{}
	ids := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(p.Keys)) {
		k := p.Keys[name]
		path := k.Public
		if path == "" {
			return fmt.Errorf("key %s: public is missing", name)
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		text, err := readFile(path, maxKey)
		if err != nil {
			return fmt.Errorf("key %s: %w", name, err)
		}
		public, err := parsePublic(text)
		if err != nil {
			return fmt.Errorf("key %s: %s: %w", name, path, err)
		}
		if p.keys[name], err = newKey(name, public, k.Sign, dir); err != nil {
			return err
		}
		if other, taken := ids[p.keys[name].ID]; taken {
			return fmt.Errorf("keys %s and %s are the same: a threshold would count it twice", other, name)
		}
		ids[p.keys[name].ID] = name
	}
	if len(p.Channels) == 0 {
		return errors.New("no channel: want at least [channel.stable]")
	}
	for _, role := range p.roles() {
		r, err := p.role(role)
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, name := range r.Keys {
			if p.keys[name] == nil {
				text := fmt.Sprintf("%s: key %q is not in the file", role, name)
				if known := slices.Sorted(maps.Keys(p.keys)); len(known) > 0 {
					text += fmt.Sprintf("; did you mean %q?", nearest.Names(name, known, 1)[0])
				}
				return errors.New(text)
			}
			if seen[name] {
				return fmt.Errorf("%s: key %s is there twice", role, name)
			}
			seen[name] = true
		}
		if r.Threshold < 1 || r.Threshold > len(r.Keys) {
			return fmt.Errorf("%s: threshold %d of %d keys", role, r.Threshold, len(r.Keys))
		}
		if r.Days <= 0 || r.Days > 3660 {
			return fmt.Errorf("%s: days = %v: want more than 0 and at most 3660", role, r.Days)
		}
	}
	for channel := range p.Channels {
		if err := publish.CheckName(channel); err != nil || strings.Contains(channel, "/") {
			return fmt.Errorf("channel %.80q: want a plain name", channel)
		}
	}
	return nil
}

// channels returns the names of the channels, in order.
func (p *Policy) channels() []string { return slices.Sorted(maps.Keys(p.Channels)) }

// roles returns the names of the roles.
func (p *Policy) roles() []string {
	out := []string{roleRoot, roleTargets, roleSnapshot, roleTimestamp}
	for _, c := range p.channels() {
		out = append(out, channelRole(c))
	}
	return out
}

// role returns the policy of a role with what was left out.
func (p *Policy) role(name string) (RolePolicy, error) {
	var r RolePolicy
	days := defaultDays[name]
	switch name {
	case roleRoot:
		r = p.Root
	case roleTargets:
		r = p.Targets
	case roleSnapshot:
		r = p.Snapshot
	case roleTimestamp:
		r = p.Timestamp
	default:
		var ok bool
		if r, ok = p.Channels[strings.TrimPrefix(name, channelRole(""))]; !ok {
			return r, fmt.Errorf("role %s: is not in the policy", name)
		}
		days = defaultChannelDays
	}
	if r.Threshold == 0 {
		r.Threshold = 1
	}
	if r.Days == 0 {
		r.Days = days
	}
	return r, nil
}

// keysOf returns the keys of a role.
func (p *Policy) keysOf(r RolePolicy) []*Key {
	out := make([]*Key, len(r.Keys))
	for i, name := range r.Keys {
		out[i] = p.keys[name]
	}
	return out
}

// validity is how long metadata of a role is valid.
func (r RolePolicy) validity() time.Duration {
	return time.Duration(r.Days * 24 * float64(time.Hour))
}

// RoleKeys is a role with its keys, for people.
type RoleKeys struct {
	Role      string    `json:"role"`
	Threshold int       `json:"threshold"`
	Days      float64   `json:"days"`
	Keys      []KeyInfo `json:"keys"`
}

// KeyInfo is a key, for people.
type KeyInfo struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// List returns the roles with their keys.
func (p *Policy) List() ([]RoleKeys, error) {
	var out []RoleKeys
	for _, name := range p.roles() {
		r, err := p.role(name)
		if err != nil {
			return nil, err
		}
		keys := []KeyInfo{}
		for _, k := range p.keysOf(r) {
			keys = append(keys, KeyInfo{k.Name, k.ID})
		}
		out = append(out, RoleKeys{name, r.Threshold, r.Days, keys})
	}
	return out, nil
}
