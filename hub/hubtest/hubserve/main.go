// Hubserve runs the Hub of package hubtest for other processes: benchmarks, and trying the command line without a
// network.
//
//	hubserve -latency 20ms -rate 200e6 org/name=./model gpt2=./gpt2
//
// It prints the line HF_ENDPOINT=URL once it listens, and serves until it is interrupted, when it says
// what it has sent.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/hub/hubtest"
)

func main() {
	latency := flag.Duration("latency", 0, "delay before each answer")
	rate := flag.Float64("rate", 0, "bytes per second of all answers together; 0: no limit")
	ttl := flag.Duration("ttl", time.Hour, "how long the CDN's signed URLs live")
	token := flag.String("token", "", "gate the repositories behind this token")
	drop := flag.Int64("drop", 0, "cut every answer of the CDN after so many bytes")
	ignore := flag.Bool("ignore-range", false, "answer ranges with the whole file")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: hubserve [flags] ORG/NAME=FOLDER...\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	srv, err := hubtest.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hubserve:", err)
		os.Exit(1)
	}
	defer srv.Close()
	for _, arg := range flag.Args() {
		id, folder, ok := strings.Cut(arg, "=")
		if st, err := os.Stat(folder); !ok || err != nil || !st.IsDir() {
			fmt.Fprintf(os.Stderr, "hubserve: %q: want ORG/NAME=FOLDER\n", arg)
			os.Exit(2)
		}
		repo := hubtest.Repo{ID: id, FS: os.DirFS(folder)}
		if *token != "" {
			repo.Gated, repo.Tokens = true, []string{*token}
		}
		fmt.Fprintf(os.Stderr, "hubserve: hf://%s at commit %s\n", id, srv.AddRepo(repo))
	}
	srv.SetLatency(*latency)
	srv.SetBandwidth(*rate)
	srv.SetURLTTL(*ttl)
	if *drop > 0 || *ignore {
		srv.Inject(hubtest.Fault{Stage: hubtest.CDN, DropAfter: *drop, IgnoreRange: *ignore})
	}
	fmt.Printf("HF_ENDPOINT=%s\n", srv.URL)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
	fmt.Fprintf(os.Stderr, "hubserve: %d requests, %d bytes sent, of which %d by the CDN\n",
		len(srv.Requests()), srv.BytesSent(hubtest.Any), srv.BytesSent(hubtest.CDN))
}
