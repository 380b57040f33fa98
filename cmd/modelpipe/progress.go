package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// defaultInterval is that of progress lines where there is no terminal.
const defaultInterval = 10 * time.Second

// meter is something whose progress is shown.
type meter struct {
	verb  string // "converting"
	total int64  // bytes
	done  func() int64
	at    func() string // what is worked on, or ""
}

// showProgress shows how far a meter is until the returned function is
// called: a bar that is drawn again on a terminal, a log line each interval
// elsewhere.
func (a *app) showProgress(m meter, interval time.Duration) func() {
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
		start, first := time.Now(), m.done()
		for {
			select {
			case <-done:
				if bar {
					fmt.Fprint(a.stderr, "\r\x1b[K")
				}
				return
			case <-tick.C:
			}
			n := m.done()
			rate := float64(n-first) / time.Since(start).Seconds()
			eta := "?"
			if rate > 0 {
				eta = time.Duration(float64(m.total-n) / rate * float64(time.Second)).Round(time.Second).String()
			}
			at := m.at()
			if !bar {
				a.log.Info(m.verb, "done", n, "total", m.total, "percent", int(100*float64(n)/float64(m.total)), "mb_per_second", int(rate/1e6), "eta", eta, "at", at)
				continue
			}
			const width = 30
			filled := int(width * float64(n) / float64(m.total))
			fmt.Fprintf(a.stderr, "\r\x1b[K[%s%s] %3d%%  %.2f of %.2f GB  %.0f MB/s  %s  %.40s", strings.Repeat("=", filled), strings.Repeat(" ", width-filled),
				int(100*float64(n)/float64(m.total)), float64(n)/1e9, float64(m.total)/1e9, rate/1e6, eta, at)
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
