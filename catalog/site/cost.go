package site

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
)

// Usage is what a caller expects to do in a day.
type Usage struct {
	Requests int64 `json:"requests"` // in a day
	Input    int64 `json:"input"`    // tokens of a request, those from a cache among them
	Cached   int64 `json:"cached"`   // of these, tokens that come from a cache
	Output   int64 `json:"output"`   // tokens of an answer
}

// ExampleUsage is what the calculator begins with.
var ExampleUsage = Usage{Requests: 1000, Input: 1000, Output: 100}

// DaysPerMonth is how many days the calculator's month has.
const DaysPerMonth = 30

// Rates are the prices of a tier: what it does not say is as in the standard
// tier. They are the definition that assets/site.js follows.
type Rates map[string]catalog.Price // by unit

func ratesOf(s *catalog.Serving, tier string) Rates {
	r := Rates{}
	for _, t := range []string{catalog.TierStandard, tier} {
		for _, p := range s.Prices {
			if p.Tier == t {
				r[p.Unit] = p
			}
		}
	}
	return r
}

// Cost returns what a day costs, exactly, and the currency. Tokens from a
// cache cost what input tokens do where they have no price of their own. Prices
// in several currencies are an error.
func (r Rates) Cost(u Usage) (*big.Rat, string, error) {
	total, currency := new(big.Rat), ""
	cached := min(u.Cached, u.Input)
	units := map[string]int64{
		catalog.UnitRequest:          1,
		catalog.UnitInputToken:       u.Input - cached,
		catalog.UnitCachedInputToken: cached,
		catalog.UnitOutputToken:      u.Output,
	}
	for _, unit := range []string{catalog.UnitRequest, catalog.UnitInputToken, catalog.UnitCachedInputToken, catalog.UnitOutputToken} {
		p, ok := r[unit]
		if !ok && unit == catalog.UnitCachedInputToken {
			p, ok = r[catalog.UnitInputToken]
		}
		if !ok {
			continue
		}
		if currency != "" && currency != p.Currency {
			return nil, "", fmt.Errorf("prices in %s and in %s", currency, p.Currency)
		}
		currency = p.Currency
		each, err := p.PerUnit()
		if err != nil {
			return nil, "", err
		}
		n := new(big.Int).Mul(big.NewInt(units[unit]), big.NewInt(u.Requests))
		total.Add(total, each.Mul(each, new(big.Rat).SetInt(n)))
	}
	return total, currency, nil
}

// Digits behind the point that amounts show at most and at least.
const (
	mostDigits  = 6
	leastDigits = 2
)

// Money writes an amount: rounded to six digits behind the point, halves up,
// without zeros at the end beyond the second.
func Money(r *big.Rat) string {
	scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(mostDigits), nil)
	n := new(big.Int).Mul(r.Num(), scale)
	n.Add(n.Mul(n, big.NewInt(2)), r.Denom())
	n.Div(n, new(big.Int).Mul(r.Denom(), big.NewInt(2)))
	text := fmt.Sprintf("%0*s", mostDigits+1, n.String())
	whole, fraction := text[:len(text)-mostDigits], text[len(text)-mostDigits:]
	for len(fraction) > leastDigits && strings.HasSuffix(fraction, "0") {
		fraction = fraction[:len(fraction)-1]
	}
	return whole + "." + fraction
}

// Alarm is the cost in a period at which to warn.
type Alarm struct {
	Threshold string `json:"threshold"`
	Currency  string `json:"currency"`
	Period    string `json:"period"` // day or month
	Percent   int64  `json:"percent_of_budget"`
	Budget    string `json:"budget"`
}

func alarmOf(b *catalog.Budget) (*Alarm, error) {
	if b == nil {
		return nil, nil
	}
	amount, err := b.Amount.Rat()
	if err != nil {
		return nil, err
	}
	return &Alarm{Money(amount.Mul(amount, big.NewRat(b.AlarmPercent, 100))), b.Currency, b.Period, b.AlarmPercent, string(b.Amount)}, nil
}

// Costs is what a page's calculator works with, and what the entry says about
// money.
type Costs struct {
	Tiers   []TierCosts `json:"tiers"`
	Example Usage       `json:"example"`
	Days    int64       `json:"days_per_month"`
	Alarm   *Alarm      `json:"alarm,omitempty"`
}

// TierCosts is a tier with its prices and what the example costs.
type TierCosts struct {
	Tier     string              `json:"tier"`
	Currency string              `json:"currency"`
	Prices   map[string]TierRate `json:"prices"` // by unit
	Day      string              `json:"example_per_day"`
	Month    string              `json:"example_per_month"`
}

// TierRate is the amount for so many units.
type TierRate struct {
	Amount string `json:"amount"`
	Per    string `json:"per"`
}

// costsOf returns what the calculator of a model needs, or nil where nothing
// is charged by the token or the request.
func costsOf(m *catalog.Model) (*Costs, error) {
	c := &Costs{Example: ExampleUsage, Days: DaysPerMonth}
	if m.Task == catalog.TextEmbeddings {
		c.Example.Output = 0
	}
	seen := map[string]bool{}
	for _, p := range m.Serving.Prices {
		if seen[p.Tier] {
			continue
		}
		seen[p.Tier] = true
		rates := ratesOf(&m.Serving, p.Tier)
		day, currency, err := rates.Cost(c.Example)
		if err != nil {
			return nil, fmt.Errorf("tier %s: %w", p.Tier, err)
		}
		if currency == "" {
			continue
		}
		t := TierCosts{Tier: p.Tier, Currency: currency, Prices: map[string]TierRate{}, Day: Money(day)}
		t.Month = Money(day.Mul(day, big.NewRat(DaysPerMonth, 1)))
		for unit, p := range rates {
			t.Prices[unit] = TierRate{string(p.Amount), fmt.Sprint(p.Per)}
		}
		c.Tiers = append(c.Tiers, t)
	}
	if len(c.Tiers) == 0 {
		return nil, nil
	}
	var err error
	c.Alarm, err = alarmOf(m.Serving.Budget)
	return c, err
}
