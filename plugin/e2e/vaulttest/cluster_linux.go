package vaulttest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Cluster is a Vault of three nodes on raft storage. The nodes share one
// folder of plugins and one audit log, because all of them run on this machine.
// Every node forwards requests to the active one, so that a test may use any.
type Cluster struct {
	Nodes []*Server
	down  map[*Server]bool // killed, and not started again
}

// StartCluster runs a cluster of three nodes until the test ends, initialized,
// unsealed and with an audit log. The settings are added to the configuration of
// each node. The logs are checked as [Start] does.
func StartCluster(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	dir := t.TempDir()
	c := &Cluster{down: map[*Server]bool{}}
	var addresses [3][2]string
	for i := range addresses {
		addresses[i] = nodeAddresses(t)
		c.Nodes = append(c.Nodes, newServer(t, filepath.Join(dir, nodeName(i))))
	}
	first := c.Nodes[0]
	for i, node := range c.Nodes {
		node.Bin, node.Plugins, node.secrets = filepath.Join(dir, "bin"), filepath.Join(dir, "plugins"), first.secrets
		node.Logs[1] = filepath.Join(dir, "audit.log")
		var join strings.Builder
		for other := range addresses {
			if other != i {
				fmt.Fprintf(&join, "retry_join { leader_api_addr = %q }\n", "http://"+addresses[other][0])
			}
		}
		node.configure(t, nodeName(i), addresses[i], join.String(), settings...)
	}
	first.install(t)
	t.Cleanup(func() { c.end(t) })
	for _, node := range c.Nodes {
		node.Run(t)
	}
	first.initialize(t)
	first.Unseal(t)
	first.enableAudit(t)
	// A node gets its vote when it has been stable for this long, 10 s by default.
	must(t, first.Call(t.Context(), "POST", "sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "1s"}, nil))
	for _, node := range c.Nodes[1:] {
		node.Token, node.key = first.Token, first.key
		node.unseal(t)
	}
	must(t, Eventually(t.Context(), startTime, func() error { return c.haveAllVotes(t.Context()) }))
	return c
}

func nodeName(i int) string { return "node-" + strconv.Itoa(i+1) }

// haveAllVotes fails until all nodes are voters. A node that has just joined has
// no vote, and until it has one the cluster cannot lose its leader.
func (c *Cluster) haveAllVotes(ctx context.Context) error {
	var answer struct {
		Data struct {
			Config struct {
				Servers []struct {
					Voter bool `json:"voter"`
				} `json:"servers"`
			} `json:"config"`
		} `json:"data"`
	}
	if err := c.Nodes[0].Call(ctx, "GET", "sys/storage/raft/configuration", nil, &answer); err != nil {
		return err
	}
	voters := 0
	for _, server := range answer.Data.Config.Servers {
		if server.Voter {
			voters++
		}
	}
	if voters < len(c.Nodes) {
		return fmt.Errorf("%d of %d nodes are voters", voters, len(c.Nodes))
	}
	return nil
}

// end stops all nodes and the plugins that they may have left behind, and checks
// the logs.
func (c *Cluster) end(t testing.TB) {
	var logs []string
	for _, node := range c.Nodes {
		if node.run != nil && !c.down[node] {
			node.End()
		}
		logs = append(logs, node.Logs[0])
	}
	for _, p := range Processes() {
		if filepath.Dir(p.Program) == c.Nodes[0].Plugins {
			Kill(p)
		}
	}
	checkLogs(t, append(logs, c.Nodes[0].Logs[1]), c.Nodes[0].secrets.all())
}

// Leader returns the active node. It is an error if there is none, or two: a
// node that was paused takes itself for the leader until it notices.
func (c *Cluster) Leader(ctx context.Context) (*Server, error) {
	var active []*Server
	for _, node := range c.Nodes {
		if c.down[node] {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second) // a paused node does not answer
		if node.Call(ctx, "GET", "sys/health", nil, nil) == nil {
			active = append(active, node)
		}
		cancel()
	}
	if len(active) != 1 {
		return nil, fmt.Errorf("%d nodes say that they are active", len(active))
	}
	return active[0], nil
}

// AwaitLeader waits until a node is active that is none of the others, and
// returns it.
func (c *Cluster) AwaitLeader(t testing.TB, others ...*Server) (leader *Server) {
	t.Helper()
	must(t, Eventually(t.Context(), time.Minute, func() (err error) {
		leader, err = c.Leader(t.Context())
		for _, other := range others {
			if err == nil && leader == other {
				err = errors.New("the leader has not changed")
			}
		}
		return err
	}))
	return leader
}

// Standbys returns the nodes that run and are not the leader.
func (c *Cluster) Standbys(leader *Server) (standbys []*Server) {
	for _, node := range c.Nodes {
		if node != leader && !c.down[node] {
			standbys = append(standbys, node)
		}
	}
	return standbys
}

// StepDown makes the leader give up its leadership and waits for another leader.
// The former one does not stand for election for ten seconds.
func (c *Cluster) StepDown(t testing.TB) (leader *Server) {
	t.Helper()
	former := c.AwaitLeader(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, former.Call(ctx, "PUT", "sys/step-down", nil, nil))
	return c.AwaitLeader(t, former)
}

// Kill stops a node by SIGKILL.
func (c *Cluster) Kill(node *Server) {
	c.down[node] = true
	node.Kill()
}

// Restart starts nodes that were killed, and waits until they serve.
func (c *Cluster) Restart(t testing.TB, nodes ...*Server) {
	t.Helper()
	for _, node := range nodes {
		node.Run(t)
		delete(c.down, node)
	}
	for _, node := range nodes {
		node.unseal(t)
	}
	for _, node := range nodes {
		must(t, Eventually(t.Context(), startTime, func() error {
			return node.Call(t.Context(), "GET", "sys/health?standbyok=true", nil, nil)
		}))
	}
}

// Process returns the process of a node that runs.
func (s *Server) Process(t testing.TB) (found Process) {
	t.Helper()
	must(t, Eventually(t.Context(), 10*time.Second, func() error {
		p, ok := s.process(Processes())
		if !ok {
			return errors.New("the server does not run")
		}
		found = p
		return nil
	}))
	return found
}

// stopsWithStdin stops a process by SIGSTOP until standard input ends.
const stopsWithStdin = `kill -STOP "$0" && echo stopped; read -r _; kill -CONT "$0"`

// Pause stops a process by SIGSTOP. It goes on when resume is called, when the
// test ends, or when the test process dies. Pause fails if the process has ended.
func Pause(t testing.TB, p Process) (resume func(), err error) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", stopsWithStdin, strconv.Itoa(p.PID))
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	resume = sync.OnceFunc(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // fails if the process has been killed meanwhile
	})
	t.Cleanup(resume)
	if _, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		return resume, fmt.Errorf("pause process %d (%s): %w", p.PID, p.Program, err)
	}
	return resume, nil
}

// IsUnavailable reports whether an error of [Server.Call] is what clients see
// while the leader changes: no answer, or a status of 500 or above.
func IsUnavailable(err error) bool {
	answer, ok := errors.AsType[*StatusError](err)
	return err != nil && (!ok || answer.Code >= http.StatusInternalServerError)
}

// CLIProcesses returns the processes that the plugins of the nodes have started
// and that run now: the node by process ID.
func (c *Cluster) CLIProcesses() map[int]*Server {
	all := Processes()
	nodes, plugins := map[int]*Server{}, map[int]*Server{}
	for _, node := range c.Nodes {
		if p, ok := node.process(all); ok {
			nodes[p.PID] = node
		}
	}
	for _, p := range all {
		if node, ok := nodes[p.Parent]; ok && filepath.Dir(p.Program) == node.Plugins {
			plugins[p.PID] = node
		}
	}
	found := map[int]*Server{}
	for _, p := range all {
		if node, ok := plugins[p.Parent]; ok {
			found[p.PID] = node
		}
	}
	return found
}
