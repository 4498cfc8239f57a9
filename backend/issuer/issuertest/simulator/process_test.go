package simulator_test

import (
	"bufio"
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// These tests start the test binary as influxctl.

func TestProcess_IsRecorded(t *testing.T) {
	r := newRig(t)
	cmd := r.command("management", "create", "--description=d", "--expires-at="+future)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if secret := r.described("d").Secret; !strings.Contains(stdout.String(), secret) {
		t.Errorf("standard output lacks the token: %s", stdout.String())
	}
	runs := r.Runs()
	if len(runs) != 1 {
		t.Fatalf("%d runs", len(runs))
	}
	run := runs[0]
	if run.Pids[0] != cmd.Process.Pid || run.Exit != 0 || run.Ended.Before(run.Started) {
		t.Errorf("%+v", run)
	}
	if strings.Join(run.Argv, " ") != strings.Join(cmd.Args, " ") || strings.Join(run.Env, " ") != strings.Join(cmd.Env, " ") {
		t.Errorf("argv %q, env %q", run.Argv, run.Env)
	}
}

func TestProcess_FindsSidecarByFirstArgument(t *testing.T) {
	r := newRig(t)
	other := newRigWith(t, simulator.Sidecar{Version: "2.10.0"})
	cmd := r.command("version")
	cmd.Args[0] = other.path
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "2.10.0") {
		t.Errorf("%s, %v", out, err)
	}
}

// A person types influxctl, and the shell finds it on PATH.
func TestProcess_FindsSidecarOnPath(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Version: "2.10.0"})
	cmd := r.command("version")
	cmd.Args[0] = "influxctl"
	cmd.Env = append(cmd.Env, "PATH="+r.dir)
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "2.10.0") {
		t.Errorf("%s, %v", out, err)
	}
}

func TestProcess_KilledAfterCommit(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{Create: simulator.Fault{Die: simulator.DieKilled}})
	out, err := r.command("management", "create", "--description=d").CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || len(out) > 0 {
		t.Errorf("%v, %q", err, out)
	}
	if !r.described("d").Live {
		t.Error("no token was created")
	}
	eventually(t, "the cluster notices the end", func() bool { return r.Running() == 0 })
	if run := r.Runs()[0]; run.Exit != -1 || run.Ended.IsZero() {
		t.Errorf("%+v", run)
	}
}

func TestProcess_Panics(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{List: simulator.Fault{Die: simulator.DiePanic}})
	out, err := r.command("management", "list").CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 2 || !strings.Contains(string(out), "goroutine 1 [running]") {
		t.Errorf("%v, %q", err, out)
	}
}

func TestProcess_HangsBeforeOrAfterCommit(t *testing.T) {
	for when, made := range map[simulator.When]int{simulator.Before: 0, simulator.After: 1} {
		r := newRig(t)
		r.SetFaults(simulator.Faults{Create: simulator.Fault{Hang: when, Grandchild: true}})
		hang(t, r, r.command("--timeout", "10s", "management", "create", "--description=d"))
		if n := len(r.Tokens()) - 1; n != made {
			t.Errorf("%s: %d tokens created, want %d", when, n, made)
		}
	}
}

// hang starts cmd and checks that it hangs, with a process that keeps its output
// open. It kills both and checks that the cluster notices.
func hang(t *testing.T, r *rig, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is reported", func() bool {
		runs := r.Runs()
		return len(runs) == 1 && len(runs[0].Pids) == 2
	})
	if r.Running() != 1 {
		t.Error("the process does not hang")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster notices the end", func() bool { return r.Running() == 0 })
	grandchild := r.Runs()[0].Pids[1]
	if err := syscall.Kill(grandchild, 0); err != nil {
		t.Errorf("the grandchild has ended with its parent: %v", err)
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Errorf("the grandchild is not in its parent's group: %v", err)
	}
	if _, err := bufio.NewReader(stdout).ReadByte(); err == nil {
		t.Error("there is output")
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended well")
	}
}

func TestPeak_CountsProcesses(t *testing.T) {
	r := newRig(t)
	r.run("version")
	r.run("version")
	if r.Peak() != 1 {
		t.Errorf("two runs in a row give a peak of %d", r.Peak())
	}
	r.SetFaults(simulator.Faults{List: simulator.Fault{Hang: simulator.Before}})
	for range 3 {
		cmd := r.command("management", "list")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
	eventually(t, "three processes run", func() bool { return r.Running() == 3 })
	r.ResetRuns()
	if got := len(r.Runs()); r.Peak() != 3 || got != 3 {
		t.Errorf("peak %d, %d runs are left after a reset", r.Peak(), got)
	}
}
