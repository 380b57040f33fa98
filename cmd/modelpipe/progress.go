package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/convert"
)

// showProgress shows how far a conversion is until the returned function is
// called: a bar that is drawn again on a terminal, a log line each interval
// elsewhere.
func (a *app) showProgress(p *convert.Progress, outputs []convert.Output, interval time.Duration) func() {
	total := int64(0)
	for _, o := range outputs {
		total += o.Plan.Size
	}
	bar := isTerminal(a.stderr)
	if bar {
		interval = 200 * time.Millisecond
	}
	if interval <= 0 {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		start, first := time.Now(), p.Done.Load()
		for {
			select {
			case <-done:
				if bar {
					fmt.Fprint(a.stderr, "\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			n := p.Done.Load()
			rate := float64(n-first) / time.Since(start).Seconds()
			eta := "?"
			if rate > 0 {
				eta = time.Duration(float64(total-n) / rate * float64(time.Second)).Round(time.Second).String()
			}
			tensor := p.Tensor()
			if !bar {
				a.log.Info("converting", "done", n, "total", total, "percent", int(100*float64(n)/float64(total)), "mb_per_second", int(rate/1e6), "eta", eta, "tensor", tensor)
				continue
			}
			const width = 30
			filled := int(width * float64(n) / float64(total))
			fmt.Fprintf(a.stderr, "\r\x1b[K[%s%s] %3d%%  %.2f of %.2f GB  %.0f MB/s  %s  %.40s", strings.Repeat("=", filled), strings.Repeat(" ", width-filled),
				int(100*float64(n)/float64(total)), float64(n)/1e9, float64(total)/1e9, rate/1e6, eta, tensor)
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

// isTerminal says whether w is a terminal that understands escapes.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" || os.Getenv("TERM") == "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
