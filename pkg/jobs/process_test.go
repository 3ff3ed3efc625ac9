package jobs_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/killtest"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/style"
)

// childEnv makes the test binary a server of the jobs of the place it names.
const childEnv = "LIKENESS_TEST_JOBS_OF"

func TestMain(m *testing.M) {
	if place := os.Getenv(childEnv); place != "" {
		serve(place)
		return
	}
	orttest.SkipExamples()
	goleak.VerifyTestMain(pgtest.M{M: m})
}

// serve works on jobs until it is killed. Before each iteration it prints
// which, and waits for a line.
func serve(place string) {
	in := bufio.NewScanner(os.Stdin)
	s, err := open(context.Background(), place, jobs.Options{
		Beat: 50 * time.Millisecond, Nice: 1,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Transferrer: walker{step: func(_ context.Context, _ style.Task, iteration int) error {
			fmt.Println(iteration)
			in.Scan()
			return nil
		}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.Start()
	select {}
}

// child is such a server.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *bufio.Scanner
	in    io.Writer
	log   *lines
	ended bool
}

func start(t *testing.T, place string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0]), log: &lines{}}
	c.cmd.Env = append(os.Environ(), childEnv+"="+place)
	c.cmd.Stderr = c.log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.out = bufio.NewScanner(out)
	return c
}

// runUntil lets the child go on until it is about to make an iteration.
func (c *child) runUntil(iteration int) {
	c.t.Helper()
	for c.out.Scan() {
		if c.out.Text() == fmt.Sprint(iteration) {
			return
		}
		c.step()
	}
	c.t.Fatalf("the child ended:\n%s", c.log)
}

func (c *child) step() {
	c.t.Helper()
	if _, err := io.WriteString(c.in, "\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) kill() {
	if !c.ended {
		c.ended = true
		_ = c.cmd.Process.Kill() // it may have ended already
		_ = c.cmd.Wait()         // killed, which it says
	}
}

// TestKill kills a server in the middle of a job; the next one finishes it,
// with the picture that it would have had.
func TestKill(t *testing.T) {
	t.Parallel()
	for name, place := range places() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			place := place(t)
			kills := 0
			for n := killtest.Kills(t, 3); kills < n; {
				o, _ := options()
				front, err := open(t.Context(), place, o)
				if err != nil {
					t.Fatal(err)
				}
				r := request(40)
				j := submit(t, front, r)
				if err := front.Close(); err != nil {
					t.Fatal(err)
				}
				for kill, at := range []int{15, 17, 29} {
					c := start(t, place)
					c.runUntil(at)
					c.kill()
					if from := []string{"", "iteration=10 ", "iteration=10 "}[kill]; from != "" && !strings.Contains(c.log.String(), "resumed\" job_id="+j.ID+" "+from) {
						t.Errorf("the server after kill %d did not resume at %s:\n%s", kill, from, c.log)
					}
					kills++
				}
				o, log := options()
				s := openAndStart(t, place, o)
				awaitState(t, s, j, jobs.Succeeded)
				checkPicture(t, s, j, r)
				if !strings.Contains(log.String(), `resumed" job_id=`+j.ID+` iteration=20 `) {
					t.Errorf("not resumed from 20:\n%s", log)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			t.Logf("%d kills: %d pictures were asked for, all were made", kills, kills/3)
		})
	}
}

// TestPoison: a job that kills each worker before its first checkpoint is
// given up.
func TestPoison(t *testing.T) {
	t.Parallel()
	place := filepath.Join(t.TempDir(), "jobs.db")
	o, _ := options()
	front, err := open(t.Context(), place, o)
	if err != nil {
		t.Fatal(err)
	}
	j := submit(t, front, request(40))
	if err := front.Close(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		c := start(t, place)
		c.runUntil(2)
		c.kill()
	}
	s := openUntilEnd(t, place, o)
	if got, err := s.Job(t.Context(), tenant, j.ID); err != nil || got.State != jobs.Failed || got.Problem.Code != "internal" {
		t.Errorf("after five deaths: %+v, %v", got, err)
	}
}

// TestTwoServers kills one of two servers in the middle of twenty jobs.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	place := pgtest.Database(t, migrate)
	o, log := options()
	o.PerTenant = 2
	s := openUntilEnd(t, place, o)
	var all []jobs.Job
	for i := range 20 {
		r := request(12)
		r.Params.Seed = uint64(i)
		all = append(all, submit(t, s, r))
	}
	c := start(t, place)
	c.runUntil(5)
	s.Start()
	awaitState(t, s, all[1], jobs.Succeeded)
	c.kill()
	for i, j := range all {
		awaitState(t, s, j, jobs.Succeeded)
		r := request(12)
		r.Params.Seed = uint64(i)
		checkPicture(t, s, j, r)
		if n := strings.Count(log.String()+c.log.String(), "style job left\" job_id="+j.ID); n != 1 {
			t.Errorf("job %d ended %d times", i, n)
		}
	}
	if !strings.Contains(log.String(), "lost its worker") {
		t.Error("nobody noticed the death")
	}
}

// TestZombie: a server that was taken for dead and is not writes nothing.
func TestZombie(t *testing.T) {
	t.Parallel()
	place := pgtest.Database(t, migrate)
	o, _ := options()
	s := openUntilEnd(t, place, o)
	r := request(12)
	j := submit(t, s, r)
	c := start(t, place)
	c.runUntil(12)
	if err := c.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.Start()
	done := awaitState(t, s, j, jobs.Succeeded)
	if err := c.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.step()
	awaitLog(t, c.log, "another worker's by now")
	if now, err := s.Job(t.Context(), tenant, j.ID); err != nil || now.FinishedAt != done.FinishedAt {
		t.Errorf("the zombie changed it: %+v, %v", now, err)
	}
	checkPicture(t, s, j, r)
}
