package fromhf

import (
	"errors"
	"io/fs"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// poolingFile is where sentence-transformers says how a vector is made of a
// sequence.
const poolingFile = "1_Pooling/config.json"

// pooling reads how a vector is made of a sequence; PoolNone where the folder
// does not say.
func (r *reader) pooling() spec.Pooling {
	data, err := readFile(r.fsys, poolingFile)
	if errors.Is(err, fs.ErrNotExist) {
		return spec.PoolNone
	}
	if err != nil {
		r.fail("%w", err)
		return spec.PoolNone
	}
	c, err := parseConfig(poolingFile, data)
	if err != nil {
		r.fail("%w", err)
		return spec.PoolNone
	}
	modes := []struct {
		flag, name string
		pooling    spec.Pooling
	}{
		{"pooling_mode_cls_token", "cls", spec.PoolCLS},
		{"pooling_mode_mean_tokens", "mean", spec.PoolMean},
		{"pooling_mode_lasttoken", "lasttoken", spec.PoolLast},
	}
	chosen := spec.PoolNone
	for _, m := range modes {
		if c.flag(m.flag, false) || c.text("pooling_mode", "") == m.name {
			if chosen != spec.PoolNone {
				r.fail("%s: more than one way of pooling", poolingFile)
			}
			chosen = m.pooling
		}
	}
	if c.err != nil {
		r.fail("%w", c.err)
	} else if chosen == spec.PoolNone {
		r.fail("%s: none of pooling_mode_cls_token, pooling_mode_mean_tokens, pooling_mode_lasttoken", poolingFile)
	}
	return chosen
}
