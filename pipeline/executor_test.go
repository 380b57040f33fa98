package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// gauge counts what runs at once.
type gauge struct {
	mu       sync.Mutex
	running  Needs
	jobs     int
	most     Needs
	mostJobs int
	order    []string
}

func (g *gauge) do(_ context.Context, t Task) Result {
	g.mu.Lock()
	g.jobs++
	g.running.Disk, g.running.Memory = g.running.Disk+t.Needs.Disk, g.running.Memory+t.Needs.Memory
	g.mostJobs = max(g.mostJobs, g.jobs)
	g.most.Disk, g.most.Memory = max(g.most.Disk, g.running.Disk), max(g.most.Memory, g.running.Memory)
	g.order = append(g.order, t.ID)
	g.mu.Unlock()
	time.Sleep(2 * time.Millisecond)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.jobs--
	g.running.Disk, g.running.Memory = g.running.Disk-t.Needs.Disk, g.running.Memory-t.Needs.Memory
	r := Result{Task: t.ID, Kind: t.Kind, Model: t.Model, State: StateDone}
	if strings.HasPrefix(t.Variant, "bad") {
		r.State, r.Reason = StateFailed, "is bad"
	}
	return r
}

// TestLocal holds the executor to its budgets and to the order of tasks.
func TestLocal(t *testing.T) {
	var tasks []Task
	for i := range 40 {
		id := fmt.Sprintf("%02d", i)
		x := Task{ID: id, Kind: KindMake, Model: "m", Needs: Needs{Disk: int64(i%7) * 10, Memory: int64(i%5) * 10}}
		switch i {
		case 5, 6:
			x.After = "04"
		case 10:
			x.Variant = "bad"
		case 11:
			x.After = "10" // of what fails
		case 12:
			x.After = "done before"
		case 20:
			x.Needs.Disk = 101
		case 21:
			x.Needs.Memory = 101
		case 22:
			x.After = "21"
		}
		tasks = append(tasks, x)
	}
	g := new(gauge)
	results := map[string]Result{}
	l := &Local{Jobs: 4, Disk: 100, Memory: 100, Do: g.do}
	if err := l.Execute(t.Context(), tasks, func(r Result) error {
		if _, twice := results[r.Task]; twice {
			t.Errorf("%s is reported twice", r.Task)
		}
		if r.Task == "05" || r.Task == "06" {
			if _, before := results["04"]; !before {
				t.Errorf("%s comes before 04", r.Task)
			}
		}
		results[r.Task] = r
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(results) != len(tasks) {
		t.Errorf("%d results of %d tasks", len(results), len(tasks))
	}
	reasons := map[string]string{}
	for id, r := range results {
		if r.State != StateDone {
			reasons[id] = r.Reason
		}
	}
	want := map[string]string{
		"10": "is bad", "11": "what it needs was not made: is bad",
		"20": "it needs 101 bytes of the work directory: --disk allows 100",
		"21": "it needs about 101 bytes of memory: --memory allows 100", "22": "what it needs was not made: it needs about 101 bytes of memory: --memory allows 100",
	}
	if !reflect.DeepEqual(reasons, want) {
		t.Errorf("got %q, want %q", reasons, want)
	}
	if g.mostJobs > 4 || g.most.Disk > 100 || g.most.Memory > 100 {
		t.Errorf("%d jobs, %+v at once", g.mostJobs, g.most)
	}
	if g.mostJobs < 2 {
		t.Errorf("%d jobs at once: want several", g.mostJobs)
	}
	g = new(gauge)
	if err := (&Local{Jobs: 1, Do: g.do}).Execute(t.Context(), tasks[:10], func(Result) error { return nil }); err != nil || !slices.IsSorted(g.order) {
		t.Errorf("%v, in order %v", err, g.order)
	}
}

// TestLocalStops ends with the error of the report, and with the context, when
// what runs has ended.
func TestLocalStops(t *testing.T) {
	var tasks []Task
	for i := range 10 {
		tasks = append(tasks, Task{ID: fmt.Sprint(i), Kind: KindMake})
	}
	g := new(gauge)
	stop := errors.New("stop")
	err := (&Local{Jobs: 2, Do: g.do}).Execute(t.Context(), tasks, func(Result) error { return stop })
	if !errors.Is(err, stop) || len(g.order) > 3 || g.jobs != 0 {
		t.Errorf("%v, %d tasks, %d run on", err, len(g.order), g.jobs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g, n := new(gauge), 0
	err = (&Local{Jobs: 1, Do: g.do}).Execute(ctx, tasks, func(Result) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(g.order) != 3 {
		t.Errorf("%v, %d tasks", err, len(g.order))
	}
	round := []Task{{ID: "a", After: "b"}, {ID: "b", After: "a"}}
	if err := (&Local{Do: g.do}).Execute(t.Context(), round, func(Result) error { return nil }); err == nil {
		t.Error("tasks that wait for each other are done")
	}
}

// TestTaskIsData sends tasks and results through JSON, as another executor does.
func TestTaskIsData(t *testing.T) {
	kld := 0.25
	task := Task{
		ID: "id", Kind: KindMake, Model: "m", Source: "hf://org/name", Commit: "c", Folder: "f", Needs: Needs{1, 2}, After: "x",
		Calibration: &Calibration{1, "s", "c", "t", 2, 3}, Measurement: &Measurement{1, Calibration{1, "s", "c", "t", 2, 3}, 4, 5, 6}, Losses: "imatrix/x/y.losses.json",
		Variant: "Q4_0", Type: "Q4_0", Recipe: "type = \"Q8_0\"", Imatrix: "imatrix/x/imatrix.gguf",
		Gates: Gates{MaxSize: 4, MaxKLD: &kld, Text: "sha256:0", Canaries: "sha256:1", Chunks: 5, Ctx: 6}, Channel: "stable",
		Inputs: &Inputs{Makes: 1, Source: "s"}, Size: 7,
	}
	data, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	var back Task
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, task) {
		t.Errorf("got %+v, %v", back, err)
	}
	for i := range reflect.TypeFor[Task]().NumField() {
		if reflect.ValueOf(task).Field(i).IsZero() {
			t.Errorf("field %s is not tried", reflect.TypeFor[Task]().Field(i).Name)
		}
	}
	if r, err := back.recipe(); err != nil || r.Preset != "Q8_0" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestIdentity tells inputs apart by everything that decides about a variant.
func TestIdentity(t *testing.T) {
	a, b := 0.1, 0.2
	base := Inputs{Makes: 1, Source: "hf://a/b", Commit: "c", Variant: "Q8_0", Recipe: "r", Gates: Gates{MaxKLD: &a, Chunks: 1, Ctx: 8}}
	seen := map[string]int{base.ID(): -1}
	for i, change := range []func(*Inputs){
		func(in *Inputs) { in.Makes++ }, func(in *Inputs) { in.Tool = "v2" }, func(in *Inputs) { in.Source = "x" },
		func(in *Inputs) { in.Model = "other" },
		func(in *Inputs) { in.Commit = "d" }, func(in *Inputs) { in.Variant = "F16" }, func(in *Inputs) { in.Recipe = "s" },
		func(in *Inputs) { in.Imatrix = "auto:1" }, func(in *Inputs) { in.Losses = "auto:1" }, func(in *Inputs) { in.Gates.MaxKLD = &b }, func(in *Inputs) { in.Gates.MaxKLD = nil },
		func(in *Inputs) { in.Gates.MinTop1 = &a }, func(in *Inputs) { in.Gates.MaxPPL = &a }, func(in *Inputs) { in.Gates.MaxSize = 1 },
		func(in *Inputs) { in.Gates.Text = "t" }, func(in *Inputs) { in.Gates.Canaries = "t" }, func(in *Inputs) { in.Gates.Chunks = 2 }, func(in *Inputs) { in.Gates.Ctx = 9 },
	} {
		in := base
		change(&in)
		if j, same := seen[in.ID()]; same {
			t.Errorf("change %d is as %d", i, j)
		}
		seen[in.ID()] = i
	}
	same := 0.1
	again := base
	again.Gates.MaxKLD = &same
	if again.ID() != base.ID() {
		t.Error("equal inputs are told apart")
	}
}
