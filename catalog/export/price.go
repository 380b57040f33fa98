package export

import (
	"encoding/json"
	"math/big"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/modelpipe/modelpipe/catalog"
)

// exact is a number in decimal digits, as documents write it: JSON and YAML
// encode it as a number with these digits. It never was a float64.
type exact string

func (e exact) MarshalJSON() ([]byte, error) { return []byte(e), nil }

func (e exact) MarshalYAML() (any, error) {
	tag := "!!float"
	if !strings.Contains(string(e), ".") {
		tag = "!!int"
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: string(e)}, nil
}

var _ json.Marshaler = exact("")

// perUnits returns what so many units cost, where that has an end in decimal
// digits.
func perUnits(p catalog.Price, units int64) (exact, error) {
	r, err := p.PerUnit()
	if err != nil {
		return "", err
	}
	return decimal(r.Mul(r, new(big.Rat).SetInt64(units)))
}

// decimal writes a number in decimal digits without an exponent.
func decimal(r *big.Rat) (exact, error) {
	digits, ok := r.FloatPrec()
	if !ok {
		return "", unsupported("the price %s has no end in decimal digits", r)
	}
	return exact(r.FloatString(digits)), nil
}
