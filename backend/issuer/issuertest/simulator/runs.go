package simulator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A Run is one run of the command, as the command reported it.
type Run struct {
	ID         int       `json:"id"`
	Argv       []string  `json:"argv"`
	Env        []string  `json:"env"`  // NAME=value
	Pids       []int     `json:"pids"` // of the command and of the process that it started
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended,omitzero"` // zero: still running
	Exit       int       `json:"exit"`           // -1: still running, or killed
	Violations []string  `json:"violations,omitempty"`
}

// A runLog records runs. It uses the real clock.
type runLog struct {
	mu         sync.Mutex // guards the fields below and the runs
	last       int
	runs       []*Run // by ID
	running    int
	peak       int
	violations []string
}

func (l *runLog) start(r Run) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	r.ID, r.Exit, r.Started = l.last, -1, time.Now()
	l.runs = append(l.runs, &r)
	l.running++
	l.peak = max(l.peak, l.running)
	for _, v := range r.Violations {
		l.violations = append(l.violations, fmt.Sprintf("run %d: %s", r.ID, v))
	}
	return r.ID
}

// end records the end of a run. For a run that is not killed it is called twice:
// by the report of the command, and when its connection closes.
func (l *runLog) end(id, exit int) {
	l.update(id, func(r *Run) {
		if r.Ended.IsZero() {
			r.Ended, r.Exit = time.Now(), exit
			l.running--
		}
	})
}

// update calls change with the run id, unless ResetRuns has removed it.
func (l *runLog) update(id int, change func(*Run)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := slices.BinarySearchFunc(l.runs, id, func(r *Run, id int) int { return r.ID - id })
	if ok {
		change(l.runs[i])
	}
}

// Runs returns the runs of the command since the start or the last ResetRuns.
func (c *Cluster) Runs() []Run {
	l := &c.runs
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Run, 0, len(l.runs))
	for _, r := range l.runs {
		run := *r
		run.Pids = slices.Clone(r.Pids)
		all = append(all, run)
	}
	return all
}

// Running returns how many processes of the command run now.
func (c *Cluster) Running() int {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return c.runs.running
}

// Peak returns the largest number of processes of the command at the same time.
func (c *Cluster) Peak() int {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return c.runs.peak
}

// ResetRuns removes the runs that have ended, and resets the peak.
func (c *Cluster) ResetRuns() {
	l := &c.runs
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = slices.DeleteFunc(l.runs, func(r *Run) bool { return !r.Ended.IsZero() })
	l.peak = l.running
}

// Violations returns what callers of the command did wrong since the start. It
// contains IDs of tokens, and no secrets.
func (c *Cluster) Violations() []string {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return slices.Clone(c.runs.violations)
}

// A runReport is the first request of a run.
type runReport struct {
	Argv       []string `json:"argv"`
	Env        []string `json:"env"`
	Pid        int      `json:"pid"`
	Violations []string `json:"violations"`
}

// A runAnswer lets the command continue if there are no violations.
type runAnswer struct {
	Run        int      `json:"run"`
	Violations []string `json:"violations"`
}

// startRun records a run and keeps its connection open, so that the cluster
// notices when the process is killed. It hijacks the connection, so that the
// server can be closed while processes still run.
func (c *Cluster) startRun(w http.ResponseWriter, r *http.Request) {
	var report runReport
	if !readJSON(w, r, &report) {
		return
	}
	report.Violations = append(report.Violations, c.secretViolations(report)...)
	id := c.runs.start(Run{
		Argv:       report.Argv,
		Env:        report.Env,
		Pids:       []int{report.Pid},
		Violations: report.Violations,
	})
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		c.runs.end(id, -1)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	go func() {
		defer conn.Close()
		defer c.runs.end(id, -1)
		answerRun(rw.Writer, runAnswer{Run: id, Violations: report.Violations})
		io.Copy(io.Discard, rw.Reader) // returns when the process has ended
	}()
}

// answerRun writes an HTTP answer whose end is that of the connection.
func answerRun(w *bufio.Writer, answer runAnswer) {
	io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
	json.NewEncoder(w).Encode(answer)
	w.Flush()
}
