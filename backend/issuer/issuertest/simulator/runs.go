package simulator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Run is one start of the CLI, as it reported itself before it did anything.
type Run struct {
	ID         int       `json:"id"`
	Argv       []string  `json:"argv"`
	Env        []string  `json:"env"`  // NAME=value
	Pids       []int     `json:"pids"` // its own and its children's
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended,omitzero"` // zero: still running
	Exit       int       `json:"exit"`           // -1: running, or killed
	Violations []string  `json:"violations,omitempty"`
}

// A runLog remembers runs. Its clock is the real one.
type runLog struct {
	mu         sync.Mutex // guards what follows, the runs included
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

// end is told twice of a run that exits in good order.
func (l *runLog) end(id, exit int) {
	l.update(id, func(r *Run) {
		if r.Ended.IsZero() {
			r.Ended, r.Exit = time.Now(), exit
			l.running--
		}
	})
}

// update changes the run id, if it was not forgotten meanwhile.
func (l *runLog) update(id int, change func(*Run)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := slices.BinarySearchFunc(l.runs, id, func(r *Run, id int) int { return r.ID - id })
	if ok {
		change(l.runs[i])
	}
}

// Runs returns the CLI's runs since the start or the last ResetRuns.
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

// Running is the number of CLI processes that run now.
func (c *Cluster) Running() int {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return c.runs.running
}

// Peak is the largest number of CLI processes that ran at once.
func (c *Cluster) Peak() int {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return c.runs.peak
}

// ResetRuns forgets the runs that have ended, and the peak.
func (c *Cluster) ResetRuns() {
	l := &c.runs
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs = slices.DeleteFunc(l.runs, func(r *Run) bool { return !r.Ended.IsZero() })
	l.peak = l.running
}

// Violations tells what a well-behaved caller of the CLI would not have done,
// since the start. It names tokens by ID.
func (c *Cluster) Violations() []string {
	c.runs.mu.Lock()
	defer c.runs.mu.Unlock()
	return slices.Clone(c.runs.violations)
}

// A runReport is what the CLI tells the cluster first.
type runReport struct {
	Argv       []string `json:"argv"`
	Env        []string `json:"env"`
	Pid        int      `json:"pid"`
	Violations []string `json:"violations"`
}

// A runAnswer lets the CLI go on, unless there are violations.
type runAnswer struct {
	Run        int      `json:"run"`
	Violations []string `json:"violations"`
}

// startRun records a run and keeps its connection: a process that is killed
// tells of its end by closing it. The connection is taken away from the server,
// which can be shut down while processes are still there.
func (c *Cluster) startRun(w http.ResponseWriter, r *http.Request) {
	var report runReport
	if !readJSON(w, r, &report) {
		return
	}
	report.Violations = append(report.Violations, c.leakViolations(report)...)
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
		io.Copy(io.Discard, rw.Reader) // returns when the process is gone
	}()
}

// answerRun writes an HTTP answer that ends with the connection.
func answerRun(w *bufio.Writer, answer runAnswer) {
	io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n")
	json.NewEncoder(w).Encode(answer)
	w.Flush()
}

// leakViolations looks for secrets where a process shows them to others.
func (c *Cluster) leakViolations(report runReport) []string {
	var found []string
	for _, id := range c.leaks(strings.Join(report.Argv, "\x00")) {
		found = append(found, "the secret of token "+id+" stands in the arguments")
	}
	for _, variable := range report.Env {
		name, _, _ := strings.Cut(variable, "=")
		for _, id := range c.leaks(variable) {
			found = append(found, "the secret of token "+id+" stands in the environment variable "+name)
		}
	}
	return found
}
