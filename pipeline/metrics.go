package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// This file writes a summary in the text format of Prometheus, for the textfile
// collector of its node exporter.

const metricPrefix = "modelpipe_refresh_"

// lastSuccess is the metric that a failed run takes over from the one before.
const lastSuccess = "last_success_timestamp_seconds"

// maxMetrics bounds the file of the run before.
const maxMetrics = 64 << 20

// WriteMetrics writes the file as a whole. When the last run without a failure
// was is taken over from the file that is there.
func (s *Summary) WriteMetrics(name string) error {
	ended := s.Began.Add(time.Duration(s.Seconds * float64(time.Second))).Unix()
	success := ended
	if s.Outcome != OutcomeDone {
		success = previousSuccess(name)
	}
	return writeFile(name, s.metrics(ended, success))
}

// previousSuccess reads what the file of an earlier run says, 0 where it says
// nothing.
func previousSuccess(name string) int64 {
	info, err := os.Stat(name)
	if err != nil || info.Size() > maxMetrics {
		return 0
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, metricPrefix+lastSuccess+"{"); ok {
			if i := strings.LastIndex(rest, "} "); i >= 0 {
				n, err := strconv.ParseInt(strings.TrimSpace(rest[i+2:]), 10, 64)
				if err == nil && n >= 0 {
					return n
				}
			}
		}
	}
	return 0
}

// metrics is the content of the file.
func (s *Summary) metrics(ended, success int64) []byte {
	var b bytes.Buffer
	store := "store=" + labelValue(s.Store)
	family := func(name, help string) {
		fmt.Fprintf(&b, "# HELP %s%s %s\n# TYPE %s%s gauge\n", metricPrefix, name, help, metricPrefix, name)
	}
	value := func(name, labels string, v any) {
		fmt.Fprintf(&b, "%s%s{%s} %v\n", metricPrefix, name, labels, v)
	}
	for _, m := range []struct {
		name, help string
		value      any
	}{
		{"last_run_timestamp_seconds", "When the last run ended.", ended},
		{lastSuccess, "When a run last ended with nothing failed and nothing refused, 0 if never.", success},
		{"duration_seconds", "How long the last run took.", strconv.FormatFloat(s.Seconds, 'f', -1, 64)},
		{"variants_made", "Variants that the last run has made.", s.Made},
		{"variants_refused", "Variants that gates refuse.", s.Refused},
		{"variants_failed", "Variants that could not be made in the last run.", s.Failed},
		{"read_bytes", "Bytes that the last run has read over the network.", s.Read},
		{"written_bytes", "Bytes of files that the last run has put into the store.", s.Written},
	} {
		family(m.name, m.help)
		value(m.name, store, m.value)
	}
	family("outcome", "What became of the last run: 1 for that, 0 for the others.")
	for _, o := range []string{OutcomeDone, OutcomeFailed, OutcomeUsage, OutcomeRefused, OutcomeUnavailable} {
		value("outcome", store+",outcome="+labelValue(o), truth(s.Outcome == o))
	}
	family("models", "Models by what became of them in the last run.")
	for _, state := range []string{ModelCurrent, ModelReleased, ModelMade, ModelRefused, ModelFailed} {
		n := 0
		for _, m := range s.Models {
			if m.State == state {
				n++
			}
		}
		value("models", store+",state="+labelValue(state), n)
	}
	family("model_ok", "Whether a model is as the curation file asks: 0 where it was refused or has failed.")
	for _, m := range s.Models {
		value("model_ok", store+",model="+labelValue(m.Model), truth(m.State != ModelFailed && m.State != ModelRefused))
	}
	return b.Bytes()
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

// labelValue quotes the value of a label as the text format has it.
func labelValue(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(s, "\uFFFD")) + `"`
}
